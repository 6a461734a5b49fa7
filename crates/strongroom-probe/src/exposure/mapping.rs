//! /proc/PID/smaps, one mapping after another.
//!
//! Read here and not by the procfs crate, which takes the whole file into memory: a process can have
//! 65,530 mappings and more.

use super::process::Identity;
use super::{Machine, Refusal};
use serde::{Serialize, Serializer};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use strongroom_core::driver::DEVICE;

/// What is behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// Private memory of no file.
    Anonymous,
    /// memfd_secret.
    Secret,
    /// The kernel driver's memory, /dev/strongroom. All of it counts as present.
    Driver,
    /// It looks like memfd_secret, and this process has no means to be sure.
    SecretPerhaps,
    /// Shared memory: memfd, System V, /dev/shm, shared anonymous memory.
    SharedMemory,
    /// A file.
    File,
    /// A device's memory.
    Device,
    /// The kernel's own pages for programs: vdso, vvar, vsyscall.
    Kernel,
}

/// One mapping. Sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// First address.
    #[serde(serialize_with = "hexadecimal")]
    pub start: u64,
    /// First address past it.
    #[serde(serialize_with = "hexadecimal")]
    pub end: u64,
    /// `rwxp` or `rwxs`, as /proc/PID/maps has it.
    #[serde(serialize_with = "text")]
    pub access: [u8; 4],
    /// Where in the file it starts.
    pub offset: u64,
    /// The file's device: major, minor.
    pub device: (u32, u32),
    /// The file's inode; 0 for none.
    pub inode: u64,
    /// The file's path, or a name in brackets, as the kernel writes it (a newline is `\012`); may be empty.
    #[serde(serialize_with = "text")]
    pub name: Vec<u8>,
    /// VmFlags: two letters each (Documentation/filesystems/proc.rst).
    #[serde(serialize_with = "text")]
    pub flags: Vec<u8>,
    /// Present.
    pub rss: u64,
    /// Present, shared pages by their part.
    pub pss: u64,
    /// Present and of no file: written by the process, or by a loader for it.
    pub anonymous: u64,
    /// Changed and of this process alone.
    pub private_dirty: u64,
    /// Changed and shared.
    pub shared_dirty: u64,
    /// In the swap.
    pub swap: u64,
    /// Locked.
    pub locked: u64,
    /// In huge pages of hugetlbfs, which `rss` does not count.
    pub hugetlb: u64,
}

fn hexadecimal<S: Serializer>(address: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{address:#x}"))
}

fn text<S: Serializer>(bytes: &impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes.as_ref()))
}

