//! What the kernel's own tests of guest_memfd check (guest_memfd_test, private_mem_conversions_test and
//! private_mem_kvm_exits_test of Linux 6.12), on every backing that can hold it, where no other test has it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eyes;
mod guest;

use eyes::read_by_kernel;
use guest::{Ended, Guest, MIB, RAM, address, each, kvm, machine};
use kvm_bindings::{KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_X86_SW_PROTECTED_VM};
use kvm_bindings::{kvm_create_guest_memfd, kvm_memory_attributes};
use rustix::fd::{AsFd, FromRawFd, OwnedFd};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::sync::Arc;
use std::time::Duration;
use strongroom_guest::backing::{Attributes, Plain};
use strongroom_guest::kvm::exit::Stop;
use strongroom_guest::kvm::request::{Answer, Function, KEEP, Request};
use strongroom_guest::kvm::{Desk, Limits, Machine, Source};
use strongroom_guest::{Contents, Error, GuestRam, GuestRegion, PAGE, Side};
use vm_memory::{Bytes, GuestAddress};

const WORDS: usize = PAGE / 8;
/// 2 MiB.
const LARGE: usize = 512;

const PLENTY: Limits = Limits {
    requests: u32::MAX,
    pages: u32::MAX,
    most: u32::MAX,
    patience: Duration::from_secs(5),
};

#[test]
fn the_file_of_private_pages_gives_nothing_away() {
    each(4 * MIB, PLENTY, |name, guest| {
        let Some(file) = guest.region().backing().private_file() else {
            return;
        };
        let mut vcpu = guest.processor(0);
        guest
            .convert(0..LARGE, Side::Private, Contents::Kept)
            .unwrap();
        vcpu.fill(0, LARGE * WORDS, 0x5151);
        let mut bytes = [0xaa; 64];
        assert!(rustix::io::read(file, &mut bytes).is_err(), "{name}");
        assert!(rustix::io::pread(file, &mut bytes, 0).is_err(), "{name}");
        assert!(rustix::io::write(file, &bytes).is_err(), "{name}");
        assert!(rustix::io::pwrite(file, &bytes, 0).is_err(), "{name}");
        assert_eq!(bytes, [0xaa; 64]);
        // It cannot be mapped, or nothing is seen there.
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let (anywhere, shared) = (core::ptr::null_mut(), MapFlags::SHARED);
        // SAFETY: a new mapping, at which the kernel alone looks.
        match unsafe { rustix::mm::mmap(anywhere, PAGE, access, shared, file, 0) } {
            Ok(start) => {
                assert_eq!(read_by_kernel(start.cast()), Err(Errno::FAULT), "{name}");
                // SAFETY: mapped above.
                unsafe { rustix::mm::munmap(start, PAGE) }.unwrap();
            }
            Err(errno) => assert!(matches!(errno, Errno::NODEV | Errno::INVAL), "{errno}"),
        }
        let stat = rustix::fs::fstat(file).unwrap();
        assert_eq!(stat.st_size as usize, 4 * MIB, "{name}");
        assert!(
            rustix::fs::ftruncate(file, 8 * MIB as u64).is_err(),
            "{name}"
        );
        // Pages, and only whole ones, are cut out; past the end is nothing.
        let keep = FallocateFlags::KEEP_SIZE;
        let cut = keep | FallocateFlags::PUNCH_HOLE;
        let (page, end) = (PAGE as u64, 4 * MIB as u64);
        for (start, len) in [
            (0, 1),
            (0, page - 1),
            (0, page + 1),
            (1, page),
            (page, page + 1),
        ] {
            let result = rustix::fs::fallocate(file, cut, start, len);
            assert_eq!(result, Err(Errno::INVAL), "{name}: {len} from {start}");
        }
        assert!(rustix::fs::fallocate(file, keep, end, page).is_err());
        assert!(rustix::fs::fallocate(file, keep, end + page, page).is_err());
        assert_eq!(rustix::fs::fallocate(file, cut, end, page), Ok(()));
        assert_eq!(vcpu.differs(0, LARGE * WORDS, 0x5151), None, "{name}");
        // Another region's is another file.
        let other = match name {
            "pair" => strongroom_guest::backing::Pair::new(&guest.machine, PAGE, Side::Private)
                .map(|it| GuestRegion::new(0, it).unwrap()),
            _ => Attributes::new(&guest.machine, PAGE, Side::Private)
                .map(|it| GuestRegion::new(0, it).unwrap()),
        }
        .unwrap();
        let second = rustix::fs::fstat(other.backing().private_file().unwrap()).unwrap();
        assert_eq!(second.st_size as usize, PAGE);
        assert_ne!(second.st_ino, stat.st_ino);
    });
}

