//! Conversions on the backings that need no virtual machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eyes;

use eyes::read_by_kernel;
use rustix::io::Errno;
use std::time::Duration;
use strongroom_core::driver::DEVICE;
use strongroom_guest::backing::{DriverPoison, Plain, Poison};
use strongroom_guest::{Contents, Error, GuestRegion, PAGE, PageState, Side, Why, ram};
use vm_memory::{Bytes, GuestMemoryRegion, MemoryRegionAddress};

const MIB: usize = 1 << 20;

/// What a kernel says that knows no NUMA nodes.
const NO_NODES: Error = Error::Kernel {
    call: "mbind",
    errno: Errno::NOSYS,
};

fn poison(len: usize) -> GuestRegion {
    GuestRegion::new(0x10_0000, Poison::new(len).unwrap()).unwrap()
}

/// Those that hide pages in place, one by one: the driver's, too, where that is loaded.
fn each(len: usize, test: impl Fn(GuestRegion)) {
    test(poison(len));
    if std::path::Path::new(DEVICE).exists() {
        eprintln!("driver-poison:");
        test(GuestRegion::new(0x10_0000, DriverPoison::new(len).unwrap()).unwrap());
    }
}

fn alias(region: &GuestRegion, offset: usize) -> *mut u8 {
    region.backing().guest_alias().unwrap().wrapping_add(offset)
}

fn view(region: &GuestRegion, offset: usize) -> *mut u8 {
    region.backing().host().wrapping_add(offset)
}

#[test]
fn a_private_page_is_gone_from_the_view_and_the_guest_keeps_it() {
    each(MIB, |region| {
        for page in 0..MIB / PAGE {
            region
                .write_obj(page as u64 + 1, MemoryRegionAddress((page * PAGE) as u64))
                .unwrap();
        }
        let (from, to) = (16 * PAGE, 48 * PAGE);
        region
            .convert(from..to, Side::Private, Contents::Kept, Duration::ZERO)
            .unwrap();
        for page in 0..MIB / PAGE {
            let at = page * PAGE;
            let private = (from..to).contains(&at);
            // The control: the same read of the pages around it.
            let seen = read_by_kernel(view(&region, at));
            assert_eq!(seen.is_err(), private, "page {page}: {seen:?}");
            assert_eq!(read_by_kernel(alias(&region, at)), Ok((page + 1) as u8));
            let address = MemoryRegionAddress(at as u64);
            let answer = region.read_obj::<u64>(address);
            match &answer {
                Err(error) => {
                    assert!(private);
                    let Some(Error::Refused(refused)) = ram::cause(error) else {
                        panic!("{error:?}");
                    };
                    assert_eq!((refused.page, refused.why), (page, Why::Private));
                }
                Ok(value) => assert_eq!((*value, private), (page as u64 + 1, false)),
            }
        }
        // And back, with what the guest has written meanwhile.
        // SAFETY: the guest's own mapping.
        unsafe { alias(&region, from).write_volatile(0x77) };
        region
            .convert(from..to, Side::Shared, Contents::Kept, Duration::ZERO)
            .unwrap();
        assert_eq!(read_by_kernel(view(&region, from)), Ok(0x77));
        assert_eq!(
            region
                .read_obj::<u64>(MemoryRegionAddress((from + PAGE) as u64))
                .unwrap(),
            18
        );
    });
}

#[test]
fn what_is_dropped_is_zero_on_the_other_side() {
    each(MIB, |region| {
        for side in [Side::Private, Side::Shared] {
            // SAFETY: the guest's own mapping.
            unsafe { alias(&region, PAGE).write_volatile(9) };
            region
                .convert(PAGE..2 * PAGE, side, Contents::Dropped, Duration::ZERO)
                .unwrap();
            assert_eq!(read_by_kernel(alias(&region, PAGE)), Ok(0));
            let seen = read_by_kernel(view(&region, PAGE));
            assert_eq!(seen.is_err(), side == Side::Private);
        }
    });
}

