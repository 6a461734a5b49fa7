//! /proc/self/maps, read without allocating.

use crate::{Errno, raw};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

/// One mapping, as a line of /proc/PID/maps tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// First address.
    pub start: usize,
    /// First address past it.
    pub end: usize,
    /// PROT_ bits.
    pub access: u32,
    /// Whether writes are shared with other mappings.
    pub shared: bool,
    /// The file's inode, 0 for anonymous memory.
    pub inode: u64,
    /// The file's path or a name in brackets; empty for unnamed memory.
    pub name: &'a [u8],
}

impl Mapping<'_> {
    /// Whether the mapping is memfd_secret memory.
    pub fn is_secretmem(&self) -> bool {
        self.name.starts_with(b"/secretmem")
    }

    /// Whether the mapping is the kernel driver's memory.
    pub fn is_driver(&self) -> bool {
        self.shared && self.name == crate::driver::DEVICE.to_bytes()
    }

    /// Whether it is the main thread's stack.
    pub fn is_stack(&self) -> bool {
        self.name == b"[stack]"
    }
}

/// Calls `visit` with the mapping that covers the address or, where none does, with the next one
/// after it; `None` past the last. One ioctl where the kernel has PROCMAP_QUERY (Linux 6.11), and
/// a walk over the file where it does not.
///
/// # Errors
/// Those of open and read; EINVAL for a line that is not understood.
pub fn covering_or_next<R>(
    address: usize,
    visit: impl FnOnce(&Mapping<'_>) -> R,
) -> Result<Option<R>, Errno> {
    let file = open()?;
    // Names longer than this make the query fail; the walk cuts them.
    let mut name = [0u8; 256];
    let mut query = Query {
        size: size_of::<Query>() as u64,
        flags: COVERING_OR_NEXT,
        address: address as u64,
        name_size: name.len() as u32,
        name: name.as_mut_ptr() as u64,
        ..Query::default()
    };
    let arguments = [
        file.as_raw_fd() as usize,
        PROCMAP_QUERY,
        &raw mut query as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel fills the structure and at most `name_size` bytes of the name.
    match raw::check(unsafe { raw::syscall(libc::SYS_ioctl as usize, arguments) }) {
        Ok(_) => {
            let len = (query.name_size as usize).saturating_sub(1).min(name.len());
            Ok(Some(visit(&Mapping {
                start: query.start as usize,
                end: query.end as usize,
                access: (query.vma_flags & 7) as u32,
                shared: query.vma_flags & VMA_SHARED != 0,
                inode: query.inode,
                name: &name[..len],
            })))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(_) => {
            let (mut visit, mut result) = (Some(visit), None);
            each(|mapping| {
                if mapping.end > address {
                    result = visit.take().map(|visit| visit(mapping));
                }
                mapping.end <= address
            })?;
            Ok(result)
        }
    }
}

/// _IOWR('f', 17, struct procmap_query), include/uapi/linux/fs.h.
const PROCMAP_QUERY: usize = 0xc068_6611;
const COVERING_OR_NEXT: u64 = 0x10;
/// The low three bits are those of PROT_READ, PROT_WRITE and PROT_EXEC.
const VMA_SHARED: u64 = 8;

/// struct procmap_query.
#[derive(Default)]
#[repr(C)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    vma_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device: [u32; 2],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

fn open() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let open = || rustix::fs::open(c"/proc/self/maps", flags, Mode::empty());
    crate::limits::with_one_more_descriptor(open)
}

/// Calls `visit` with each mapping of this process in address order, until it returns false.
///
/// What other threads map meanwhile may be seen or not.
///
/// # Errors
/// Those of open and read; EINVAL for a line that is not understood.
pub fn each(mut visit: impl FnMut(&Mapping<'_>) -> bool) -> Result<(), Errno> {
    let file = open()?;
    // Room for the fields and a path of PATH_MAX. Escaped newlines can make one longer: its end is
    // left out then. No more room than that, because this runs in threads with little stack.
    let mut buffer = [0u8; 4096 + 128];
    let (mut filled, mut cut) = (0, false);
    loop {
        let read = rustix::io::read(&file, &mut buffer[filled..])?;
        filled += read;
        let mut at = 0;
        while at < filled {
            let line = &buffer[at..filled];
            let end = line.iter().position(|&b| b == b'\n');
            let whole = filled == buffer.len() && at == 0;
            let Some(len) = end.or(whole.then_some(line.len())) else {
                break;
            };
            at += len + usize::from(end.is_some());
            // The rest of a line whose start was visited already.
            if core::mem::replace(&mut cut, end.is_none()) {
                continue;
            }
            let mapping = parse(&line[..len]).ok_or(Errno::INVAL)?;
            if !visit(&mapping) {
                return Ok(());
            }
        }
        if read == 0 {
            return Ok(());
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
}

fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let (start, rest) = hex(line, b'-')?;
    let (end, rest) = hex(rest, b' ')?;
    let flags = rest.get(..4)?;
    let (_offset, rest) = hex(rest.get(5..)?, b' ')?;
    let (_device, rest) = split(rest, b' ')?;
    let (inode, name) = split(rest, b' ').unwrap_or((rest, b""));
    let inode = core::str::from_utf8(inode).ok()?.parse().ok()?;
    let mut access = 0;
    for (letter, bit) in [
        (b'r', libc::PROT_READ),
        (b'w', libc::PROT_WRITE),
        (b'x', libc::PROT_EXEC),
    ] {
        if flags.contains(&letter) {
            access |= bit as u32;
        }
    }
    Some(Mapping {
        start,
        end,
        access,
        shared: flags[3] == b's',
        inode,
        name: name.trim_ascii_start(),
    })
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|&b| b == at)?;
    Some((&text[..end], &text[end + 1..]))
}

fn hex(text: &[u8], end: u8) -> Option<(usize, &[u8])> {
    let (digits, rest) = split(text, end)?;
    let value = usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let line = b"7f5eeb3bb000-7f5eeb4bb000 rw-s 00000000 00:10 12345                      /secretmem (deleted)";
        let mapping = parse(line).unwrap();
        assert_eq!(
            (mapping.start, mapping.end),
            (0x7f5e_eb3b_b000, 0x7f5e_eb4b_b000)
        );
        assert_eq!(mapping.access, (libc::PROT_READ | libc::PROT_WRITE) as u32);
        assert!(mapping.shared && mapping.is_secretmem());
        assert_eq!(mapping.inode, 12345);
        let line = b"7ffc000-7ffd000 ---p 00000000 00:00 0 ";
        assert_eq!(parse(line).unwrap().name, b"");
        let line = b"7ffc000-7ffd000 r-xp 00000000 00:00 0";
        assert_eq!(parse(line).unwrap().inode, 0);
        assert_eq!(parse(b"nonsense"), None);
    }

    #[test]
    fn long_names_are_cut_and_their_neighbours_are_not() {
        // As long a path as there can be, in newlines, which are told as four letters each.
        let directory =
            std::env::temp_dir().join(format!("strongroom-maps-{}", std::process::id()));
        let mut path = directory.clone();
        while path.as_os_str().len() < 3000 {
            path.push("\n".repeat(200));
        }
        std::fs::create_dir_all(&path).unwrap();
        let file = path.join("file");
        std::fs::write(&file, [0; 4096]).unwrap();
        let name = file.to_str().unwrap();
        let open = rustix::fs::open(name, OFlags::RDONLY, Mode::empty()).unwrap();
        // SAFETY: a new mapping.
        let start = unsafe {
            rustix::mm::mmap(
                core::ptr::null_mut(),
                4096,
                rustix::mm::ProtFlags::READ,
                rustix::mm::MapFlags::PRIVATE,
                &open,
                0,
            )
        }
        .unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let (mut last, mut seen, mut count) = (0, 0, 0);
        each(|mapping| {
            assert!(mapping.start >= last);
            last = mapping.end;
            count += 1;
            seen += usize::from(mapping.start == start as usize && mapping.name.len() > 3000);
            true
        })
        .unwrap();
        // SAFETY: mapped above.
        unsafe { rustix::mm::munmap(start, 4096) }.unwrap();
        assert_eq!(seen, 1);
        assert!(count > 10);
    }

    #[test]
    fn one_mapping_is_found_as_the_walk_finds_it() {
        let mut all: Vec<(usize, usize, u32, bool, u64, Vec<u8>)> = Vec::new();
        let told = |m: &Mapping<'_>| (m.start, m.end, m.access, m.shared, m.inode, m.name.to_vec());
        each(|mapping| {
            all.push(told(mapping));
            true
        })
        .unwrap();
        // Other tests map and unmap meanwhile; the program's own file stays.
        let program = std::env::current_exe().unwrap();
        let ours = all
            .iter()
            .filter(|m| m.5 == program.as_os_str().as_encoded_bytes());
        let mut count = 0;
        for mapping in ours {
            count += 1;
            let found = covering_or_next(mapping.0 + 1, told).unwrap();
            assert_eq!(found.as_ref(), Some(mapping));
        }
        assert!(count > 1);
        let lowest = covering_or_next(0, |m| m.start).unwrap();
        assert!(lowest.is_some_and(|start| start <= all[0].0));
        assert_eq!(
            covering_or_next(usize::MAX - 4095, |m| m.start).unwrap(),
            None
        );
    }

    #[test]
    fn every_mapping_is_visited_in_order() {
        let here = lines_are_understood as *const () as usize;
        let (mut last, mut found) = (0, false);
        each(|mapping| {
            assert!(mapping.start >= last && mapping.end > mapping.start);
            last = mapping.end;
            found |= (mapping.start..mapping.end).contains(&here);
            true
        })
        .unwrap();
        assert!(found);
    }
}
