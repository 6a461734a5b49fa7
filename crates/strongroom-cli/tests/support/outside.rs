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
const OVERLAP: usize = 8192;

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

    /// The kernel's flags (`VmFlags` of smaps) for the mapping that holds an address.
    #[track_caller]
    pub(crate) fn flags_at(&self, address: u64) -> Vec<String> {
        let text = std::fs::read(format!("/proc/{}/smaps", self.pid)).expect("/proc/PID/smaps");
        let mut here = false;
        for line in String::from_utf8_lossy(&text).lines() {
            if let Some(flags) = line.strip_prefix("VmFlags:") {
                if here {
                    return flags.split_whitespace().map(str::to_owned).collect();
                }
            } else if let Some(mapping) = Mapping::parse(line) {
                here = mapping.contains(address);
            }
        }
        panic!("process {} has nothing mapped at {address:#x}", self.pid);
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

    /// Hands everything that /proc/PID/mem gives to `visit`, piece by piece; pieces of a
    /// run of pages overlap by [`OVERLAP`] bytes, so that nothing is cut in two.
    pub(crate) fn visit_by_mem(&self, visit: impl FnMut(u64, &Mapping, &[u8])) {
        let mem = self.mem();
        self.visit(
            |address, into| mem.read_at(into, address).unwrap_or(0),
            visit,
        );
    }

    /// The same by process_vm_readv.
    pub(crate) fn visit_by_vm_readv(&self, visit: impl FnMut(u64, &Mapping, &[u8])) {
        let read = |address: u64, into: &mut [u8]| {
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
        };
        self.visit(read, visit);
    }

    fn visit(
        &self,
        read: impl Fn(u64, &mut [u8]) -> usize,
        mut visit: impl FnMut(u64, &Mapping, &[u8]),
    ) {
        let mut buffer = vec![0; OVERLAP + STEP];
        for mapping in self.populated() {
            for (start, end) in self.touched(&mapping) {
                // How much of the buffer's first part holds what was read just before.
                let mut kept = 0;
                let mut at = start;
                while at < end {
                    let want = usize::try_from(end - at).unwrap_or(STEP).min(STEP);
                    let got = read(at, &mut buffer[OVERLAP..OVERLAP + want]);
                    if got == 0 {
                        kept = 0;
                        at = (at / PAGE as u64 + 1) * PAGE as u64;
                        continue;
                    }
                    visit(
                        at - kept as u64,
                        &mapping,
                        &buffer[OVERLAP - kept..OVERLAP + got],
                    );
                    kept = OVERLAP.min(kept + got);
                    buffer.copy_within(OVERLAP + got - kept..OVERLAP + got, OVERLAP - kept);
                    at += got as u64;
                }
            }
        }
    }

    /// The mappings that have any page at all. Not all do: a reservation of address space
    /// has none, in any number of gigabytes.
    fn populated(&self) -> Vec<Mapping> {
        let text = std::fs::read(format!("/proc/{}/smaps", self.pid)).expect("/proc/PID/smaps");
        let mut populated: Vec<Mapping> = Vec::new();
        let mut current = None;
        for line in String::from_utf8_lossy(&text).lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("Rss:" | "Swap:"), Some(size)) if size != "0" => {
                    populated.extend(current.take())
                }
                (Some(word), _) if !word.ends_with(':') => {
                    current = Mapping::parse(line);
                    if current.as_ref().is_some_and(Mapping::is_secret) {
                        populated.extend(current.take());
                    }
                }
                _ => {}
            }
        }
        populated
    }

    /// The runs of pages of a mapping that are there, present or swapped out; the others
    /// hold nothing.
    fn touched(&self, mapping: &Mapping) -> Vec<(u64, u64)> {
        const PRESENT_OR_SWAPPED: u64 = 3 << 62;
        const AT_ONCE: u64 = 1 << 16;
        let pagemap = File::open(format!("/proc/{}/pagemap", self.pid)).expect("/proc/PID/pagemap");
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let (first, last) = (mapping.start / PAGE as u64, mapping.end / PAGE as u64);
        let mut entries = vec![0; AT_ONCE as usize * 8];
        let mut page = first;
        while page < last {
            let want = AT_ONCE.min(last - page) as usize * 8;
            let got = pagemap.read_at(&mut entries[..want], page * 8).unwrap_or(0) / 8;
            if got == 0 {
                break;
            }
            for (i, entry) in entries[..got * 8].chunks_exact(8).enumerate() {
                let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
                if entry & PRESENT_OR_SWAPPED == 0 {
                    continue;
                }
                let start = (page + i as u64) * PAGE as u64;
                match runs.last_mut() {
                    Some((_, end)) if *end == start => *end += PAGE as u64,
                    _ => runs.push((start, start + PAGE as u64)),
                }
            }
            page += got as u64;
        }
        runs
    }

    /// Where /proc/PID/mem shows the bytes.
    pub(crate) fn by_mem(&self, needle: &[u8]) -> Vec<Hit> {
        let mut hits = Hits::new(needle);
        self.visit_by_mem(|start, mapping, bytes| hits.add(start, mapping, bytes));
        hits.found
    }

    /// Where process_vm_readv shows the bytes.
    pub(crate) fn by_vm_readv(&self, needle: &[u8]) -> Vec<Hit> {
        let mut hits = Hits::new(needle);
        self.visit_by_vm_readv(|start, mapping, bytes| hits.add(start, mapping, bytes));
        hits.found
    }

    /// Which of the needles /proc/PID/mem shows, in one pass.
    pub(crate) fn which_by_mem(&self, needles: &[Vec<u8>]) -> Vec<bool> {
        let mut found = vec![false; needles.len()];
        self.visit_by_mem(|_, _, bytes| {
            for (needle, found) in needles.iter().zip(&mut found) {
                *found = *found || positions(bytes, needle).next().is_some();
            }
        });
        found
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

/// Where a needle was found; overlapping pieces may show the same place twice.
struct Hits<'a> {
    needle: &'a [u8],
    found: Vec<Hit>,
}

impl<'a> Hits<'a> {
    fn new(needle: &'a [u8]) -> Self {
        assert!(
            needle.len() <= OVERLAP,
            "a needle of {} bytes may be cut in two",
            needle.len()
        );
        Self {
            needle,
            found: Vec::new(),
        }
    }

    fn add(&mut self, start: u64, mapping: &Mapping, bytes: &[u8]) {
        for at in positions(bytes, self.needle) {
            let address = start + at as u64;
            if self.found.iter().all(|hit| hit.address != address) {
                self.found.push(Hit {
                    address,
                    place: mapping.name.clone(),
                });
            }
        }
    }
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
