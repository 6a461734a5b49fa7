//! Pages that the guest alone writes: whoever wants to write them all the same, and has the whole process to do it in.
//!
//! What is not tried is the guest's own mapping, which is another one: a monitor that is taken over and
//! looks for it writes there ([`Limit::AliasInMonitor`](strongroom_guest::Limit)).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eyes;

use eyes::read_by_kernel;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, MremapFlags, ProtFlags};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;
use strongroom_guest::backing::{Plain, Poison};
use strongroom_guest::{Backing, Contents, Error, GuestRegion, PAGE, PageState, Side, Why};
use vm_memory::{Bytes, MemoryRegionAddress};

const PAGES: usize = 8;
/// The pages that are read only.
const FIRST: usize = 2;
const END: usize = 4;
/// What the guest has put there.
const TRUTH: u8 = 0x77;
const FORGED: u8 = 0xee;

fn region(backing: impl Backing + 'static) -> GuestRegion {
    let region = GuestRegion::new(0, backing).unwrap();
    for page in 0..PAGES {
        let alias = region.backing().guest_alias().unwrap();
        // SAFETY: the guest's own mapping.
        unsafe { alias.add(page * PAGE).write_bytes(TRUTH, PAGE) };
    }
    region
}

/// On every backing that offers it.
fn regions() -> [GuestRegion; 1] {
    [region(Plain::new(PAGES * PAGE).unwrap())]
}

/// What an attacker has: the address that it wants to write to, in a mapping of a file from an offset.
struct Target {
    address: *mut u8,
    offset: u64,
}

impl Target {
    /// The mapping's line in /proc/self/maps.
    fn line(&self) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let here = |line: &&str| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            (number(start)..number(end)).contains(&(self.address as usize))
        };
        maps.lines().find(here).unwrap().to_owned()
    }

    /// A descriptor of the process that is of the mapping's file.
    fn file(&self) -> OwnedFd {
        let line = self.line();
        let inode: u64 = line.split_whitespace().nth(4).unwrap().parse().unwrap();
        for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
            let path = entry.unwrap().path();
            let linked = std::fs::read_link(&path).unwrap_or_default();
            let found = std::fs::metadata(&path).is_ok_and(|file| file.ino() == inode);
            if found && linked.to_string_lossy().contains("strongroom-guest") {
                let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
                // SAFETY: the region, which lives, has it open.
                let file = unsafe { BorrowedFd::borrow_raw(number) };
                return file.try_clone_to_owned().unwrap();
            }
        }
        panic!("no descriptor of {line}");
    }

    fn reopened(&self) -> Result<OwnedFd, Errno> {
        use rustix::fd::AsRawFd;
        let file = self.file();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
    }
}

/// Maps a page of a file anew and writes to it.
fn write_by_mapping(file: impl AsFd, offset: u64) -> Result<(), Errno> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, and a page of it; the guest uses raw memory.
    unsafe {
        let start = rustix::mm::mmap(
            core::ptr::null_mut(),
            PAGE,
            access,
            MapFlags::SHARED,
            file,
            offset,
        )?;
        start.cast::<u8>().write_volatile(FORGED);
        rustix::mm::munmap(start, PAGE)
    }
}

fn write_allowed(address: *mut u8) -> Result<(), Errno> {
    // SAFETY: the page is the region's, and is written to only where the kernel allows it.
    unsafe {
        rustix::mm::mprotect(
            address.cast(),
            PAGE,
            MprotectFlags::READ | MprotectFlags::WRITE,
        )?;
        address.write_volatile(FORGED);
    }
    Ok(())
}

fn mprotect(target: &Target) -> Result<(), Errno> {
    write_allowed(target.address)
}

fn map_again(target: &Target) -> Result<(), Errno> {
    write_by_mapping(target.file(), target.offset)
}

fn write(target: &Target) -> Result<(), Errno> {
    let file = target.file();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(target.offset))?;
    rustix::io::write(&file, &[FORGED]).map(drop)
}

fn pwrite(target: &Target) -> Result<(), Errno> {
    rustix::io::pwrite(target.file(), &[FORGED], target.offset).map(drop)
}

fn reopen_and_map(target: &Target) -> Result<(), Errno> {
    write_by_mapping(target.reopened()?, target.offset)
}

fn reopen_and_write(target: &Target) -> Result<(), Errno> {
    rustix::io::pwrite(target.reopened()?, &[FORGED], target.offset).map(drop)
}

