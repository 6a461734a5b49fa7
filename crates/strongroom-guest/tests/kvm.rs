//! Guest memory in KVM machines, on every backing that this kernel can hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guest;

use guest::{Ended, Guest, MIB, RAM, address, kvm, lacking, machine, skip};
use kvm_bindings::{
    KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_MEMORY_EXIT_FLAG_PRIVATE, KVM_X86_SW_PROTECTED_VM,
    kvm_create_guest_memfd, kvm_memory_attributes,
};
use kvm_ioctls::Kvm;
use rustix::fd::{AsFd, FromRawFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::io::Errno;
use std::sync::Arc;
use std::time::Duration;
use strongroom_core::{Protection, Protections, Reason};
use strongroom_guest::backing::{Attributes, Limit, Pair, Plain, Poison, best};
use strongroom_guest::kvm::exit::{Outcome, Stop};
use strongroom_guest::kvm::request::{Answer, Function, KEEP, Request, VERSION};
use strongroom_guest::kvm::{Limits, Machine, Source};
use strongroom_guest::{Contents, Error, GuestRegion, PAGE, PageState, Side, Why, ram};
use strongroom_sys::peek::Ring;
use vm_memory::{Bytes, GuestAddress, MemoryRegionAddress};

const WORDS: usize = PAGE / 8;

const PLENTY: Limits = Limits {
    requests: u32::MAX,
    pages: u32::MAX,
    most: u32::MAX,
    patience: Duration::from_secs(5),
};

fn ordinary(kvm: &Kvm) -> Arc<Machine> {
    machine(kvm, 0, None).unwrap()
}

/// Each backing of this kernel, with limits that no test meets.
fn each(len: usize, test: impl FnMut(&'static str, Guest)) {
    guest::each(len, PLENTY, test);
}

/// What the kernel says to a system call that reads a page there.
fn read_by_kernel(address: *const u8) -> Result<[u8; PAGE], Errno> {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // SAFETY: the kernel looks at the bytes, and says EFAULT where it cannot.
    let bytes = unsafe { std::slice::from_raw_parts(address, PAGE) };
    let written = rustix::io::write(&writer, bytes)?;
    assert_eq!(written, PAGE);
    let mut got = [0; PAGE];
    assert_eq!(rustix::io::read(&reader, &mut got)?, PAGE);
    Ok(got)
}

/// Fills pages through the monitor's own way: words that count up from `first`.
fn host_fill(guest: &Guest, page: usize, pages: usize, first: u64) {
    let words: Vec<u8> = (0..(pages * WORDS) as u64)
        .flat_map(|word| (first + word).to_ne_bytes())
        .collect();
    guest
        .ram
        .write_slice(&words, GuestAddress(address(page)))
        .unwrap();
}

fn host_reads(guest: &Guest, page: usize, pages: usize) -> Vec<u64> {
    let mut bytes = vec![0; pages * PAGE];
    guest
        .ram
        .read_slice(&mut bytes, GuestAddress(address(page)))
        .unwrap();
    bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
        .collect()
}

fn counts(first: u64, pages: usize) -> Vec<u64> {
    (first..first + (pages * WORDS) as u64).collect()
}

/// Private pages: the monitor has a typed error, and its own mapping does not hold what the guest wrote.
fn assert_hidden(guest: &Guest, page: usize, pages: usize, secret: u64) {
    for page in page..page + pages {
        let error = guest
            .ram
            .read_obj::<u64>(GuestAddress(address(page)))
            .unwrap_err();
        let Some(Error::Refused(refused)) = ram::cause(&error) else {
            panic!("{error:?}");
        };
        assert_eq!(refused.why, Why::Private);
        let view = guest.region().backing().host().wrapping_add(page * PAGE);
        if let Ok(bytes) = read_by_kernel(view) {
            let leaked = bytes.iter().any(|byte| *byte != 0);
            assert!(!leaked, "page {page} shows some of {secret:#x}");
        }
    }
}

/// Ranges in pages: single ones, odd ones, and 2 MiB ones.
const RANGES: [(usize, usize); 7] = [
    (0, 1),
    (7, 1),
    (511, 2),
    (3, 13),
    (512, 512),
    (500, 530),
    (0, 1536),
];

#[test]
fn contents_go_with_the_page_both_ways() {
    each(8 * MIB, |name, guest| {
        let mut vcpu = guest.processor(0);
        for (page, pages) in RANGES {
            let words = pages * WORDS;
            host_fill(&guest, page, pages, 0x1000_0000);
            assert_eq!(vcpu.differs(page, words, 0x1000_0000), None);
            guest
                .convert(page..page + pages, Side::Private, Contents::Kept)
                .unwrap();
            assert_eq!(
                vcpu.differs(page, words, 0x1000_0000),
                None,
                "{name}, {pages} pages at {page}, private"
            );
            // A stray touch puts pages there that KVM could take for the guest's: its shadow page tables, where it
            // has them, look ahead by the address of the slot, whatever file that is of.
            assert_hidden(&guest, page, pages, 0x1000_0000);
            guest
                .convert(page..page + pages, Side::Shared, Contents::Kept)
                .unwrap();
            guest
                .convert(page..page + pages, Side::Private, Contents::Dropped)
                .unwrap();
            assert_hidden(&guest, page, pages, 0x1000_0000);
            vcpu.fill(page, words, 0x7777_0000_0000);
            assert_hidden(&guest, page, pages, 0x7777_0000_0000);
            guest
                .convert(page..page + pages, Side::Shared, Contents::Kept)
                .unwrap();
            assert_eq!(
                host_reads(&guest, page, pages),
                counts(0x7777_0000_0000, pages),
                "{name}"
            );
            assert_eq!(vcpu.differs(page, words, 0x7777_0000_0000), None);
        }
    });
}

#[test]
fn what_is_dropped_is_zero_for_both() {
    each(8 * MIB, |name, guest| {
        let mut vcpu = guest.processor(0);
        for (page, pages) in RANGES {
            for side in [Side::Private, Side::Shared] {
                vcpu.fill(page, pages * WORDS, 0x5555);
                guest
                    .convert(page..page + pages, side, Contents::Dropped)
                    .unwrap();
                for at in [page, page + pages / 2, page + pages - 1] {
                    assert_eq!(vcpu.read(at, 0), Ok(0), "{name}: page {at} to {side:?}");
                    assert_eq!(vcpu.read(at, PAGE - 8), Ok(0));
                }
                if side == Side::Shared {
                    assert!(
                        host_reads(&guest, page, pages)
                            .iter()
                            .all(|word| *word == 0)
                    );
                }
            }
        }
    });
}

#[test]
fn pages_around_stay_as_they_are() {
    each(8 * MIB, |name, guest| {
        let mut vcpu = guest.processor(0);
        let pages = 8 * MIB / PAGE;
        vcpu.fill(0, pages * WORDS, 1);
        // Every third page, and then larger pieces across them.
        for page in (0..pages).step_by(3) {
            guest
                .convert(page..page + 1, Side::Private, Contents::Kept)
                .unwrap();
        }
        assert_eq!(vcpu.differs(0, pages * WORDS, 1), None, "{name}");
        for page in 0..pages {
            let private = page % 3 == 0;
            let read = guest.ram.read_obj::<u64>(GuestAddress(address(page)));
            assert_eq!(read.is_err(), private);
            if let Ok(word) = read {
                assert_eq!(word, (page * WORDS) as u64 + 1);
            }
        }
        guest
            .convert(1..pages - 1, Side::Private, Contents::Kept)
            .unwrap();
        assert_eq!(vcpu.differs(0, pages * WORDS, 1), None, "{name}");
        guest
            .convert(0..pages, Side::Shared, Contents::Kept)
            .unwrap();
        assert_eq!(host_reads(&guest, 0, pages), counts(1, pages), "{name}");
    });
}

#[test]
fn few_slots_are_split_and_merged() {
    let Some(kvm) = kvm() else { return };
    // So few that none stays split for the next time.
    let vm = machine(&kvm, 0, Some(16)).unwrap();
    let pair = match Pair::new(&vm, 8 * MIB, Side::Shared) {
        Ok(pair) => pair,
        Err(error) => return lacking("pair", error),
    };
    let guest = Guest::new(&kvm, vm, pair, PLENTY);
    let slots = guest.machine.slots().clone();
    // The stub's and four chunks. Nothing that is converted here has to be moved or wiped, so that there is
    // no copying processor with slots of its own.
    assert_eq!(slots.count(), 1 + 4);
    for (pages, side, runs) in [
        (5..6, Side::Private, 6),
        (7..8, Side::Private, 8),
        // Both neighbours are joined.
        (6..7, Side::Private, 6),
        (0..512, Side::Private, 4),
        (0..1024, Side::Private, 4),
        // At the ends of a chunk; and across two.
        (0..1, Side::Shared, 5),
        (511..513, Side::Shared, 7),
        (0..2048, Side::Shared, 4),
    ] {
        guest
            .convert(pages.clone(), side, Contents::Dropped)
            .unwrap();
        assert_eq!(slots.count(), 1 + runs, "{pages:?} to {side:?}");
    }
}

#[test]
fn slots_stay_split_while_there_are_many() {
    let Some(kvm) = kvm() else { return };
    let vm = machine(&kvm, 0, Some(64)).unwrap();
    let pair = match Pair::new(&vm, 8 * MIB, Side::Shared) {
        Ok(pair) => pair,
        Err(error) => return lacking("pair", error),
    };
    let guest = Guest::new(&kvm, vm, pair, PLENTY);
    let slots = guest.machine.slots().clone();
    let convert = |pages, side| guest.convert(pages, side, Contents::Dropped);
    // As above, and an eighth of them is 8. A page that goes back and forth splits its chunk once.
    for (pages, side, runs) in [
        (5..6, Side::Private, 6),
        (5..6, Side::Shared, 6),
        (5..6, Side::Private, 6),
        (0..512, Side::Private, 6),
        (0..512, Side::Shared, 4),
        (5..6, Side::Private, 6),
        (9..10, Side::Private, 8),
        // By now it is joined where it can be.
        (9..10, Side::Shared, 6),
        (5..6, Side::Shared, 6),
    ] {
        convert(pages.clone(), side).unwrap();
        assert_eq!(slots.count(), 1 + runs, "{pages:?} to {side:?}");
    }
    // The two that it has too many are there for others: 29 pages take all of 64.
    for page in 0..29 {
        let page = 513 + 2 * page;
        convert(page..page + 1, Side::Private).unwrap();
    }
    assert_eq!(slots.count(), 1 + 4 + 2 * 29);
    let error = convert(1000..1001, Side::Private).unwrap_err();
    assert_eq!(error, Error::SlotsExhausted { most: 64 });
}

#[test]
fn no_more_slots_is_an_error_and_changes_nothing() {
    let Some(kvm) = kvm() else { return };
    let vm = machine(&kvm, 0, Some(8)).unwrap();
    let pair = match Pair::new(&vm, 2 * MIB, Side::Shared) {
        Ok(pair) => pair,
        Err(error) => return lacking("pair", error),
    };
    let guest = Guest::new(&kvm, vm, pair, PLENTY);
    let mut vcpu = guest.processor(0);
    vcpu.fill(0, 512 * WORDS, 1);
    let mut converted = Vec::new();
    let error = (1..512)
        .step_by(2)
        .find_map(|page| {
            let result = guest.convert(page..page + 1, Side::Private, Contents::Kept);
            converted.extend(result.is_ok().then_some(page));
            result.err()
        })
        .expect("eight slots are enough for 512 runs");
    assert_eq!(error, Error::SlotsExhausted { most: 8 });
    assert_eq!(vcpu.differs(0, 512 * WORDS, 1), None);
    for page in 0..512 {
        let private = guest.region().state(page * PAGE) == Some(PageState::Private);
        assert_eq!(private, converted.contains(&page));
    }
    // And all of it can become private still, which takes fewer.
    guest
        .convert(0..512, Side::Private, Contents::Kept)
        .unwrap();
    assert_eq!(vcpu.differs(0, 512 * WORDS, 1), None);
}

#[test]
fn what_is_done_when_slots_run_out_is_told() {
    let Some(kvm) = kvm() else { return };
    // The stub, two chunks, and one more.
    let vm = machine(&kvm, 0, Some(4)).unwrap();
    let pair = match Pair::new(&vm, 4 * MIB, Side::Shared) {
        Ok(pair) => pair,
        Err(error) => return lacking("pair", error),
    };
    let guest = Guest::new(&kvm, vm, pair, PLENTY);
    let mut vcpu = guest.processor(0);
    vcpu.fill(0, 1024 * WORDS, 1);
    // The first chunk is split, and the second one cannot be.
    let error = guest
        .convert(511..514, Side::Private, Contents::Dropped)
        .unwrap_err();
    assert!(matches!(error, Error::Partly { done: 1, .. }), "{error:?}");
    for page in 510..515 {
        let private = guest.region().state(page * PAGE) == Some(PageState::Private);
        assert_eq!(private, page == 511);
        let word = (page * WORDS) as u64 + 1;
        assert_eq!(vcpu.read(page, 0), Ok(if private { 0 } else { word }));
    }
}

#[test]
fn a_guest_asks_for_its_pages() {
    each(4 * MIB, |name, guest| {
        let mut vcpu = guest.processor(0);
        let mut ask = |function: Function, page: usize, pages: usize, flags| {
            vcpu.request(Request {
                function: function as u64,
                address: address(page),
                length: (pages * PAGE) as u64,
                flags,
            })
        };
        assert_eq!(ask(Function::Version, 0, 0, 0), VERSION);
        assert_eq!(ask(Function::State, 3, 0, 0), 0);
        assert_eq!(ask(Function::Hide, 3, 2, KEEP), 0);
        assert_eq!(ask(Function::State, 3, 0, 0), 1);
        assert_eq!(guest.region().state(4 * PAGE), Some(PageState::Private));
        assert_eq!(ask(Function::Share, 3, 1, 0), 0);
        assert_eq!(ask(Function::State, 3, 0, 0), 0);
        assert_eq!(ask(Function::State, 4, 0, 0), 1, "{name}");
        // Held by a device.
        let slice = guest.region().slice(8 * PAGE..8 * PAGE + 1).unwrap();
        let desk = strongroom_guest::kvm::Desk::new(
            Arc::clone(&guest.ram),
            Limits {
                patience: Duration::ZERO,
                ..PLENTY
            },
        );
        let hide = Request {
            function: Function::Hide as u64,
            address: address(8),
            length: PAGE as u64,
            flags: KEEP,
        };
        assert_eq!(desk.answer(hide), Answer::InUse);
        drop(slice);
        assert_eq!(desk.answer(hide), Answer::Done(0));
        // KVM's own hypercall: private has bit 4.
        assert_eq!(desk.map_gpa_range([address(16), 2, 1 << 4, 0, 0, 0]), 0);
        assert_eq!(guest.region().state(17 * PAGE), Some(PageState::Private));
        assert_eq!(desk.map_gpa_range([address(16), 2, 0, 0, 0, 0]), 0);
        assert_eq!(
            desk.map_gpa_range([address(16), u64::MAX, 0, 0, 0, 0]) as i64,
            -7
        );
        assert_eq!(desk.map_gpa_range([1, 1, 0, 0, 0, 0]) as i64, -22);
    });
}

#[test]
fn nonsense_and_floods_are_refused() {
    let Some(kvm) = kvm() else { return };
    let limits = Limits {
        requests: 200,
        pages: 1000,
        most: 600,
        patience: Duration::from_millis(1),
    };
    let vm = ordinary(&kvm);
    let poison = Poison::new(4 * MIB).unwrap();
    let guest = Guest::new(&kvm, vm, poison, limits);
    let mut vcpu = guest.processor(0);
    let page = PAGE as u64;
    let mut ask = |function, address, length, flags| {
        vcpu.request(Request {
            function,
            address,
            length,
            flags,
        })
    };
    let hide = Function::Hide as u64;
    for (what, answer) in [
        (ask(99, RAM, page, 0), Answer::Unknown),
        (ask(u64::MAX, RAM, page, 0), Answer::Unknown),
        (ask(hide, RAM, page, 2), Answer::Unknown),
        (
            ask(Function::State as u64, RAM, page, KEEP),
            Answer::Unknown,
        ),
        (ask(hide, RAM + 1, page, 0), Answer::Misaligned),
        (ask(hide, RAM, page + 8, 0), Answer::Misaligned),
        (ask(hide, RAM, 0, 0), Answer::Misaligned),
        (ask(hide, 0, page, 0), Answer::NoMemory),
        (ask(hide, RAM + 4 * MIB as u64, page, 0), Answer::NoMemory),
        (
            ask(hide, RAM + 4 * MIB as u64 - page, 2 * page, 0),
            Answer::NoMemory,
        ),
        (ask(hide, u64::MAX - 4095, page, 0), Answer::NoMemory),
        (ask(hide, u64::MAX - 4095, 2 * page, 0), Answer::NoMemory),
        (ask(hide, RAM, 601 * page, 0), Answer::TooLong),
        (ask(hide, RAM, u64::MAX - 4095, 0), Answer::TooLong),
        (ask(Function::State as u64, RAM - 1, 0, 0), Answer::NoMemory),
    ] {
        assert_eq!(what, answer.code(), "{answer:?}");
    }
    let answers: Vec<_> = (0..2000)
        .map(|index| ask(hide, RAM + (index % 100) * page, page, 0))
        .collect();
    let done = answers.iter().filter(|answer| **answer == 0).count();
    let refused = answers
        .iter()
        .filter(|answer| **answer == Answer::TooOften.code())
        .count();
    assert_eq!(done + refused, 2000);
    assert!(done > 0 && refused > 0, "{done} of 2000 were done");
    // And the guest goes on.
    assert_eq!(ask(Function::Version as u64, 0, 0, 0), VERSION);
}

#[test]
fn a_regular_machine_runs_and_has_nothing_private() {
    let Some(kvm) = kvm() else { return };
    let guest = Guest::new(&kvm, ordinary(&kvm), Plain::new(4 * MIB).unwrap(), PLENTY);
    let mut vcpu = guest.processor(0);
    host_fill(&guest, 0, 1024, 5);
    assert_eq!(vcpu.differs(0, 1024 * WORDS, 5), None);
    let answer = vcpu.request(Request {
        function: Function::Hide as u64,
        address: RAM,
        length: PAGE as u64,
        flags: 0,
    });
    assert_eq!(answer, Answer::Unsupported.code());
}

#[test]
fn the_guest_writes_what_the_monitor_can_only_read() {
    each(4 * MIB, |name, guest| {
        let mut vcpu = guest.processor(0);
        vcpu.fill(0, 1024 * WORDS, 1);
        let bytes = 2 * PAGE..700 * PAGE;
        let pages = match guest.region().read_only(bytes.clone()) {
            Ok(pages) => pages,
            // Their files are closed, or not ones that can be sealed.
            Err(Error::NotOffered { .. }) if name != "plain" => return,
            Err(other) => panic!("{name}: {other}"),
        };
        let read = |page: usize| {
            let mut word = [0; 8];
            pages.read((page - 2) * PAGE, &mut word).unwrap();
            u64::from_ne_bytes(word)
        };
        assert_eq!(read(5), (5 * WORDS) as u64 + 1);
        // Pages that are there and have been read, and the guest's mappings of them are made anew.
        vcpu.fill(0, 1024 * WORDS, 0x9999_0000);
        assert_eq!(vcpu.differs(0, 1024 * WORDS, 0x9999_0000), None);
        for page in [2, 5, 511, 512, 699] {
            assert_eq!(read(page), 0x9999_0000 + (page * WORDS) as u64);
        }
        // The guest cannot take them away either.
        let hide = Request {
            function: Function::Hide as u64,
            address: address(5),
            length: PAGE as u64,
            flags: KEEP,
        };
        assert_eq!(vcpu.request(hide), Answer::InUse.code());
        assert_eq!(vcpu.differs(0, 1024 * WORDS, 0x9999_0000), None);
    });
}

#[test]
fn a_processor_that_never_exits_does_not_keep_pages_from_changing() {
    each(4 * MIB, |_, guest| {
        let mut vcpu = guest.processor(0);
        let interrupter = vcpu.interrupter();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(move || {
                loop {
                    match vcpu.wait_for(9) {
                        Ok(value) => return value,
                        // Conversions interrupt it, too.
                        Err(Ended::Interrupted) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
            for _ in 0..50 {
                guest.convert(9..10, Side::Private, Contents::Kept).unwrap();
                guest
                    .convert(0..512, Side::Private, Contents::Kept)
                    .unwrap();
                guest.convert(0..512, Side::Shared, Contents::Kept).unwrap();
            }
            interrupter.interrupt();
            guest
                .ram
                .write_obj(42u64, GuestAddress(address(9)))
                .unwrap();
            assert_eq!(waiter.join().unwrap(), 42);
        });
    });
}

#[test]
fn an_interrupter_brings_a_processor_out_once() {
    let Some(kvm) = kvm() else { return };
    let guest = Guest::new(&kvm, ordinary(&kvm), Plain::new(MIB).unwrap(), PLENTY);
    let mut vcpu = guest.processor(0);
    let interrupter = vcpu.interrupter();
    // Before it runs: it does not go in.
    interrupter.interrupt();
    assert_eq!(vcpu.wait_for(0), Err(Ended::Interrupted));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || vcpu.wait_for(0));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiter.is_finished());
        interrupter.interrupt();
        assert_eq!(waiter.join().unwrap(), Err(Ended::Interrupted));
    });
    // After it is gone, nothing happens.
    interrupter.interrupt();
}

