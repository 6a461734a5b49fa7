//! Guards in the slots of threads: how many there are, what becomes of them when their thread ends, and that
//! conversions count them right.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;
use strongroom_guest::backing::Poison;
use strongroom_guest::{
    Contents, CountedGuard, Error, Guard, GuestRegion, PAGE, PageState, Refused, Side, Why,
};
use vm_memory::{Bytes, MemoryRegionAddress};

const MIB: usize = 1 << 20;

fn region() -> GuestRegion {
    GuestRegion::new(0x10_0000, Poison::new(MIB).unwrap()).unwrap()
}

fn hide(region: &GuestRegion, patience: Duration) -> Result<(), Refused> {
    match region.convert(0..MIB, Side::Private, Contents::Kept, patience) {
        Ok(()) => Ok(()),
        Err(Error::Refused(refused)) => Err(refused),
        Err(other) => panic!("{other}"),
    }
}

fn guards(region: &GuestRegion, page: usize) -> u32 {
    match region.state(page * PAGE) {
        Some(PageState::Shared { guards }) => guards,
        other => panic!("{other:?}"),
    }
}

#[test]
fn more_guards_than_a_record_has_slots() {
    let region = region();
    let page = |page: usize| page * PAGE..page * PAGE + 1;
    // Long ones and short ones, and some twice.
    let mut held: Vec<_> = (0..100).map(|n| region.slice(page(n)).unwrap()).collect();
    held.extend((0..50).map(|n| region.slice(page(n)).unwrap()));
    let wide = region.guard(20 * PAGE..120 * PAGE).unwrap();
    assert_eq!((guards(&region, 10), guards(&region, 30)), (2, 3));
    assert_eq!(
        (
            guards(&region, 60),
            guards(&region, 110),
            guards(&region, 120)
        ),
        (2, 1, 0)
    );
    // Each still works.
    for (n, slice) in held.iter().enumerate() {
        slice.write_obj(n as u8, 0).unwrap();
    }
    let refused = hide(&region, Duration::ZERO).unwrap_err();
    let held_by = |guards, pages| Why::Held { guards, pages };
    assert_eq!((refused.page, refused.why), (0, held_by(2, 120)));
    drop(held);
    let refused = hide(&region, Duration::ZERO).unwrap_err();
    assert_eq!((refused.page, refused.why), (20, held_by(1, 100)));
    let again = wide.clone();
    drop(wide);
    assert_eq!(guards(&region, 119), 1);
    drop(again);
    hide(&region, Duration::ZERO).unwrap();
}

#[test]
fn slots_and_counts_of_all_threads_are_counted_together() {
    let region = region();
    let slice = region.slice(5 * PAGE..7 * PAGE).unwrap();
    let counted = region.counted_guard(6 * PAGE..6 * PAGE + 1).unwrap();
    let (ready, is_ready) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let region = &region;
        scope.spawn(move || {
            let _guard = region.guard(5 * PAGE..9 * PAGE).unwrap();
            // It may go where it likes.
            drop(counted);
            let _counted = region.counted_guard(6 * PAGE..7 * PAGE).unwrap();
            ready.send(()).unwrap();
            let _ = ends.recv();
        });
        is_ready.recv().unwrap();
        let refused = hide(region, Duration::from_millis(1)).unwrap_err();
        let why = Why::Held {
            guards: 2,
            pages: 4,
        };
        assert_eq!((refused.page, refused.why), (5, why));
        assert_eq!(guards(region, 6), 3);
        let Err(Error::Refused(refused)) = region.pin(8 * PAGE..10 * PAGE) else {
            panic!("pinned what another thread holds");
        };
        let why = Why::Held {
            guards: 1,
            pages: 1,
        };
        assert_eq!((refused.page, refused.why), (8, why));
        assert!(region.discard(8 * PAGE..9 * PAGE).is_err());
        drop(region.pin(9 * PAGE..10 * PAGE).unwrap());
        drop(slice);
        drop(end);
        // The other thread lets go meanwhile.
        hide(region, Duration::from_secs(60)).unwrap();
    });
}

#[test]
fn who_waits_goes_on_when_a_slot_is_free() {
    let region = region();
    let slice = region.slice(0..10).unwrap();
    std::thread::scope(|scope| {
        let converter = scope.spawn(|| hide(&region, Duration::from_secs(60)));
        let draining = PageState::Converting {
            to: Side::Private,
            guards: 1,
        };
        while region.state(0) != Some(draining) {
            std::thread::yield_now();
        }
        // Nobody gets in any more, and a part of what is held is held on.
        assert!(region.guard(0..1).is_err());
        let part = slice.subslice(4, 2).unwrap();
        drop(slice);
        assert_eq!(region.state(0), Some(draining));
        drop(part);
        converter.join().unwrap().unwrap();
    });
}