/// /proc/self/map_files has the file of a mapping, for root.
fn reopen_by_mapping(target: &Target) -> Result<(), Errno> {
    let line = target.line();
    let path = format!("/proc/self/map_files/{}", line.split(' ').next().unwrap());
    let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::pwrite(file, &[FORGED], target.offset).map(drop)
}

fn cut_out(target: &Target) -> Result<(), Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(target.file(), flags, target.offset, PAGE as u64)
}

/// A length of 0 makes a second mapping of the same pages; one that is longer, of those behind, too.
fn map_twice(target: &Target) -> Result<(), Errno> {
    // SAFETY: a new mapping beside the old one, which stays.
    unsafe {
        let second =
            rustix::mm::mremap(target.address.cast(), 0, PAGE, MremapFlags::MAYMOVE)?.cast();
        let result = write_allowed(second);
        rustix::mm::munmap(second.cast(), PAGE)?;
        result
    }
}

fn through_proc(target: &Target) -> Result<(), Errno> {
    let memory = std::fs::File::options()
        .write(true)
        .open("/proc/self/mem")
        .unwrap();
    memory
        .write_at(&[FORGED], target.address as u64)
        .map(drop)
        .map_err(|error| Errno::from_io_error(&error).unwrap())
}

fn vm_write(target: &Target) -> Result<(), Errno> {
    let byte = [FORGED];
    let local = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    let remote = libc::iovec {
        iov_base: target.address.cast(),
        iov_len: 1,
    };
    // SAFETY: the kernel reads one byte of ours, and writes one where it may.
    let done = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    match done {
        1 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}

/// The memory on which a way has to succeed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Control {
    /// Guest memory that was made read only by mprotect.
    Protected,
    /// Guest memory as it is.
    Writable,
    /// A private mapping that is read only: the kernel writes there for whoever may trace.
    Private,
}