#[test]
fn memory_that_is_gone_stops_the_processor_cleanly() {
    let Some(kvm) = kvm() else { return };
    let guest = Guest::new(&kvm, ordinary(&kvm), Plain::new(MIB).unwrap(), PLENTY);
    let mut vcpu = guest.processor(0);
    vcpu.fill(0, WORDS, 1);
    // Beside the region: a device's address.
    assert!(matches!(
        vcpu.read_at(RAM + MIB as u64),
        Err(Ended::Exit(_))
    ));
    drop(vcpu);
    // A region without a slot.
    let vm = ordinary(&kvm);
    let other = Guest::new(&kvm, Arc::clone(&vm), Plain::new(MIB).unwrap(), PLENTY);
    assert_eq!(other.desk.mmio(RAM), Some(Stop::Hole(RAM)));
    assert_eq!(other.desk.mmio(0xfee0_0000), None);
}

#[test]
fn a_place_is_taken_once_and_by_its_own_machine() {
    let Some(kvm) = kvm() else { return };
    let (one, two) = (ordinary(&kvm), ordinary(&kvm));
    let region = |start| GuestRegion::new(start, Plain::new(MIB).unwrap()).unwrap();
    let first = region(RAM);
    first.place(&one).unwrap();
    assert_eq!(first.place(&one), Err(Error::Placed));
    let overlap = region(RAM + MIB as u64 - PAGE as u64).place(&one);
    assert!(matches!(overlap, Err(Error::Overlap { .. })), "{overlap:?}");
    region(RAM + MIB as u64).place(&one).unwrap();
    drop(first);
    region(RAM).place(&one).unwrap();
    let pair = match Pair::new(&one, MIB, Side::Private) {
        Ok(pair) => pair,
        Err(error) => return lacking("pair", error),
    };
    let pair = GuestRegion::new(RAM, pair).unwrap();
    assert_eq!(pair.place(&two), Err(Error::ForeignMachine));
    let convert = pair.convert(0..PAGE, Side::Shared, Contents::Kept, Duration::ZERO);
    assert_eq!(convert, Err(Error::NotPlaced));
    let answer = pair.read_obj::<u64>(MemoryRegionAddress(0)).unwrap_err();
    assert!(matches!(ram::cause(&answer), Some(Error::Refused(_))));
}

