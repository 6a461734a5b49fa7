//! Pins: pages that the kernel holds by their frames, taken before a page becomes private and afterwards.

use super::places;
use super::{LATER, Monitor, SECRET, failed, judge, stale};
use crate::attack::Loot;
use crate::thief::name;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use strongroom_sys::peek::{MappedFile, Ring};
use strongroom_sys::{Errno, PAGE, peek};

type Looked = Result<Vec<Loot>, String>;

/// The longest file that is mapped again for this, in bytes: what a user may pin.
const MOST: usize = 4 << 20;

/// A range of memory, pinned or not.
#[derive(Clone, Copy)]
struct Range {
    start: usize,
    len: usize,
}

impl Range {
    fn page(start: usize) -> Self {
        Self { start, len: PAGE }
    }
}

/// Every file that there is a descriptor of, mapped once more.
fn mapped_again() -> Vec<MappedFile> {
    let map = |number| {
        // SAFETY: nobody closes descriptors while this process looks; one that is none is refused.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        MappedFile::new(file, MOST, true).ok()
    };
    places::descriptors().into_iter().filter_map(map).collect()
}

/// Pins the page afterwards: where the monitor has it, and all of its files.
fn after(
    way: &str,
    view: usize,
    masked: &[u8],
    read: &mut dyn FnMut(Range) -> Result<Vec<u8>, Errno>,
) -> Vec<Loot> {
    let files = mapped_again();
    let files = files.iter().map(|file| Range {
        start: file.start(),
        len: file.len(),
    });
    let mut pin = |way: &str, range| match read(range) {
        Ok(bytes) => judge(way, &bytes, masked),
        Err(error) => refused(way, error),
    };
    let mut loot = vec![pin(way, Range::page(view))];
    let again = format!("{way}, mapped again");
    for range in files {
        let of_file = pin(&again, range);
        if !loot.contains(&of_file) {
            loot.push(of_file);
        }
    }
    loot
}

/// Only one answer means that the pages cannot be pinned.
fn refused(way: &str, error: Errno) -> Loot {
    match error {
        Errno::FAULT => Loot::held(format!("{way}: EFAULT")),
        error => Loot::skipped(format!("{way}: {}", name(error))),
    }
}

/// The page as the guest has it once it is private, its secret in it.
fn make_private(monitor: &mut dyn Monitor) -> Result<(), String> {
    monitor.hide(LATER)?;
    monitor.copy_secret(SECRET, LATER, 0)
}

/// The pages in a pipe.
pub(super) fn vmsplice(monitor: &mut dyn Monitor, masked: &[u8]) -> Looked {
    let view = monitor.view(LATER);
    stale::mark(monitor, LATER)?;
    let (reads, writes) = rustix::pipe::pipe().map_err(failed("a pipe"))?;
    // SAFETY: a page of this process.
    let pinned = unsafe { peek::vmsplice(&writes, view as *const u8, PAGE) };
    make_private(monitor)?;
    let before = "vmsplice before";
    let mut loot = vec![match pinned {
        Ok(_) => {
            let mut page = [0; PAGE];
            rustix::io::read(&reads, &mut page).map_err(failed("the pipe"))?;
            judge(before, &page, masked)
        }
        Err(error) => refused(before, error),
    }];
    let mut splice = |range: Range| {
        let mut bytes = Vec::new();
        let mut at = range.start;
        let (mut last, end) = (Ok(0), range.start + range.len);
        while at < end {
            let len = (end - at).min(16 * PAGE);
            // SAFETY: mapped, and only read.
            last = unsafe { peek::vmsplice(&writes, at as *const u8, len) };
            let got = last.unwrap_or(0);
            let from = bytes.len();
            bytes.resize(from + got, 0);
            let mut filled = from;
            while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                filled += rustix::io::read(&reads, rest)?;
            }
            at += got.max(PAGE);
        }
        if bytes.is_empty() {
            last.map(|_| bytes)
        } else {
            Ok(bytes)
        }
    };
    loot.extend(after("vmsplice after", view, masked, &mut splice));
    Ok(loot)
}

/// A file in memory that a ring writes to.
fn target() -> Result<OwnedFd, Errno> {
    rustix::fs::memfd_create("copy", MemfdFlags::CLOEXEC)
}

/// What a ring writes from its buffer.
fn written(ring: &Ring, range: Range) -> Result<Vec<u8>, Errno> {
    let copy = target()?;
    let len = u32::try_from(range.len).map_err(|_| Errno::INVAL)?;
    let written = ring.write_fixed(&copy, range.start as *const u8, len)?;
    let mut bytes = vec![0; written];
    let got = File::from(copy).read_at(&mut bytes, 0);
    bytes.truncate(got.unwrap_or(0));
    Ok(bytes)
}

fn register(range: Range) -> Result<Ring, Errno> {
    // As no such thing, not as a refusal of the pages.
    let ring = Ring::new().map_err(|_| Errno::OPNOTSUPP)?;
    // SAFETY: pages of this process, which the kernel looks at itself.
    unsafe { ring.register_buffer(range.start as *mut u8, range.len) }?;
    Ok(ring)
}

/// The pages as a registered buffer.
pub(super) fn io_uring(monitor: &mut dyn Monitor, masked: &[u8]) -> Looked {
    let view = monitor.view(LATER);
    stale::mark(monitor, LATER)?;
    let registered = register(Range::page(view));
    if let Err(Errno::OPNOTSUPP) = registered {
        let why = "io_uring: this kernel has none, or it is switched off";
        return Ok(vec![Loot::skipped(why)]);
    }
    make_private(monitor)?;
    let before = "io_uring before";
    let mut loot = vec![match registered {
        Ok(ring) => {
            let bytes = written(&ring, Range::page(view)).map_err(failed("the ring's write"))?;
            judge(before, &bytes, masked)
        }
        Err(error) => refused(before, error),
    }];
    let mut through = |range| register(range).and_then(|ring| written(&ring, range));
    loot.extend(after("io_uring after", view, masked, &mut through));
    Ok(loot)
}

/// The pages by an O_DIRECT write, into a file of the directory that this process works in.
pub(super) fn direct(view: usize, masked: &[u8]) -> Looked {
    let path = format!("direct-{}", strongroom_sys::process::id());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path.as_str(), flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(error) => return Ok(vec![Loot::skipped(format!("O_DIRECT: {}", name(error)))]),
    };
    let mut write = |range: Range| {
        rustix::fs::ftruncate(&file, 0)?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
        let (mut at, mut last) = (0, Ok(0));
        // What cannot be read is left out.
        while at < range.len {
            last = peek::write_from(&file, range.start + at, range.len - at);
            at += last.unwrap_or(PAGE).max(PAGE);
        }
        let bytes = std::fs::read(&path).map_err(|_| Errno::IO)?;
        if bytes.is_empty() {
            last.map(|_| bytes)
        } else {
            Ok(bytes)
        }
    };
    let loot = after("O_DIRECT", view, masked, &mut write);
    let _ = std::fs::remove_file(&path);
    Ok(loot)
}