#[test]
fn odd_pages_of_a_large_range_go_back() {
    each(6 * MIB, PLENTY, |name, guest| {
        let mut vcpu = guest.processor(0);
        // At a multiple of 2 MiB, and a page beside one.
        for first in [0, 1, LARGE] {
            vcpu.fill(0, 3 * LARGE * WORDS, 1);
            guest
                .convert(first..first + LARGE, Side::Private, Contents::Kept)
                .unwrap();
            for page in (first + 1..first + LARGE).step_by(2) {
                guest
                    .convert(page..page + 1, Side::Shared, Contents::Kept)
                    .unwrap();
                let at = GuestAddress(address(page));
                let word: u64 = guest.ram.read_obj(at).unwrap();
                assert_eq!(word, (page * WORDS) as u64 + 1, "{name}");
                // What the monitor writes there, the guest reads, and the pages around are whole.
                guest.ram.write_obj(7_u64, at).unwrap();
                assert_eq!(vcpu.read(page, 0), Ok(7), "{name}");
                guest.ram.write_obj(word, at).unwrap();
                let before = GuestAddress(address(page - 1));
                assert!(guest.ram.read_obj::<u64>(before).is_err(), "{name}");
            }
            assert_eq!(vcpu.differs(0, 3 * LARGE * WORDS, 1), None, "{name}");
            guest
                .convert(0..3 * LARGE, Side::Shared, Contents::Kept)
                .unwrap();
        }
    });
}

#[test]
fn a_page_that_is_cut_out_is_zero_when_the_guest_touches_it_again() {
    each(6 * MIB, PLENTY, |name, guest| {
        let mut vcpu = guest.processor(0);
        let all = 2 * LARGE + 1;
        guest
            .convert(0..all, Side::Private, Contents::Dropped)
            .unwrap();
        for (first, pages) in [(0, 1), (0, LARGE), (1, 1), (1, LARGE), (LARGE, 1)] {
            // With all of it in memory, and with those pages alone.
            for (start, count) in [(0, all), (first, pages)] {
                guest.region().discard(0..all * PAGE).unwrap();
                vcpu.fill(start, count * WORDS, 0xcc);
                guest
                    .region()
                    .discard(first * PAGE..(first + pages) * PAGE)
                    .unwrap();
                for page in [first, first + pages / 2, first + pages - 1] {
                    assert_eq!(vcpu.read(page, 0), Ok(0), "{name}: page {page}");
                    assert_eq!(vcpu.read(page, PAGE - 8), Ok(0), "{name}: page {page}");
                }
                if count == all && first + pages < all {
                    let next = 0xcc + ((first + pages) * WORDS) as u64;
                    assert_eq!(vcpu.read(first + pages, 0), Ok(next), "{name}");
                }
            }
        }
    });
}