/// A file of guest memory that a page was never shared in, where ordinary machines have such files.
fn private_file(machine: &Machine, len: usize) -> Option<OwnedFd> {
    let wanted = kvm_create_guest_memfd {
        size: len as u64,
        flags: 1,
        ..Default::default()
    };
    let fd = machine.vm().create_guest_memfd(wanted).ok()?;
    // SAFETY: the kernel just gave it to us alone.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[test]
fn a_file_outlives_its_region_and_what_is_gone_stops_the_guest() {
    let Some(kvm) = kvm() else { return };
    let vm = ordinary(&kvm);
    let Some(file) = private_file(&vm, 2 * PAGE) else {
        return lacking("pair", "no private files on ordinary machines");
    };
    let guest = Guest::new(&kvm, Arc::clone(&vm), Plain::new(MIB).unwrap(), PLENTY);
    let mut vcpu = guest.processor(0);
    let high = 2 << 30;
    let there = |file: &OwnedFd| {
        let source = Source::File {
            file: file.as_fd(),
            offset: 0,
            address: core::ptr::null_mut(),
        };
        // SAFETY: there is nothing at the address.
        unsafe { vm.slots().create(high, 2 * PAGE, source) }
    };
    let slot = there(&file).unwrap();
    let page = ((high - RAM) as usize) / PAGE;
    vcpu.fill(page, 2 * WORDS, 0x1234);
    // A file is in one place at a time, and a place has one slot.
    assert!(matches!(there(&file), Err(Error::Overlap { .. })));
    drop(slot);
    // Deleted: nothing is there, and nothing is made up.
    let read = vcpu.read(page, 0);
    assert!(matches!(read, Err(Ended::Exit(_))), "{read:?}");
    drop(vcpu);
    // Put back, it holds what it held.
    let mut vcpu = guest.processor(1);
    let slot = there(&file).unwrap();
    assert_eq!(vcpu.differs(page, 2 * WORDS, 0x1234), None);
    // Its pages are cut out: zero.
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 0, PAGE as u64).unwrap();
    assert_eq!(vcpu.read(page, 8), Ok(0));
    assert_eq!(vcpu.read(page + 1, 0), Ok(0x1234 + WORDS as u64));
    // The last descriptor is closed: the memory is gone.
    drop(file);
    let gone = Ended::Stop(Stop::NoMemory(high));
    assert_eq!(vcpu.read(page, 0), Err(gone));
    drop(slot);
}