type Way = (&'static str, fn(&Target) -> Result<(), Errno>, Control);

const WAYS: [Way; 11] = [
    ("mprotect", mprotect, Control::Protected),
    ("map again", map_again, Control::Protected),
    ("write", write, Control::Protected),
    ("pwrite", pwrite, Control::Protected),
    ("reopen and map", reopen_and_map, Control::Protected),
    ("reopen and write", reopen_and_write, Control::Protected),
    ("reopen by mapping", reopen_by_mapping, Control::Protected),
    ("cut out", cut_out, Control::Protected),
    ("map twice", map_twice, Control::Protected),
    ("/proc/self/mem", through_proc, Control::Private),
    ("process_vm_writev", vm_write, Control::Writable),
];

fn target(region: &GuestRegion, page: usize) -> Target {
    Target {
        address: region.backing().host().wrapping_add(page * PAGE),
        offset: (page * PAGE) as u64,
    }
}

fn truth(region: &GuestRegion, page: usize) -> u8 {
    let alias = region.backing().guest_alias().unwrap();
    // SAFETY: the guest's own mapping.
    unsafe { alias.add(page * PAGE).read_volatile() }
}

/// Whether a way leads in where nothing is done against it.
fn succeeds((name, way, control): Way) {
    if control == Control::Private {
        // SAFETY: a mapping of its own.
        unsafe {
            let start = rustix::mm::mmap_anonymous(
                core::ptr::null_mut(),
                PAGE,
                ProtFlags::READ,
                MapFlags::PRIVATE,
            )
            .unwrap();
            let address = start.cast::<u8>();
            assert_eq!(way(&Target { address, offset: 0 }), Ok(()), "{name}");
            assert_eq!(address.read_volatile(), FORGED, "{name}");
            rustix::mm::munmap(start, PAGE).unwrap();
        }
        return;
    }
    for region in regions() {
        let target = target(&region, FIRST);
        if control == Control::Protected {
            // SAFETY: nobody writes there.
            unsafe { rustix::mm::mprotect(target.address.cast(), PAGE, MprotectFlags::READ) }
                .unwrap();
        }
        assert_eq!(way(&target), Ok(()), "{name}");
        assert_ne!(truth(&region, FIRST), TRUTH, "{name}");
    }
}

#[test]
fn what_the_guest_alone_writes_nobody_else_does() {
    for region in regions() {
        let name = region.backing().name();
        let pages = region.read_only(FIRST * PAGE..END * PAGE).unwrap();
        for (way_name, way, _) in WAYS {
            for page in FIRST..END {
                let result = way(&target(&region, page));
                assert!(
                    matches!(
                        result,
                        Err(Errno::PERM | Errno::ACCESS | Errno::FAULT | Errno::IO)
                    ),
                    "{name}, {way_name}: {result:?}"
                );
                assert_eq!(truth(&region, page), TRUTH, "{name}, {way_name}");
            }
        }
        // The guest writes, and it is seen.
        let alias = region.backing().guest_alias().unwrap();
        // SAFETY: the guest's own mapping.
        unsafe { alias.add(FIRST * PAGE + 5).write_volatile(0x42) };
        let mut seen = [0; 6];
        pages.read(0, &mut seen).unwrap();
        assert_eq!(seen, [TRUTH, TRUTH, TRUTH, TRUTH, TRUTH, 0x42]);
        assert_eq!(read_by_kernel(pages.address().wrapping_add(5)), Ok(0x42));
        assert!(pages.read(2 * PAGE - 5, &mut seen).is_err());
        assert!(pages.read(usize::MAX, &mut seen).is_err());
    }
}

#[test]
fn each_way_to_write_leads_in_where_nothing_is_done() {
    for way in WAYS {
        succeeds(way);
    }
}

#[test]
fn pages_that_are_read_only_stay_so_and_others_go_on() {
    for region in regions() {
        let all = |bytes: std::ops::Range<usize>, to, contents| {
            region.convert(bytes, to, contents, Duration::ZERO)
        };
        let pages = FIRST * PAGE..END * PAGE;
        // Somebody may be writing.
        let guard = region.guard(pages.clone()).unwrap();
        assert!(matches!(
            region.read_only(pages.clone()),
            Err(Error::Refused(refused)) if matches!(refused.why, Why::Held { .. })
        ));
        drop(guard);
        assert!(matches!(
            region.read_only(1..PAGE),
            Err(Error::Misaligned(1))
        ));
        let _ = region.read_only(pages.clone()).unwrap();
        // Nobody gets to write by the region, and nobody takes them out of it: a typed error.
        let write = region.write_obj(1_u8, MemoryRegionAddress(pages.start as u64));
        assert!(write.is_err());
        assert_eq!(region.state(pages.start), Some(PageState::Exclusive));
        assert!(region.discard(pages.clone()).is_err());
        assert!(region.read_only(pages.clone()).is_err());
        assert!(all(pages.clone(), Side::Private, Contents::Kept).is_err());
        assert_eq!(truth(&region, FIRST), TRUTH);
        // The others.
        region.write_obj(9_u8, MemoryRegionAddress(0)).unwrap();
        region.discard(0..PAGE).unwrap();
        assert_eq!(truth(&region, 0), 0);
        if region.backing().name() == "poison" {
            let rest = END * PAGE..PAGES * PAGE;
            all(rest.clone(), Side::Private, Contents::Kept).unwrap();
            let view = region.backing().host().wrapping_add(END * PAGE);
            assert!(read_by_kernel(view).is_err());
            assert_eq!(truth(&region, END), TRUTH);
            all(rest, Side::Shared, Contents::Dropped).unwrap();
            assert_eq!(read_by_kernel(view), Ok(0));
        }
    }
}

#[test]
fn a_device_process_cannot_shorten_the_memory() {
    let region = region(Plain::new(PAGES * PAGE).unwrap());
    let file = region.backing().shared_file().unwrap();
    assert_eq!(rustix::fs::ftruncate(file, PAGE as u64), Err(Errno::PERM));
    // The control: of an ordinary file.
    let other = rustix::fs::memfd_create(c"control", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&other, 2 * PAGE as u64).unwrap();
    assert_eq!(rustix::fs::ftruncate(&other, PAGE as u64), Ok(()));
    assert_eq!(truth(&region, PAGES - 1), TRUTH);
}

#[test]
fn where_the_file_is_closed_it_is_not_offered() {
    let region = region(Poison::new(PAGES * PAGE).unwrap());
    let refused = region.read_only(FIRST * PAGE..END * PAGE);
    assert!(matches!(refused, Err(Error::NotOffered { .. })));
    // And nothing has changed.
    region
        .write_obj(9_u8, MemoryRegionAddress((FIRST * PAGE) as u64))
        .unwrap();
}
