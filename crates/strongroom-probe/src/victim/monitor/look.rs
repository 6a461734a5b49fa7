//! Looking by the monitor's own means: its mappings, its system calls, its files.

use super::places::{self, Place};
use super::{failed, judge, signal};
use crate::attack::{Loot, search};
use crate::masked::position;
use crate::thief::name;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use strongroom_sys::peek::MappedFile;
use strongroom_sys::{Errno, PAGE, foul, peek};

type Looked = Result<Vec<Loot>, String>;
/// A system call that reads a whole file.
type Call = fn(BorrowedFd) -> Result<Vec<u8>, Errno>;

/// The most of a file that is looked at, in bytes.
const MOST: usize = 64 << 20;

/// A load at the address where the monitor has the page.
pub(super) fn view(address: usize, masked: &[u8]) -> Vec<Loot> {
    const WAY: &str = "a load";
    let mut page = [0; PAGE];
    vec![match foul::copy(address, &mut page) {
        Ok(()) => judge(WAY, &page, masked),
        Err(number) => Loot::held(format!("{WAY}: {}", signal(number))),
    }]
}

/// The address handed to the kernel.
pub(super) fn syscall(address: usize, masked: &[u8]) -> Looked {
    let (reads, writes) = rustix::pipe::pipe().map_err(failed("a pipe"))?;
    let (receives, sends) = UnixStream::pair().map_err(|error| error.to_string())?;
    let mut loot = Vec::new();
    let calls: [(&str, Result<usize, Errno>, BorrowedFd); 2] = [
        (
            "write",
            peek::write_from(&writes, address, PAGE),
            reads.as_fd(),
        ),
        (
            "send",
            peek::send_from(&sends, address, PAGE),
            receives.as_fd(),
        ),
    ];
    for (way, result, from) in calls {
        loot.push(match result {
            Ok(len) => {
                let mut bytes = vec![0; len];
                rustix::io::read(from, &mut bytes).map_err(failed(way))?;
                judge(way, &bytes, masked)
            }
            Err(error) => Loot::held(format!("{way}: {}", name(error))),
        });
    }
    Ok(loot)
}

/// Where the first copy is among mappings, by plain loads.
pub(super) fn found_by_loads(places: &[Place], masked: &[u8]) -> Result<Option<String>, String> {
    let mut page = [0; PAGE];
    let mut any = false;
    for place in places {
        for at in (place.start..place.start + place.len).step_by(PAGE) {
            if foul::copy(at, &mut page).is_err() {
                continue;
            }
            any = true;
            if let Some(offset) = position(&page, masked) {
                page.fill(0);
                std::hint::black_box(&page);
                let name = if place.name.is_empty() {
                    "anonymous memory"
                } else {
                    &place.name
                };
                return Ok(Some(format!("{name} at {:#x}", at + offset)));
            }
        }
    }
    if any {
        Ok(None)
    } else {
        Err("no mapping at all can be loaded".to_owned())
    }
}

/// All mappings.
pub(super) fn alias(masked: &[u8]) -> Looked {
    const WAY: &str = "its mappings";
    Ok(vec![match found_by_loads(&places::mapped(), masked)? {
        Some(place) => Loot::leaked(format!("{WAY}: {place}")),
        None => Loot::held(format!("{WAY}: nowhere")),
    }])
}

/// The ways made for looking into processes, on itself.
pub(super) fn peek(masked: &[u8]) -> Looked {
    let own = strongroom_sys::process::id();
    let mappings: Vec<_> = places::mapped()
        .into_iter()
        .map(|place| search::Mapping {
            start: place.start as u64,
            end: (place.start + place.len) as u64,
            name: place.name,
        })
        .collect();
    let vm_read = |at: u64, into: &mut [u8]| peek::vm_read(own, at as usize, into).unwrap_or(0);
    let by_mem = search::by_mem(own).map_err(|error| format!("/proc/self/mem: {error}"))?;
    Ok(vec![
        through("process_vm_readv", &mappings, vm_read, masked)?,
        through("/proc/self/mem", &mappings, by_mem, masked)?,
    ])
}

fn through(
    way: &str,
    mappings: &[search::Mapping],
    read: impl FnMut(u64, &mut [u8]) -> usize,
    masked: &[u8],
) -> Result<Loot, String> {
    let (mut found, mut any) = (None, false);
    search::pieces(mappings, masked.len(), read, |mapping, at, bytes| {
        any |= !bytes.is_empty();
        found = position(bytes, masked)
            .map(|offset| format!("{} at {:#x}", mapping.name, at + offset as u64));
        found.is_some()
    });
    match found {
        Some(place) => Ok(Loot::leaked(format!("{way}: {place}"))),
        None if any => Ok(Loot::held(format!("{way}: nowhere"))),
        None => Err(format!("{way} reads nothing at all")),
    }
}

/// What several files came to by one way.
struct Tally<'w> {
    way: &'w str,
    masked: &'w [u8],
    found: bool,
    files: usize,
    refusals: BTreeSet<String>,
}

impl<'w> Tally<'w> {
    fn new(way: &'w str, masked: &'w [u8]) -> Self {
        Self {
            way,
            masked,
            found: false,
            files: 0,
            refusals: BTreeSet::new(),
        }
    }

    fn count(&mut self, bytes: Result<Vec<u8>, Errno>) {
        match bytes {
            Ok(bytes) => {
                self.files += 1;
                self.found |= position(&bytes, self.masked).is_some();
            }
            Err(error) => {
                self.refusals.insert(name(error));
            }
        }
    }