#[test]
fn a_stale_pin_sees_nothing_of_the_guest() {
    // A device took its buffer without a guard, before the page became private.
    let Some(kvm) = kvm() else { return };
    let vm = ordinary(&kvm);
    let pair = match Pair::new(&vm, 2 * MIB, Side::Shared) {
        Ok(pair) => pair,
        Err(error) => return lacking("pair", error),
    };
    let Ok(ring) = Ring::new() else {
        return skip("no io_uring here");
    };
    let guest = Guest::new(&kvm, vm, pair, PLENTY);
    let mut vcpu = guest.processor(0);
    host_fill(&guest, 3, 1, 0x5151_5151);
    let view = guest.region().backing().host().wrapping_add(3 * PAGE);
    // SAFETY: the range is the region's, which outlives the ring's use.
    unsafe { ring.register_buffer(view, PAGE) }.unwrap();
    guest.convert(3..4, Side::Private, Contents::Kept).unwrap();
    vcpu.fill(3, WORDS, 0x7777_7777_7777);
    let file = rustix::fs::memfd_create(c"stolen", MemfdFlags::CLOEXEC).unwrap();
    ring.write_fixed(&file, view, PAGE as u32).unwrap();
    let mut stolen = [9; 8];
    rustix::io::pread(&file, &mut stolen, 8).unwrap();
    // Not even what was in it when it became private: it was wiped.
    assert_eq!(u64::from_ne_bytes(stolen), 0);
    assert_eq!(vcpu.differs(3, WORDS, 0x7777_7777_7777), None);
}