#[test]
fn a_slice_that_a_device_keeps_is_named() {
    each(MIB, |region| {
        let slice = region
            .get_slice(MemoryRegionAddress(5 * PAGE as u64 - 1), 2)
            .unwrap();
        let part = slice.subslice(1, 1).unwrap();
        drop(slice);
        let convert = || region.convert(0..MIB, Side::Private, Contents::Kept, Duration::ZERO);
        let Err(Error::Refused(refused)) = convert() else {
            panic!("a held page was converted");
        };
        let held = Why::Held {
            guards: 1,
            pages: 1,
        };
        assert_eq!((refused.page, refused.why), (5, held));
        assert_eq!(region.state(0), Some(PageState::Shared { guards: 0 }));
        assert_eq!(read_by_kernel(view(&region, 0)), Ok(0));
        drop(part);
        convert().unwrap();
        assert!(read_by_kernel(view(&region, 0)).is_err());
    });
}

#[test]
fn a_conversion_waits_for_who_lets_go_in_time() {
    each(MIB, |region| {
        let guard = region.guard(0..1).unwrap();
        std::thread::scope(|scope| {
            let converter = scope.spawn(|| {
                region.convert(
                    0..PAGE,
                    Side::Private,
                    Contents::Kept,
                    Duration::from_secs(60),
                )
            });
            while region.state(0)
                != Some(PageState::Converting {
                    to: Side::Private,
                    guards: 1,
                })
            {
                std::thread::yield_now();
            }
            assert!(region.guard(0..1).is_err());
            drop(guard);
            converter.join().unwrap().unwrap();
        });
        assert_eq!(region.state(0), Some(PageState::Private));
    });
}