impl Mapping {
    /// How much address space it takes, in bytes.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it is empty; none of the kernel's is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether VmFlags has these two letters.
    pub fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags
            .split(|byte| *byte == b' ')
            .any(|word| word == flag)
    }

    /// Whether the process may read it.
    pub fn is_readable(&self) -> bool {
        self.access.first() == Some(&b'r')
    }

    /// Whether the process may write it.
    pub fn is_writable(&self) -> bool {
        self.access.get(1) == Some(&b'w')
    }

    /// Whether writes are shared.
    pub fn is_shared(&self) -> bool {
        self.access.get(3) == Some(&b's')
    }

    /// What is behind it.
    pub fn backing(&self, machine: &Machine) -> Backing {
        let named = |name: &[u8]| self.name.starts_with(name);
        if named(b"[vdso]") || named(b"[vvar") || named(b"[vsyscall]") {
            Backing::Kernel
        } else if self.has(b"io") || self.has(b"pf") {
            if self.name == DEVICE.as_bytes() {
                Backing::Driver
            } else {
                Backing::Device
            }
        } else if self.inode == 0 && !self.is_shared() {
            Backing::Anonymous
        } else if machine.secret_device.is_some_and(|d| d == self.device) {
            Backing::Secret
        } else if named(b"/secretmem") && machine.secret_device.is_none() {
            Backing::SecretPerhaps
        } else if [
            b"/memfd:".as_slice(),
            b"/dev/zero",
            b"/SYSV",
            b"/dev/shm/",
            b"/anon_hugepage",
        ]
        .into_iter()
        .any(named)
        {
            Backing::SharedMemory
        } else {
            Backing::File
        }
    }

    /// Pages of the process's own, present or swapped out, in bytes: what it wrote or may write. It is
    /// private memory whatever its access is now, and shared memory and files that it may write.
    /// Unchanged pages of a private file mapping are the file's.
    pub fn own(&self, machine: &Machine) -> u64 {
        let present = self.rss + self.hugetlb + self.swap;
        match self.backing(machine) {
            Backing::Kernel | Backing::Device => 0,
            Backing::Driver => self.len(),
            Backing::Secret | Backing::SecretPerhaps => present,
            _ if self.is_shared() => {
                if self.is_writable() {
                    present
                } else {
                    0
                }
            }
            _ => self.anonymous + self.hugetlb + self.swap,
        }
    }

    /// A header line: `start-end access offset major:minor inode name`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut rest = line;
        let mut word = || {
            let from = rest.iter().position(|byte| *byte != b' ')?;
            let (_, tail) = rest.split_at_checked(from)?;
            let to = tail.iter().position(|byte| *byte == b' ');
            let (word, tail) = tail.split_at_checked(to.unwrap_or(tail.len()))?;
            rest = tail;
            std::str::from_utf8(word).ok()
        };
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = word()?.split_once('-')?;
        let access = word()?.as_bytes().try_into().ok()?;
        let offset = hexadecimal(word()?)?;
        let (major, minor) = word()?.split_once(':')?;
        let inode = word()?.parse().ok()?;
        Some(Self {
            start: hexadecimal(start)?,
            end: hexadecimal(end)?,
            access,
            offset,
            device: (
                u32::from_str_radix(major, 16).ok()?,
                u32::from_str_radix(minor, 16).ok()?,
            ),
            inode,
            name: rest.trim_ascii_start().to_vec(),
            ..Self::default()
        })
    }

    /// A line under the header. One that is not known changes nothing.
    fn take(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (key, value) = line.split_at(colon);
        if key == b"VmFlags" {
            self.flags = value.get(1..).unwrap_or_default().trim_ascii().to_vec();
            return;
        }
        let amount = || {
            let text = std::str::from_utf8(value.get(1..)?).ok()?;
            let kib: u64 = text.trim().strip_suffix(" kB")?.parse().ok()?;
            kib.checked_mul(1024)
        };
        let field = match key {
            b"Rss" => &mut self.rss,
            b"Pss" => &mut self.pss,
            b"Anonymous" => &mut self.anonymous,
            b"Private_Dirty" => &mut self.private_dirty,
            b"Shared_Dirty" => &mut self.shared_dirty,
            b"Swap" => &mut self.swap,
            b"Locked" => &mut self.locked,
            b"Shared_Hugetlb" | b"Private_Hugetlb" => {
                self.hugetlb += amount().unwrap_or_default();
                return;
            }
            _ => return,
        };
        *field = amount().unwrap_or_default();
    }
}

/// The mappings of a process, in the order of their addresses. It ends with an error where the process
/// ended or became another program meanwhile; what came before is what was there.
///
/// # Errors
/// Where the file cannot be opened.
pub fn mappings(pid: i32) -> Result<Mappings, Refusal> {
    let identity = Identity::of(pid)?;
    let path = format!("/proc/{pid}/smaps");
    let file = File::open(&path).map_err(|error| identity.refusal("smaps", error))?;
    Ok(Mappings {
        lines: BufReader::with_capacity(1 << 16, file),
        path,
        identity,
        line: Vec::new(),
        next: None,
        ended: false,
    })
}

/// The walk over the mappings of a process.
#[derive(Debug)]
pub struct Mappings {
    lines: BufReader<File>,
    path: String,
    identity: Identity,
    line: Vec<u8>,
    next: Option<Mapping>,
    ended: bool,
}