    /// A mapping of a file, by plain loads.
    fn count_mapping(&mut self, mapping: Result<MappedFile, Errno>) {
        let mapping = match mapping {
            Ok(mapping) => mapping,
            Err(error) => return self.count(Err(error)),
        };
        let mut bytes = vec![0; mapping.len()];
        for (number, page) in bytes.chunks_mut(PAGE).enumerate() {
            if let Err(number) = foul::copy(mapping.start() + number * PAGE, page) {
                self.refusals.insert(signal(number).to_owned());
            }
        }
        self.count(Ok(bytes));
    }

    fn loot(self) -> Loot {
        let way = self.way;
        if self.found {
            return Loot::leaked(way);
        }
        let mut what = vec![format!("not in {} files", self.files)];
        what.extend(self.refusals);
        Loot::held(format!("{way}: {}", what.join(", ")))
    }
}

/// Every file that there is a descriptor of.
pub(super) fn map(masked: &[u8]) -> Looked {
    let files: Vec<_> = places::descriptors()
        .into_iter()
        .filter_map(own)
        .filter(|file| {
            let sized = rustix::fs::fstat(file).is_ok_and(|stat| stat.st_size > 0);
            sized || strongroom_sys::driver::is_object(file)
        })
        .collect();
    let mut loot = Vec::new();
    for (way, shared) in [("MAP_SHARED", true), ("MAP_PRIVATE", false)] {
        let mut tally = Tally::new(way, masked);
        for file in &files {
            tally.count_mapping(MappedFile::new(file, MOST, shared));
        }
        loot.push(tally.loot());
    }
    let calls: [(&str, Call); 3] = [
        ("read(2)", read),
        ("pread(2)", pread),
        ("sendfile", sendfile),
    ];
    for (way, call) in calls {
        let mut tally = Tally::new(way, masked);
        for file in &files {
            tally.count(call(file.as_fd()));
        }
        loot.push(tally.loot());
    }
    let mut duplicated = Tally::new("dup", masked);
    let mut reopened = Tally::new("/proc/self/fd", masked);
    for file in &files {
        let copy = rustix::io::fcntl_dupfd_cloexec(file, 0);
        duplicated.count_mapping(copy.and_then(|copy| MappedFile::new(copy, MOST, true)));
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        reopened.count_mapping(again(&path));
    }
    loot.extend([duplicated.loot(), reopened.loot()]);
    loot.push(map_files(masked));
    Ok(loot)
}

/// A descriptor of this process, which stays its own.
fn own(number: i32) -> Option<BorrowedFd<'static>> {
    let open = rustix::fs::fcntl_getfl;
    // SAFETY: nobody closes descriptors while this process looks: it has one thread, and closes its own
    // only when it ends.
    let file = unsafe { BorrowedFd::borrow_raw(number) };
    open(file).is_ok().then_some(file)
}

fn again(path: &str) -> Result<MappedFile, Errno> {
    // What is no plain file may block.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    MappedFile::new(file, MOST, true)
}

fn size(file: BorrowedFd) -> Result<usize, Errno> {
    let size = rustix::fs::fstat(file)?.st_size;
    // What does not say how long it is has a page.
    Ok(usize::try_from(size).unwrap_or(MOST).clamp(PAGE, MOST))
}

fn read(file: BorrowedFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; size(file)?];
    // A file that has no place to read from may be read all the same.
    let _ = rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0));
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(file, rest)? {
            0 => break,
            got => at += got,
        }
    }
    Ok(bytes)
}

fn pread(file: BorrowedFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; size(file)?];
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, at as u64)? {
            0 => break,
            got => at += got,
        }
    }
    Ok(bytes)
}

fn sendfile(file: BorrowedFd) -> Result<Vec<u8>, Errno> {
    let len = size(file)?;
    let copy = rustix::fs::memfd_create("copy", MemfdFlags::CLOEXEC)?;
    let mut offset = 0;
    while offset < len as u64 {
        let sent = match rustix::fs::sendfile(&copy, file, Some(&mut offset), len) {
            Err(Errno::SPIPE) => rustix::fs::sendfile(&copy, file, None, len),
            sent => sent,
        };
        if sent? == 0 {
            break;
        }
    }
    let mut bytes = vec![0; len];
    let got = File::from(copy).read_at(&mut bytes, 0);
    bytes.truncate(got.unwrap_or(0));
    Ok(bytes)
}

// It needs a capability that a monitor has not, so that it has no control on which it succeeds: what it finds
// is a leak, and what it does not find counts for nothing.
fn map_files(masked: &[u8]) -> Loot {
    const WAY: &str = "map_files";
    let entries = fs::read_dir("/proc/self/map_files").into_iter().flatten();
    let mut tally = Tally::new(WAY, masked);
    for entry in entries.flatten() {
        let path = entry.path();
        // Programs and libraries are large, and no guest's.
        let special = fs::read_link(&path).is_ok_and(|link| {
            let link = link.to_string_lossy();
            link.starts_with("/memfd:") || link.starts_with("anon_inode:")
        });
        if special {
            tally.count_mapping(again(&path.to_string_lossy()));
        }
    }
    if tally.found {
        return tally.loot();
    }
    let refusals = tally.refusals.into_iter().collect::<Vec<_>>().join(", ");
    Loot::skipped(format!("{WAY}: {refusals}"))
}