#[test]
fn what_a_region_leaves_is_wiped() {
    let Some(kvm) = kvm() else { return };
    let vm = ordinary(&kvm);
    let pair = match Pair::new(&vm, 2 * MIB, Side::Private) {
        Ok(pair) => pair,
        Err(error) => return lacking("pair", error),
    };
    let other = Guest::new(&kvm, Arc::clone(&vm), Plain::new(MIB).unwrap(), PLENTY);
    let mut vcpu = other.processor(0);
    let region = GuestRegion::new(2 << 30, pair).unwrap();
    region.place(&vm).unwrap();
    let first = ((2 << 30) - RAM as usize) / PAGE;
    vcpu.fill(first + 5, WORDS, 0x6666_6666);
    vcpu.fill(first + 400, 2 * WORDS, 0x6666_6666);
    // Somebody keeps the file, as an attacker would: what the kernel would free is in it still.
    let file = region.backing().private_file().unwrap();
    let file = file.try_clone_to_owned().unwrap();
    drop(region);
    let source = Source::File {
        file: file.as_fd(),
        offset: 0,
        address: core::ptr::null_mut(),
    };
    // SAFETY: there is nothing at the address.
    let slot = unsafe { vm.slots().create(2 << 30, 2 * MIB, source) }.unwrap();
    for page in [5, 400, 401] {
        assert_eq!(vcpu.read(first + page, 8), Ok(0));
    }
    drop(slot);
}

