//! What another process sees of a process.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// One line of /proc/PID/maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) permissions: String,
    pub(crate) inode: u64,
    pub(crate) name: String,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut rest = line;
        let mut next = || {
            let (field, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = tail.trim_start();
            field
        };
        let (start, end) = next().split_once('-')?;
        let permissions = next().to_owned();
        let (_offset, _device) = (next(), next());
        let inode = next().parse().ok()?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            permissions,
            inode,
            name: rest.to_owned(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Whether the kernel says that this is memfd_secret memory.
    pub(crate) fn is_secret(&self) -> bool {
        self.name.contains("secretmem")
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.permissions.starts_with('r')
    }
}

/// Where something was found.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) address: u64,
    pub(crate) place: String,
}

/// The view of a process from another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outside {
    pid: i32,
}

const PAGE: usize = 4096;
const STEP: usize = 1 << 20;

impl Outside {
    pub(crate) fn of(pid: i32) -> Self {
        Self { pid }
    }

    /// The process's mappings, as the kernel lists them.
    pub(crate) fn mappings(&self) -> Vec<Mapping> {
        let text = std::fs::read(format!("/proc/{}/maps", self.pid)).expect("/proc/PID/maps");
        String::from_utf8_lossy(&text)
            .lines()
            .filter_map(Mapping::parse)
            .collect()
    }

    /// The mapping that holds an address.
    #[track_caller]
    pub(crate) fn mapping_at(&self, address: u64) -> Mapping {
        self.mappings()
            .into_iter()
            .find(|mapping| mapping.contains(address))
            .unwrap_or_else(|| panic!("process {} has nothing mapped at {address:#x}", self.pid))
    }

    /// A field of /proc/PID/status in its own unit, such as `VmRSS` in KiB.
    pub(crate) fn status(&self, field: &str) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// What one byte at an address gives through /proc/PID/mem.
    pub(crate) fn peek(&self, address: u64) -> io::Result<u8> {
        let mut byte = [0];
        self.mem().read_exact_at(&mut byte, address)?;
        Ok(byte[0])
    }

    fn mem(&self) -> File {
        File::open(format!("/proc/{}/mem", self.pid)).expect("/proc/PID/mem, as root")
    }

    /// Everything that /proc/PID/mem gives, mapping by mapping, in runs of readable pages.
    pub(crate) fn reachable_by_mem(&self) -> Vec<(u64, String, Vec<u8>)> {
        let mem = self.mem();
        self.reachable(|address, into| mem.read_at(into, address).unwrap_or(0))
    }

    /// Everything that process_vm_readv gives.
    pub(crate) fn reachable_by_vm_readv(&self) -> Vec<(u64, String, Vec<u8>)> {
        self.reachable(|address, into| {
            let local = libc::iovec {
                iov_base: into.as_mut_ptr().cast(),
                iov_len: into.len(),
            };
            let remote = libc::iovec {
                iov_base: address as *mut _,
                iov_len: into.len(),
            };
            // SAFETY: `local` describes `into`, which is writable for its whole
            // length; the remote addresses are the kernel's to check.
            let n = unsafe { libc::process_vm_readv(self.pid, &local, 1, &remote, 1, 0) };
            usize::try_from(n).unwrap_or(0)
        })
    }

    fn reachable(&self, read: impl Fn(u64, &mut [u8]) -> usize) -> Vec<(u64, String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut buffer = vec![0; STEP];
        for mapping in self.mappings() {
            // [vvar] and the like cannot be read by anyone; what has no `r` is
            // still tried, because ptrace access ignores page permissions.
            let mut run: Option<(u64, Vec<u8>)> = None;
            let mut at = mapping.start;
            while at < mapping.end {
                let want = usize::try_from(mapping.end - at).unwrap_or(STEP).min(STEP);
                let got = read(at, &mut buffer[..want]);
                if got > 0 {
                    run.get_or_insert((at, Vec::new()))
                        .1
                        .extend_from_slice(&buffer[..got]);
                    at += got as u64;
                } else {
                    found.extend(
                        run.take()
                            .map(|(start, bytes)| (start, mapping.name.clone(), bytes)),
                    );
                    at = (at / PAGE as u64 + 1) * PAGE as u64;
                }
            }
            found.extend(run.map(|(start, bytes)| (start, mapping.name, bytes)));
        }
        found
    }

    /// Where /proc/PID/mem shows the bytes.
    pub(crate) fn by_mem(&self, needle: &[u8]) -> Vec<Hit> {
        hits(self.reachable_by_mem(), needle)
    }

    /// Where process_vm_readv shows the bytes.
    pub(crate) fn by_vm_readv(&self, needle: &[u8]) -> Vec<Hit> {
        hits(self.reachable_by_vm_readv(), needle)
    }