#[test]
fn a_slot_that_is_left_behind_stays_taken() {
    let region = region();
    for round in 0..20 {
        std::thread::scope(|scope| {
            let leak = || std::mem::forget(region.guard(0..PAGE).unwrap());
            scope.spawn(leak).join().unwrap();
            // Later threads have its record, and all the guards that they want.
            let use_all = || {
                let guards: Vec<_> = (1..20)
                    .map(|page| region.guard(page * PAGE..(page + 1) * PAGE).unwrap())
                    .collect();
                drop(guards);
            };
            scope.spawn(use_all).join().unwrap();
        });
        assert_eq!(guards(&region, 0), round + 1);
    }
    let refused = hide(&region, Duration::ZERO).unwrap_err();
    let why = Why::Held {
        guards: 20,
        pages: 1,
    };
    assert_eq!((refused.page, refused.why), (0, why));
    // The next region is likely to have its states where this one had them.
    drop(region);
    hide(&self::region(), Duration::ZERO).unwrap();
}

/// Holds a page in a thread that ends, past the end of whatever the thread has for it.
struct Last(RefCell<Option<Guard<'static>>>);

impl Drop for Last {
    fn drop(&mut self) {
        let region = LASTING.get().unwrap();
        let another = region.guard(PAGE..2 * PAGE).unwrap();
        assert_eq!(guards(region, 1), 1);
        drop(another);
        assert_eq!(guards(region, 1), 0);
        let held = self.0.take().unwrap();
        assert_eq!(guards(region, 0), 1);
        drop(held);
        assert_eq!(guards(region, 0), 0);
    }
}

static LASTING: OnceLock<GuestRegion> = OnceLock::new();

#[test]
fn a_thread_lets_go_after_its_record_is_gone() {
    thread_local! {
        static FIRST: Last = const { Last(RefCell::new(None)) };
        static SECOND: Last = const { Last(RefCell::new(None)) };
    }
    let region = LASTING.get_or_init(region);
    // One of them is dropped after the record is given back, whichever order destructors run in.
    let run = |last: &'static std::thread::LocalKey<Last>, first: bool| {
        std::thread::spawn(move || {
            if first {
                last.with(|_| ());
            }
            let guard = region.guard(0..PAGE).unwrap();
            last.with(|last| *last.0.borrow_mut() = Some(guard));
        })
        .join()
        .unwrap();
    };
    run(&FIRST, true);
    run(&SECOND, false);
    hide(region, Duration::ZERO).unwrap();
}

#[test]
fn counted_guards_may_go_to_other_threads() {
    fn goes<T: Send>(_: &T) {}
    let region = region();
    let guard: CountedGuard<'_> = region.counted_guard(0..PAGE).unwrap();
    goes(&guard);
    std::thread::scope(|scope| scope.spawn(move || drop(guard)).join().unwrap());
    hide(&region, Duration::ZERO).unwrap();
}

#[test]
fn no_access_meets_a_private_page_and_none_is_lost() {
    // Threads that read and write through their slots, as fast as they can, while pages come and go.
    let region = region();
    let pages = 4;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let (region, stop) = (&region, &stop);
        let threads: Vec<_> = (0..3)
            .map(|thread: usize| {
                scope.spawn(move || {
                    let mut counts = vec![0u64; pages];
                    let mut page = 0;
                    while !stop.load(relaxed) {
                        page = (page + 1) % pages;
                        let at = MemoryRegionAddress((page * PAGE + thread * 8) as u64);
                        // A private page raises SIGBUS where it is touched.
                        if let Ok(seen) = region.read_obj::<u64>(at) {
                            assert_eq!(seen, counts[page]);
                            if region.write_obj(seen + 1, at).is_ok() {
                                counts[page] += 1;
                            }
                        }
                    }
                    counts
                })
            })
            .collect();
        let mut converted = 0;
        for round in 0..3000 {
            let bytes = (round % pages) * PAGE..pages * PAGE;
            for side in [Side::Private, Side::Shared] {
                let patience = Duration::from_millis(100);
                let result = region.convert(bytes.clone(), side, Contents::Kept, patience);
                converted += u32::from(result.is_ok());
            }
        }
        assert!(converted > 1000, "{converted}");
        stop.store(true, relaxed);
        for (thread, counts) in threads.into_iter().enumerate() {
            for (page, count) in counts.join().unwrap().into_iter().enumerate() {
                let at = MemoryRegionAddress((page * PAGE + thread * 8) as u64);
                assert_eq!(region.read_obj::<u64>(at).unwrap(), count);
            }
        }
    });
}