#[test]
fn the_best_backing_is_found_by_trying() {
    let Some(kvm) = kvm() else { return };
    let vm = ordinary(&kvm);
    let choice = best(&vm, MIB, Side::Private).unwrap();
    let name = choice.backing.name();
    eprintln!("{name}, {:?}", choice.backing.limits());
    for (refused, why) in &choice.refused {
        eprintln!("  {refused}: {why}");
    }
    let order = ["attributes", "pair", "poison"];
    let place = order.iter().position(|other| *other == name).unwrap();
    let refused: Vec<_> = choice.refused.iter().map(|(name, _)| *name).collect();
    assert_eq!(refused, order[..place]);
    // It works, and it says what it does not do.
    let receipt = choice.backing.receipt();
    assert!(
        receipt
            .held()
            .contains(Protections::NO_CORE_DUMP | Protections::NO_FORK_SHARE)
    );
    let missing = receipt.missing();
    let why = missing.filter(|(lacking, _)| *lacking == Protection::NoVmm);
    assert_eq!(
        why.map(|(_, why)| why).collect::<Vec<_>>(),
        [Reason::GuestSteered]
    );
    assert!(choice.backing.limits().contains(&Limit::DirectMap));
    let guest = Guest::new(&kvm, vm, choice.backing, PLENTY);
    let mut vcpu = guest.processor(0);
    guest.convert(0..1, Side::Private, Contents::Kept).unwrap();
    vcpu.fill(0, WORDS, 77);
    guest.convert(0..1, Side::Shared, Contents::Kept).unwrap();
    assert_eq!(host_reads(&guest, 0, 1), counts(77, 1));
}