    /// Where the bytes show after taking over each of the process's descriptors
    /// (pidfd_getfd) and mapping those that can be mapped.
    pub(crate) fn by_stolen_fds(&self, needle: &[u8]) -> Vec<Hit> {
        let mut found = Vec::new();
        for (number, fd) in self.stolen_fds() {
            if let Some(view) = View::of(&fd) {
                found.extend(positions(view.bytes(), needle).map(|at| Hit {
                    address: at as u64,
                    place: format!("descriptor {number}"),
                }));
            }
        }
        found
    }

    /// Every descriptor of the process that pidfd_getfd hands over, with its number there.
    pub(crate) fn stolen_fds(&self) -> Vec<(i32, OwnedFd)> {
        let Some(pidfd) = new_fd(|| {
            // SAFETY: pidfd_open takes no pointer.
            unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) }
        }) else {
            return Vec::new();
        };
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| {
                let number: i32 = entry.file_name().to_str()?.parse().ok()?;
                let fd = new_fd(|| {
                    // SAFETY: pidfd_getfd takes no pointer.
                    unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) }
                })?;
                Some((number, fd))
            })
            .collect()
    }
}

fn new_fd(call: impl FnOnce() -> libc::c_long) -> Option<OwnedFd> {
    let fd = i32::try_from(call()).ok().filter(|&fd| fd >= 0)?;
    // SAFETY: the kernel has just made this descriptor and nobody else knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A file mapped for reading.
struct View {
    start: *mut libc::c_void,
    length: usize,
}

impl View {
    fn of(fd: &OwnedFd) -> Option<Self> {
        let file = File::from(fd.try_clone().ok()?);
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() == 0 {
            return None;
        }
        let length = usize::try_from(metadata.len()).ok()?;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        (start != libc::MAP_FAILED).then_some(Self { start, length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `length` bytes and lives as long as `self`. The
        // files in question are not truncated while a test looks at them, and
        // that another process may write to them only blurs the search.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: `of` mapped exactly this range and `bytes` borrows from `self`.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// All that can be read of a process, read once to be searched for many things.
pub(crate) struct Memory(Vec<(u64, String, Vec<u8>)>);

impl Memory {
    /// Through /proc/PID/mem.
    pub(crate) fn by_mem(pid: i32) -> Self {
        Self(Outside::of(pid).reachable_by_mem())
    }

    pub(crate) fn holds(&self, needle: &[u8]) -> bool {
        self.0
            .iter()
            .any(|(_, _, bytes)| positions(bytes, needle).next().is_some())
    }
}

fn hits(places: Vec<(u64, String, Vec<u8>)>, needle: &[u8]) -> Vec<Hit> {
    places
        .iter()
        .flat_map(|(start, name, bytes)| {
            positions(bytes, needle).map(move |at| Hit {
                address: start + at as u64,
                place: name.clone(),
            })
        })
        .collect()
}

/// Where `needle` is in `haystack`.
pub(crate) fn positions<'a>(
    haystack: &'a [u8],
    needle: &'a [u8],
) -> impl Iterator<Item = usize> + 'a {
    assert!(
        needle.len() >= 8,
        "a needle of {} bytes is found by accident",
        needle.len()
    );
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = haystack.get(from..)?;
        // SAFETY: both pointers are valid for the lengths given with them.
        let at = unsafe {
            libc::memmem(
                rest.as_ptr().cast(),
                rest.len(),
                needle.as_ptr().cast(),
                needle.len(),
            )
        };
        if at.is_null() {
            return None;
        }
        let position = at as usize - haystack.as_ptr() as usize;
        from = position + 1;
        Some(position)
    })
}

/// How often `needle` is in `haystack`.
pub(crate) fn count(haystack: &[u8], needle: &[u8]) -> usize {
    positions(haystack, needle).count()
}

/// Whether this kernel lets this user have memfd_secret memory, tried by having some.
pub(crate) fn secret_memory_works() -> Result<(), String> {
    const SYS_MEMFD_SECRET: libc::c_long = 447;
    let fd = new_fd(|| {
        // SAFETY: memfd_secret takes no pointer.
        unsafe { libc::syscall(SYS_MEMFD_SECRET, libc::O_CLOEXEC) }
    })
    .ok_or_else(|| format!("no memfd_secret here: {}", io::Error::last_os_error()))?;
    File::from(fd.try_clone().map_err(|e| e.to_string())?)
        .set_len(PAGE as u64)
        .map_err(|e| format!("memfd_secret without a size: {e}"))?;
    View::of(&fd).map(drop).ok_or_else(|| {
        format!(
            "memfd_secret without a mapping: {}",
            io::Error::last_os_error()
        )
    })
}