#[test]
fn processors_convert_their_own_parts_at_once() {
    const PART: usize = LARGE + 1;
    const PROCESSORS: usize = 3;
    each(8 * MIB, PLENTY, |name, guest| {
        std::thread::scope(|scope| {
            for number in 0..PROCESSORS {
                let mut vcpu = guest.processor(number as u64);
                scope.spawn(move || {
                    let first = number * PART;
                    let ask = |vcpu: &mut guest::Processor, function, page, pages: usize| {
                        let answer = vcpu.request(Request {
                            function: function as u64,
                            address: address(page),
                            length: (pages * PAGE) as u64,
                            flags: KEEP,
                        });
                        assert_eq!(answer, 0, "{name}");
                    };
                    let value = (number as u64 + 1) << 32;
                    vcpu.fill(first, PART * WORDS, value);
                    for (offset, pages) in [(0, 1), (0, LARGE), (1, 1), (1, LARGE), (LARGE, 1)] {
                        ask(&mut vcpu, Function::Hide, first + offset, pages);
                        assert_eq!(vcpu.differs(first, PART * WORDS, value), None, "{name}");
                        ask(&mut vcpu, Function::Share, first + offset, pages);
                        assert_eq!(vcpu.differs(first, PART * WORDS, value), None, "{name}");
                    }
                });
            }
        });
    });
}

#[test]
fn a_machine_of_several_regions_keeps_them_apart() {
    let Some(kvm) = kvm() else { return };
    let vm = machine(&kvm, 0, None).unwrap();
    let guest = Guest::new(&kvm, Arc::clone(&vm), Plain::new(MIB).unwrap(), PLENTY);
    let region = |start: u64| {
        let poison = strongroom_guest::backing::Poison::new(2 * MIB).unwrap();
        let region = GuestRegion::new(start, poison).unwrap();
        region.place(&vm).unwrap();
        region
    };
    // They adjoin each other.
    let start = RAM + 4 * MIB as u64;
    let regions = vec![region(start), region(start + 2 * MIB as u64)];
    let ram = Arc::new(GuestRam::from_regions(regions).unwrap());
    let desk = Desk::new(Arc::clone(&ram), PLENTY);
    let first = 4 * MIB / PAGE;
    let mut vcpu = guest.processor(0);
    vcpu.fill(first, 2 * LARGE * WORDS, 9);
    let hide = |page: usize, pages: usize| {
        desk.answer(Request {
            function: Function::Hide as u64,
            address: address(first + page),
            length: (pages * PAGE) as u64,
            flags: KEEP,
        })
    };
    // Not of two regions at once; each by itself.
    assert_eq!(hide(LARGE - 1, 2), Answer::NoMemory);
    assert_eq!(hide(LARGE - 1, 1), Answer::Done(0));
    assert_eq!(vcpu.differs(first, 2 * LARGE * WORDS, 9), None);
    let seen = |page: usize| ram.read_obj::<u64>(GuestAddress(address(first + page)));
    assert!(seen(LARGE - 1).is_err());
    assert_eq!(seen(LARGE).unwrap(), 9 + (LARGE * WORDS) as u64);
    assert_eq!(hide(LARGE, 1), Answer::Done(0));
    assert_eq!(vcpu.differs(first, 2 * LARGE * WORDS, 9), None);
}

#[test]
fn a_file_outlives_its_machine() {
    each(2 * MIB, PLENTY, |name, guest| {
        let file = guest.region().backing().private_file();
        let Some(file) = file.map(|file| file.try_clone_to_owned().unwrap()) else {
            return;
        };
        guest
            .convert(0..LARGE, Side::Private, Contents::Kept)
            .unwrap();
        drop(guest);
        let keep = FallocateFlags::KEEP_SIZE;
        let cut = keep | FallocateFlags::PUNCH_HOLE;
        for flags in [cut, keep, cut] {
            let result = rustix::fs::fallocate(&file, flags, 0, 2 * MIB as u64);
            assert_eq!(result, Ok(()), "{name}");
        }
    });
}