#[test]
fn the_wrong_side_of_a_page_stops_the_guest_or_converts_it() {
    let Some(kvm) = kvm() else { return };
    let Some(vm) = machine(&kvm, KVM_X86_SW_PROTECTED_VM.into(), None) else {
        // Not skipped: no kernel has all kinds of machines that are tested here.
        return eprintln!("not here: no machines of that type");
    };
    let private = |private: bool| {
        let attributes = if private {
            KVM_MEMORY_ATTRIBUTE_PRIVATE
        } else {
            0
        };
        vm.vm()
            .set_memory_attributes(kvm_memory_attributes {
                address: address(3),
                size: PAGE as u64,
                attributes: attributes.into(),
                flags: 0,
            })
            .unwrap();
    };
    // A slot that has no private side: KVM_EXIT_MEMORY_FAULT, each time, and nothing is made up.
    let guest = Guest::new(&kvm, Arc::clone(&vm), Plain::new(MIB).unwrap(), PLENTY);
    let mut vcpu = guest.processor(0);
    vcpu.fill(3, WORDS, 5);
    private(true);
    let lost = || Err(Ended::Stop(Stop::Lost(address(3))));
    assert_eq!(vcpu.read(3, 0), lost());
    assert_eq!(vcpu.read(3, 0), lost());
    private(false);
    drop(vcpu);
    let mut vcpu = guest.processor(1);
    assert_eq!(vcpu.differs(3, WORDS, 5), None);
}