#[test]
fn a_device_gone_wrong_does_not_keep_a_page_in_the_view() {
    // It touches the page without a guard, as fast as it can, while it is converted.
    each(MIB, |region| {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = read_by_kernel(view(&region, 0));
                }
            });
            for _ in 0..300 {
                region
                    .convert(0..MIB, Side::Private, Contents::Kept, Duration::ZERO)
                    .unwrap();
                assert!(read_by_kernel(view(&region, 0)).is_err());
                region
                    .convert(0..MIB, Side::Shared, Contents::Kept, Duration::ZERO)
                    .unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[test]
fn a_regular_machine_has_no_private_pages() {
    let region = GuestRegion::new(0, Plain::new(MIB).unwrap()).unwrap();
    assert_eq!(
        region.convert(0..PAGE, Side::Private, Contents::Kept, Duration::ZERO),
        Err(Error::NeverPrivate("plain"))
    );
    region.write_obj(7u32, MemoryRegionAddress(0)).unwrap();
    assert_eq!(region.state(0), Some(PageState::Shared { guards: 0 }));
    assert!(!region.receipt().complete());
}

#[test]
fn bad_ranges_change_nothing() {
    each(MIB, |region| {
        let convert = |bytes| region.convert(bytes, Side::Private, Contents::Kept, Duration::ZERO);
        assert_eq!(convert(1..PAGE), Err(Error::Misaligned(1)));
        assert_eq!(convert(0..PAGE + 1), Err(Error::Misaligned(4097)));
        assert!(matches!(convert(PAGE..PAGE), Err(Error::NoRange { .. })));
        let Err(Error::Refused(refused)) = convert(MIB - PAGE..MIB + PAGE) else {
            panic!("past the end");
        };
        assert_eq!(refused.why, Why::OutOfRange { pages: 256 });
        assert!(GuestRegion::new(1, Plain::new(PAGE).unwrap()).is_err());
        assert!(GuestRegion::new(u64::MAX - 4095, Plain::new(2 * PAGE).unwrap()).is_err());
        assert!(matches!(Plain::new(0), Err(Error::NoRange { .. })));
        assert!(matches!(Plain::new(5), Err(Error::Misaligned(5))));
        assert!(region.get_slice(MemoryRegionAddress(u64::MAX), 2).is_err());
        assert!(
            region
                .get_slice(MemoryRegionAddress(MIB as u64 - 1), 2)
                .is_err()
        );
        assert!(
            (0..MIB)
                .step_by(PAGE)
                .all(|at| region.state(at) == Some(PageState::Shared { guards: 0 }))
        );
    });
}

#[test]
fn a_balloon_takes_contents_and_no_sides() {
    each(MIB, |region| {
        match region.bind(0..MIB, 1) {
            Ok(()) => {}
            // It is there already.
            Err(Error::NotOffered { .. }) if region.backing().name() == "driver-poison" => {}
            Err(error) => assert_eq!(error, NO_NODES),
        }
        let mut told = Vec::new();
        region.populate(0..MIB, |done| told.push(done)).unwrap();
        assert_eq!(told, [MIB]);
        for page in 0..4 {
            // SAFETY: the guest's own mapping.
            unsafe { alias(&region, page * PAGE).write_volatile(5) };
        }
        region
            .convert(
                PAGE..3 * PAGE,
                Side::Private,
                Contents::Kept,
                Duration::ZERO,
            )
            .unwrap();
        region.discard(0..4 * PAGE).unwrap();
        for page in 0..4 {
            assert_eq!(read_by_kernel(alias(&region, page * PAGE)), Ok(0));
            let private = (1..3).contains(&page);
            assert_eq!(
                region.state(page * PAGE) == Some(PageState::Private),
                private
            );
            assert_eq!(read_by_kernel(view(&region, page * PAGE)).is_err(), private);
        }
        let guard = region.guard(0..1).unwrap();
        assert!(region.discard(0..PAGE).is_err());
        drop(guard);
        let impossible = Error::Kernel {
            call: "mbind",
            errno: Errno::INVAL,
        };
        let refused = region.bind(0..MIB, 1 << 63).unwrap_err();
        let never = Error::NotOffered {
            backing: "driver-poison",
            what: "a NUMA policy",
        };
        if region.backing().name() == "driver-poison" {
            assert_eq!(refused, never);
        } else {
            assert!([impossible, NO_NODES].contains(&refused), "{refused}");
        }
    });
}

#[test]
fn locked_memory_is_converted_in_place() {
    each(16 * PAGE, |region| {
        region.lock(0..16 * PAGE).unwrap();
        // SAFETY: the guest's own mapping.
        unsafe { alias(&region, 0).write_volatile(3) };
        for side in [Side::Private, Side::Shared] {
            region
                .convert(0..16 * PAGE, side, Contents::Kept, Duration::ZERO)
                .unwrap();
            assert_eq!(
                read_by_kernel(view(&region, 0)).is_err(),
                side == Side::Private
            );
            assert_eq!(read_by_kernel(alias(&region, 0)), Ok(3));
        }
    });
}

#[test]
fn nothing_private_is_in_a_snapshot() {
    each(4 * PAGE, |region| {
        region.write_obj(7u8, MemoryRegionAddress(0)).unwrap();
        let mut out = Vec::new();
        region.snapshot(&mut out).unwrap();
        assert_eq!((out.len(), out[0]), (4 * PAGE, 7));
        region
            .convert(
                PAGE..2 * PAGE,
                Side::Private,
                Contents::Kept,
                Duration::ZERO,
            )
            .unwrap();
        let mut out = Vec::new();
        let error = region.snapshot(&mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no snapshot: at offset 0x1000: page 1 is private to the guest"
        );
        assert!(out.is_empty());
    });
}

#[test]
fn a_tebibyte_costs_nothing_until_it_is_used() {
    let region = poison(1 << 40);
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
        pages * PAGE
    };
    let before = resident();
    region.write_obj(1u8, MemoryRegionAddress(1 << 39)).unwrap();
    region
        .convert(
            1 << 38..(1 << 38) + MIB,
            Side::Private,
            Contents::Kept,
            Duration::ZERO,
        )
        .unwrap();
    // Other tests run meanwhile.
    assert!(resident() < before + 64 * MIB);
    assert_eq!(
        region.state((1 << 40) - 1),
        Some(PageState::Shared { guards: 0 })
    );
}