impl Mappings {
    fn step(&mut self) -> Result<Option<Mapping>, Refusal> {
        // A path of 4096 bytes, each escaped by four.
        const LONGEST: u64 = 1 << 15;
        loop {
            self.line.clear();
            let mut line = self.lines.by_ref().take(LONGEST);
            let read = line.read_until(b'\n', &mut self.line);
            match read {
                Ok(0) => {
                    self.ended = true;
                    return Ok(self.next.take());
                }
                Ok(_) => {}
                // The process's memory went away under the file.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                    self.ended = true;
                    return Ok(self.next.take());
                }
                Err(error) => {
                    let path = self.path.clone();
                    return Err(Refusal::Io { path, error });
                }
            }
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            // A header starts with an address, and so in lower case; `Rss:`, `VmFlags:` …
            let is_header = line
                .first()
                .is_some_and(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
            if !is_header {
                if let Some(mapping) = &mut self.next {
                    mapping.take(line);
                }
                continue;
            }
            let Some(mapping) = Mapping::parse(line) else {
                return Err(Refusal::Line {
                    path: self.path.clone(),
                    line: String::from_utf8_lossy(line).into_owned(),
                });
            };
            if let Some(whole) = self.next.replace(mapping) {
                return Ok(Some(whole));
            }
        }
    }
}

impl Iterator for Mappings {
    type Item = Result<Mapping, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.ended {
            match self.step() {
                Ok(Some(mapping)) => return Some(Ok(mapping)),
                Ok(None) => {}
                Err(refusal) => {
                    self.ended = true;
                    self.path.clear();
                    return Some(Err(refusal));
                }
            }
        }
        // The file ends early, and without an error, where the process's memory goes away.
        if self.path.is_empty() {
            return None;
        }
        self.path.clear();
        self.identity.still().err().map(Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_blanks() {
        let line = b"55b7278f3000-55b7278f6000 r--p 00001000 fe:1f 247749                     /a b (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!(mapping.name, b"/a b (deleted)");
        assert_eq!(mapping.device, (0xfe, 0x1f));
        assert_eq!((mapping.offset, mapping.inode), (0x1000, 247_749));
        assert_eq!(mapping.len(), 0x3000);
        let line = b"7ffc000-7ffd000 ---p 00000000 00:00 0 ";
        assert_eq!(Mapping::parse(line).unwrap().name, b"");
        assert_eq!(Mapping::parse(b"7ffc000-7ffd000 ---p"), None);
    }

    #[test]
    fn the_drivers_memory_is_known_by_its_flags_and_its_name() {
        let machine = Machine::read();
        let line = b"7f0000000000-7f0000003000 rw-s 00000000 00:06 9      /dev/strongroom";
        let mut mapping = Mapping::parse(line).unwrap();
        assert_eq!(mapping.backing(&machine), Backing::File);
        mapping.take(b"VmFlags: rd wr sh mr mw me ms pf io dc de dd ");
        assert_eq!(mapping.backing(&machine), Backing::Driver);
        assert_eq!(mapping.own(&machine), 0x3000);
        mapping.name = b"/dev/mem".to_vec();
        assert_eq!(mapping.backing(&machine), Backing::Device);
    }

    #[test]
    fn amounts_are_bytes_and_flags_are_words() {
        let mut mapping = Mapping::default();
        for line in [
            b"Rss:                  12 kB".as_slice(),
            b"Private_Hugetlb:    2048 kB",
            b"Shared_Hugetlb:     2048 kB",
            b"Unheard_Of:            1 kB",
            b"VmFlags: rd wr mr dd ",
        ] {
            mapping.take(line);
        }
        assert_eq!((mapping.rss, mapping.hugetlb), (12 << 10, 4 << 20));
        assert!(mapping.has(b"dd") && mapping.has(b"rd") && !mapping.has(b"dc"));
    }

    #[test]
    fn this_process_is_walked_as_maps_has_it() {
        let machine = Machine::read();
        let all: Vec<_> = mappings(std::process::id() as i32)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let here = &raw const machine as u64;
        let stack = all.iter().find(|m| (m.start..m.end).contains(&here));
        let stack = stack.unwrap();
        assert!(stack.rss > 0 && stack.is_writable() && stack.own(&machine) > 0);
        assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}