#[test]
fn a_fault_is_a_wish_where_the_kernel_knows_sides() {
    let Some(kvm) = kvm() else { return };
    let flags = u64::from(KVM_MEMORY_EXIT_FLAG_PRIVATE);
    let size = PAGE as u64;
    if let Some(vm) = machine(&kvm, KVM_X86_SW_PROTECTED_VM.into(), None) {
        let backing = Attributes::new(&vm, MIB, Side::Shared).unwrap();
        let guest = Guest::new(&kvm, vm, backing, PLENTY);
        let mut vcpu = guest.processor(0);
        for (flags, side) in [
            (flags, PageState::Private),
            (0, PageState::Shared { guards: 0 }),
        ] {
            vcpu.fill(3, WORDS, 5);
            assert_eq!(
                guest.desk.fault(flags, address(3) + 8, size),
                Outcome::Retry
            );
            assert_eq!(guest.region().state(3 * PAGE), Some(side));
            assert_eq!(vcpu.read(3, 8), Ok(0), "contents are dropped");
        }
        // It is where it should be already: somebody was faster; but not for ever.
        let outcomes: Vec<_> = (0..200)
            .map(|_| guest.desk.fault(0, address(3), size))
            .collect();
        assert_eq!(outcomes[0], Outcome::Retry);
        assert_eq!(outcomes[199], Outcome::Stop(Stop::Lost(address(3))));
    }
    // Elsewhere an access says nothing about sides.
    let poison = Poison::new(MIB).unwrap();
    let guest = Guest::new(&kvm, ordinary(&kvm), poison, PLENTY);
    let lost = Outcome::Stop(Stop::Lost(address(3)));
    assert_eq!(guest.desk.fault(flags, address(3), size), lost);
    assert_eq!(guest.desk.fault(0, address(3), size), lost);
    guest.region().poison(3 * PAGE).unwrap();
    let failed = Outcome::Stop(Stop::Poisoned(address(3)));
    assert_eq!(guest.desk.fault(0, address(3), u64::MAX), failed);
    let nowhere = Outcome::Stop(Stop::NoMemory(u64::MAX));
    assert_eq!(guest.desk.fault(0, u64::MAX, u64::MAX), nowhere);
}