/// A file of private pages for this machine, of whatever kind it has.
fn private_file(machine: &Machine, flags: u64) -> Option<OwnedFd> {
    let wanted = kvm_create_guest_memfd {
        size: 2 * PAGE as u64,
        flags,
        ..Default::default()
    };
    let fd = machine.vm().create_guest_memfd(wanted).ok()?;
    // SAFETY: the kernel just gave it to us alone.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[test]
fn a_part_of_a_file_is_in_one_slot() {
    let Some(kvm) = kvm() else { return };
    let mut some = false;
    for (type_, flags) in [(0, 1), (KVM_X86_SW_PROTECTED_VM, 0)] {
        let Some(vm) = machine(&kvm, type_.into(), None) else {
            continue;
        };
        let Some(file) = private_file(&vm, flags) else {
            continue;
        };
        let slot = |start: u64, offset: usize, len: usize| {
            let source = Source::File {
                file: file.as_fd(),
                offset: offset as u64,
                address: core::ptr::null_mut(),
            };
            // SAFETY: there is nothing at the address.
            unsafe { vm.slots().create(start, len, source) }
        };
        let first = slot(RAM, 0, PAGE).unwrap();
        let again = slot(2 * RAM, 0, 2 * PAGE);
        assert!(
            matches!(
                again,
                Err(Error::Kernel {
                    errno: Errno::INVAL,
                    ..
                })
            ),
            "{again:?}"
        );
        let past = slot(2 * RAM, PAGE, 2 * PAGE);
        assert!(
            matches!(
                past,
                Err(Error::Kernel {
                    errno: Errno::INVAL,
                    ..
                })
            ),
            "{past:?}"
        );
        let odd = slot(2 * RAM, 1, PAGE);
        assert!(
            matches!(
                odd,
                Err(Error::Kernel {
                    errno: Errno::INVAL,
                    ..
                })
            ),
            "{odd:?}"
        );
        let second = slot(2 * RAM, PAGE, PAGE).unwrap();
        drop(first);
        let first = slot(3 * RAM, 0, PAGE).unwrap();
        drop((first, second));
        some = true;
    }
    if !some {
        eprintln!("not here: no files of private pages");
    }
}

#[test]
fn a_slot_that_goes_under_a_running_processor_stops_it() {
    let Some(kvm) = kvm() else { return };
    // Shared memory: the address is a device's then.
    let vm = machine(&kvm, 0, None).unwrap();
    let guest = Guest::new(&kvm, Arc::clone(&vm), Plain::new(MIB).unwrap(), PLENTY);
    let far = GuestRegion::new(2 << 30, Plain::new(2 * PAGE).unwrap()).unwrap();
    far.place(&vm).unwrap();
    let page = ((2 << 30) - RAM as usize) / PAGE;
    let ended = waits_while(&guest, page, || drop(far));
    assert_eq!(ended, Err(Ended::Exit(format!("MMIO at {:#x}", 2 << 30))));

    // Private memory: nothing is made up.
    let Some(vm) = machine(&kvm, KVM_X86_SW_PROTECTED_VM.into(), None) else {
        return eprintln!("not here: no machines of that type");
    };
    let guest = Guest::new(&kvm, Arc::clone(&vm), Plain::new(MIB).unwrap(), PLENTY);
    let file = private_file(&vm, 0).unwrap();
    let source = Source::File {
        file: file.as_fd(),
        offset: 0,
        address: core::ptr::null_mut(),
    };
    // SAFETY: there is nothing at the address.
    let slot = unsafe { vm.slots().create(2 << 30, 2 * PAGE, source) }.unwrap();
    let private = kvm_memory_attributes {
        address: 2 << 30,
        size: 2 * PAGE as u64,
        attributes: KVM_MEMORY_ATTRIBUTE_PRIVATE.into(),
        flags: 0,
    };
    vm.vm().set_memory_attributes(private).unwrap();
    let ended = waits_while(&guest, page, || drop(slot));
    assert_eq!(ended, Err(Ended::Stop(Stop::NoMemory(2 << 30))));
}

/// A processor that waits for a word to change, as something is done to the memory that it is in.
fn waits_while(guest: &Guest, page: usize, work: impl FnOnce()) -> Result<u64, Ended> {
    let mut vcpu = guest.processor(0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            loop {
                match vcpu.wait_for(page) {
                    Err(Ended::Interrupted) => {}
                    ended => return ended,
                }
            }
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiter.is_finished());
        work();
        waiter.join().unwrap()
    })
}
