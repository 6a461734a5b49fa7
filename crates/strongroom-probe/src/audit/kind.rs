//! What a mapping is for.

use crate::exposure::{Backing, Mapping, Process};
use serde::Serialize;

/// What a mapping is for, as far as it can be told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// What brk gives.
    Heap,
    /// A thread's stack.
    Stack,
    /// Private memory of no file: what allocators take, too.
    Anonymous,
    /// memfd_secret, or the kernel driver's memory.
    Secret,
    /// Address space without access, with nothing there.
    Reserved,
    /// The program, with its data.
    Program,
    /// A library, with its data.
    Library,
    /// Another file.
    File,
    /// Shared memory.
    Shared,
    /// The kernel's or a device's.
    Kernel,
}

impl Kind {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 10] = [
        Self::Secret,
        Self::Heap,
        Self::Stack,
        Self::Anonymous,
        Self::Program,
        Self::Library,
        Self::Shared,
        Self::File,
        Self::Kernel,
        Self::Reserved,
    ];

    /// The name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Stack => "stack",
            Self::Anonymous => "anonymous",
            Self::Secret => "secret",
            Self::Reserved => "reserved",
            Self::Program => "program",
            Self::Library => "library",
            Self::File => "file",
            Self::Shared => "shared",
            Self::Kernel => "kernel",
        }
    }
}

/// Tells kinds, of mappings in the order of their addresses.
#[derive(Debug)]
pub(super) struct Classes {
    program: Option<String>,
    stacks: Vec<u64>,
    /// Where a writable mapping of a program or library ended: its zero-filled data follows.
    data: Option<Data>,
}

/// A writable mapping of a file.
#[derive(Debug)]
struct Data {
    end: u64,
    size: u64,
    kind: Kind,
}

/// What zero-filled data is at most where its file's data is smaller, in bytes. What lies next to a
/// library and is larger is the program's: the kernel puts mappings there, too.
const ZEROS: u64 = 64 << 10;

impl Classes {
    /// `stacks` are stack pointers, sorted.
    pub(super) fn new(process: &Process, stacks: Vec<u64>) -> Self {
        Self {
            program: process.program.clone(),
            stacks,
            data: None,
        }
    }

    pub(super) fn of(&mut self, mapping: &Mapping, backing: Backing) -> Kind {
        let data = self.data.take();
        let kind = match backing {
            Backing::Secret | Backing::SecretPerhaps | Backing::Driver => Kind::Secret,
            Backing::Kernel | Backing::Device => Kind::Kernel,
            Backing::SharedMemory => Kind::Shared,
            Backing::File => self.file(&mapping.name),
            Backing::Anonymous => match data {
                Some(data)
                    if data.end == mapping.start
                        && mapping.is_writable()
                        && mapping.end - mapping.start <= data.size.max(ZEROS) =>
                {
                    data.kind
                }
                _ => self.anonymous(mapping),
            },
        };
        if backing == Backing::File && mapping.is_writable() && !mapping.is_shared() {
            let has_data = matches!(kind, Kind::Program | Kind::Library);
            self.data = has_data.then_some(Data {
                end: mapping.end,
                size: mapping.end - mapping.start,
                kind,
            });
        }
        kind
    }

    fn file(&self, name: &[u8]) -> Kind {
        if self.program.as_ref().is_some_and(|p| p.as_bytes() == name) {
            return Kind::Program;
        }
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
        let versioned = last.windows(4).any(|window| window == b".so.");
        if versioned || last.ends_with(b".so") {
            Kind::Library
        } else {
            Kind::File
        }
    }

    fn anonymous(&self, mapping: &Mapping) -> Kind {
        let name = mapping.name.as_slice();
        if name == b"[heap]" {
            return Kind::Heap;
        }
        // glibc names the stacks of threads where it is told to.
        if name.starts_with(b"[stack") || name.starts_with(b"[anon: glibc: pthread stack") {
            return Kind::Stack;
        }
        let first = self.stacks.partition_point(|sp| *sp < mapping.start);
        if self.stacks.get(first).is_some_and(|sp| *sp < mapping.end) {
            return Kind::Stack;
        }
        let empty = mapping.rss + mapping.hugetlb + mapping.swap == 0;
        if empty && !mapping.is_readable() && !mapping.is_writable() {
            return Kind::Reserved;
        }
        Kind::Anonymous
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(range: (u64, u64), access: &[u8; 4], name: &str) -> Mapping {
        Mapping {
            start: range.0,
            end: range.1,
            access: *access,
            name: name.as_bytes().to_vec(),
            rss: 4096,
            ..Mapping::default()
        }
    }

    #[test]
    fn zero_filled_data_belongs_to_its_file_and_a_stack_to_its_thread() {
        let mut classes = Classes {
            program: Some("/bin/x".to_owned()),
            stacks: vec![0x9100],
            data: None,
        };
        let mut kind = |start, end, access, name, backing| {
            classes.of(&mapping((start, end), access, name), backing)
        };
        use Backing::{Anonymous, File};
        assert_eq!(kind(0x1000, 0x2000, b"rw-p", "/bin/x", File), Kind::Program);
        assert_eq!(kind(0x2000, 0x3000, b"rw-p", "", Anonymous), Kind::Program);
        assert_eq!(
            kind(0x3000, 0x4000, b"rw-p", "", Anonymous),
            Kind::Anonymous
        );
        assert_eq!(
            kind(0x4000, 0x5000, b"rw-p", "/lib/libc.so.6", File),
            Kind::Library
        );
        assert_eq!(
            kind(0x6000, 0x7000, b"rw-p", "", Anonymous),
            Kind::Anonymous
        );
        assert_eq!(kind(0x9000, 0xa000, b"rw-p", "", Anonymous), Kind::Stack);
        let library = kind(0x1_0000, 0x1_1000, b"rw-p", "/lib/libc.so.6", File);
        assert_eq!(library, Kind::Library);
        // Next to it, and much larger.
        let next = kind(0x1_1000, 0x5_0000, b"rw-p", "", Anonymous);
        assert_eq!(next, Kind::Anonymous);
        assert_eq!(
            kind(0xb000, 0xc000, b"r--p", "/usr/share/some.dat", File),
            Kind::File
        );
    }
}
