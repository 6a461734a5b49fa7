//! Every interleaving of two and three threads, by loom: nobody touches a page while it is somebody
//! else's, whatever was done under a guard is seen by who converts, and it ends.
//!
//! loom's cell fails the test where a write is not ordered after all other accesses. Two threads are
//! tried in every interleaving, three in all with up to three preemptions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use loom::thread;
use strongroom_core::page::{
    AtomicAddress, AtomicWord, Fence, Holders, PageState, PageStates, Parking, Record, Roll, Side,
    Slot, SlotGuard, Why,
};

/// loom's atomic word.
#[derive(Debug)]
struct Word(AtomicU32);

impl AtomicWord for Word {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    fn exchange(&self, current: u32, new: u32, ok: Ordering, no: Ordering) -> Result<u32, u32> {
        self.0.compare_exchange(current, new, ok, no)
    }

    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        self.0.fetch_sub(value, order)
    }

    fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
        self.0.fetch_or(bits, order)
    }

    fn fetch_and(&self, bits: u32, order: Ordering) -> u32 {
        self.0.fetch_and(bits, order)
    }
}

/// loom's atomic address.
#[derive(Debug, Default)]
struct Address(AtomicUsize);

impl AtomicAddress for Address {
    fn load(&self, order: Ordering) -> usize {
        self.0.load(order)
    }

    fn store(&self, value: usize, order: Ordering) {
        self.0.store(value, order);
    }

    fn replace(&self, current: usize, new: usize, order: Ordering) -> bool {
        let replaced = self
            .0
            .compare_exchange(current, new, order, Ordering::Relaxed);
        replaced.is_ok()
    }

    fn add(&self, value: usize, order: Ordering) {
        self.0.fetch_add(value, order);
    }

    fn subtract(&self, value: usize, order: Ordering) {
        self.0.fetch_sub(value, order);
    }
}

/// A futex: who parks on a changed word goes on; who sleeps is woken by `unpark` and nothing else.
/// A lost wake-up is a deadlock, which loom reports.
#[derive(Debug)]
struct Futex {
    lock: loom::sync::Mutex<u32>,
    woken: loom::sync::Condvar,
}

impl Futex {
    fn new() -> Self {
        Self {
            lock: loom::sync::Mutex::new(0),
            woken: loom::sync::Condvar::new(),
        }
    }
}

/// Whether a conversion waits at all.
#[derive(Clone, Copy)]
enum Patience {
    None,
    Endless,
}

/// What the protocol sees of a room, in one thread.
#[derive(Clone, Copy)]
struct Around<'a> {
    room: &'a Room,
    /// Whether the thread has a record.
    own: bool,
}

/// The light half is a fence here, as there is no other way to tell loom what the heavy one makes of it.
/// In a room without the heavy one, it is none.
impl Fence for Around<'_> {
    fn light(&self) {
        if self.room.ordered {
            fence(Ordering::SeqCst);
        }
    }

    fn heavy(&self) -> bool {
        fence(Ordering::SeqCst);
        self.room.ordered
    }

    fn full(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Holders for Around<'_> {
    type Address = Address;

    fn others(&self) -> bool {
        self.room.roll.others(usize::from(self.own))
    }

    fn each(&self, mut look: impl FnMut(&[Slot<Address>])) {
        self.room.records.iter().for_each(|it| look(it.slots()));
    }
}

impl Parking<Word> for Around<'_> {
    type Deadline = Patience;

    fn park(&self, word: &Word, seen: u32, deadline: Patience) -> bool {
        if matches!(deadline, Patience::None) {
            return false;
        }
        let futex = &self.room.futex;
        let turn = futex.lock.lock().unwrap();
        // As the kernel does: the word is compared under the lock that wakers take.
        if word.load(Ordering::Relaxed) != seen {
            return true;
        }
        drop(futex.woken.wait(turn).unwrap());
        true
    }

    fn unpark(&self, _word: &Word) {
        let futex = &self.room.futex;
        *futex.lock.lock().unwrap() += 1;
        futex.woken.notify_all();
    }

    fn pause(&self, _looks: u32, deadline: Patience) -> bool {
        thread::yield_now();
        matches!(deadline, Patience::Endless)
    }
}

/// Pages with their states and a byte each.
struct Room {
    words: Vec<Word>,
    bytes: Vec<UnsafeCell<u32>>,
    futex: Futex,
    initial: Side,
    records: Vec<Record<Address, 2>>,
    roll: Roll<Address>,
    /// Whether the heavy half of the fence is to be had.
    ordered: bool,
}

// SAFETY: the bytes are what is under test: loom's cell fails where two accesses race.
unsafe impl Sync for Room {}

impl Room {
    fn new(pages: usize, initial: Side) -> Arc<Self> {
        Arc::new(Self {
            words: (0..pages).map(|_| Word(AtomicU32::new(0))).collect(),
            bytes: (0..pages).map(|_| UnsafeCell::new(0)).collect(),
            futex: Futex::new(),
            initial,
            records: Vec::new(),
            roll: Roll::default(),
            ordered: true,
        })
    }

    /// With records for so many threads.
    fn with_records(pages: usize, initial: Side, records: usize) -> Arc<Self> {
        Self::change(Self::new(pages, initial), |room| {
            room.records = (0..records).map(|_| Record::default()).collect();
        })
    }

    fn change(room: Arc<Self>, change: impl FnOnce(&mut Self)) -> Arc<Self> {
        let Ok(mut room) = Arc::try_unwrap(room) else {
            unreachable!("it is new")
        };
        change(&mut room);
        Arc::new(room)
    }

    /// As a thread without a record sees them.
    fn states(&self) -> PageStates<'_, Around<'_>, Word> {
        self.states_of(false)
    }

    fn states_of(&self, own: bool) -> PageStates<'_, Around<'_>, Word> {
        let around = Around { room: self, own };
        PageStates::new(&self.words, self.initial, around)
    }

    /// As a new thread does, that ends with this.
    fn with_record(&self, run: impl FnOnce(&Record<Address, 2>)) {
        let around = Around {
            room: self,
            own: false,
        };
        let claim = |it: &&Record<Address, 2>| it.claim(&self.roll, around);
        let record = self.records.iter().find(claim).unwrap();
        run(record);
        record.give_back(&self.roll);
    }

    /// A guard in a slot, if there is one.
    fn slot<'a>(
        &'a self,
        record: &'a Record<Address, 2>,
        pages: std::ops::Range<usize>,
    ) -> Option<SlotGuard<'a, Address>> {
        self.states_of(true).guard_in(record, pages)
    }

    /// Looks at pages under a guard in a slot, if it gets one.
    fn visit_in(&self, record: &Record<Address, 2>, pages: std::ops::Range<usize>) {
        if let Some(_guard) = self.slot(record, pages.clone()) {
            for page in pages {
                self.look(page);
            }
        }
    }

    fn look(&self, page: usize) -> u32 {
        // SAFETY: the pointer is the cell's own; loom watches over races.
        self.bytes[page].with(|byte| unsafe { *byte })
    }

    fn write(&self, page: usize, value: u32) {
        // SAFETY: as in `look`.
        self.bytes[page].with_mut(|byte| unsafe { *byte = value });
    }

    /// Looks at pages under a guard, if it gets one.
    fn visit(&self, pages: std::ops::Range<usize>) -> bool {
        let states = self.states();
        let Ok(_guard) = states.guard(pages.clone()) else {
            return false;
        };
        for page in pages {
            self.look(page);
        }
        true
    }

    fn convert(&self, pages: std::ops::Range<usize>, to: Side, patience: Patience) -> bool {
        self.convert_as(false, pages, to, patience)
    }

    fn convert_as(
        &self,
        own: bool,
        pages: std::ops::Range<usize>,
        to: Side,
        patience: Patience,
    ) -> bool {
        let states = self.states_of(own);
        let Ok(conversion) = states.convert(pages, to, patience) else {
            return false;
        };
        // Nobody else is on them: loom fails here otherwise.
        let changes: Vec<_> = conversion.changes().collect();
        for page in changes.into_iter().flatten() {
            self.write(page, page as u32 + 1);
        }
        conversion.commit();
        true
    }
}

/// Three threads: every interleaving of three would take hours.
fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
}

fn run(threads: Vec<Box<dyn FnOnce() + Send + 'static>>) {
    let threads: Vec<_> = threads.into_iter().map(thread::spawn).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

macro_rules! threads {
    ($room:ident: $($body:expr),+ $(,)?) => {
        run(vec![$({
            let $room = Arc::clone(&$room);
            Box::new(move || { $body; }) as Box<dyn FnOnce() + Send>
        }),+])
    };
}

#[test]
fn a_conversion_waits_for_its_guard_and_is_woken() {
    loom::model(|| {
        let room = Room::new(1, Side::Shared);
        threads!(room:
            room.visit(0..1),
            assert!(room.convert(0..1, Side::Private, Patience::Endless)),
        );
        assert_eq!(room.states().state(0), Some(PageState::Private));
        assert_eq!(room.look(0), 1);
    });
}

#[test]
fn two_guards_on_two_pages_and_a_conversion_of_both() {
    bounded(|| {
        let room = Room::new(2, Side::Shared);
        threads!(room:
            room.visit(0..2),
            room.visit(1..2),
            assert!(room.convert(0..2, Side::Private, Patience::Endless)),
        );
        assert_eq!((room.look(0), room.look(1)), (1, 2));
    });
}

#[test]
fn a_conversion_without_patience_leaves_everything_as_it_was() {
    loom::model(|| {
        let room = Room::new(2, Side::Shared);
        threads!(room:
            room.visit(1..2),
            {
                if !room.convert(0..2, Side::Private, Patience::None) {
                    let shared = |page| {
                        matches!(room.states().state(page), Some(PageState::Shared { .. }))
                    };
                    assert!(shared(0) && shared(1));
                }
            },
        );
        assert!(matches!(
            (room.states().state(0), room.states().state(1)),
            (Some(PageState::Private), Some(PageState::Private))
                | (
                    Some(PageState::Shared { guards: 0 }),
                    Some(PageState::Shared { guards: 0 })
                )
        ));
    });
}

#[test]
fn two_conversions_never_have_the_same_page() {
    bounded(|| {
        let room = Room::new(2, Side::Shared);
        threads!(room:
            room.convert(0..2, Side::Private, Patience::Endless),
            room.convert(1..2, Side::Private, Patience::Endless),
            room.convert(0..1, Side::Shared, Patience::Endless),
        );
        for page in 0..2 {
            let state = room.states().state(page).unwrap();
            assert!(matches!(
                state,
                PageState::Private | PageState::Shared { guards: 0 }
            ));
        }
    });
}

#[test]
fn pages_that_are_there_already_are_nobody_elses_meanwhile() {
    loom::model(|| {
        // Page 0 goes there and back while a conversion of both is on its way.
        let room = Room::new(2, Side::Private);
        threads!(room:
            room.convert(0..1, Side::Shared, Patience::Endless),
            room.convert(0..2, Side::Private, Patience::Endless),
        );
        assert_eq!(room.states().state(1), Some(PageState::Private));
    });
}

#[test]
fn what_the_guest_handed_out_is_seen_under_a_guard() {
    loom::model(|| {
        let room = Room::new(1, Side::Private);
        threads!(room:
            assert!(room.convert(0..1, Side::Shared, Patience::None)),
            {
                let states = room.states();
                if let Ok(_guard) = states.guard(0..1) {
                    assert_eq!(room.look(0), 1);
                }
            },
        );
    });
}

#[test]
fn an_exclusive_pin_is_alone() {
    bounded(|| {
        let room = Room::new(1, Side::Shared);
        let pin = |room: &Room| {
            let states = room.states();
            if let Ok(_pin) = states.pin(0..1) {
                room.write(0, 7);
            }
        };
        threads!(room:
            pin(&room),
            room.visit(0..1),
            pin(&room),
        );
        assert_eq!(
            room.states().state(0),
            Some(PageState::Shared { guards: 0 })
        );
    });
}

#[test]
fn a_pin_becomes_a_conversion_with_nobody_between() {
    loom::model(|| {
        let room = Room::new(1, Side::Shared);
        threads!(room:
            {
                let states = room.states();
                if let Ok(pin) = states.pin(0..1) {
                    room.write(0, 7);
                    let conversion = pin.into_conversion();
                    assert_eq!(room.look(0), 7);
                    conversion.commit();
                }
            },
            room.visit(0..1),
        );
    });
}

#[test]
fn a_guard_handed_on_is_waited_for_too() {
    loom::model(|| {
        let room = Room::new(1, Side::Shared);
        threads!(room:
            {
                let states = room.states();
                if let Ok(guard) = states.guard(0..1) {
                    let second = guard.again(0..1).unwrap();
                    drop(guard);
                    room.look(0);
                    drop(second);
                }
            },
            assert!(room.convert(0..1, Side::Private, Patience::Endless)),
        );
    });
}

#[test]
fn poison_comes_at_any_moment() {
    bounded(|| {
        let room = Room::new(1, Side::Shared);
        threads!(room:
            room.states().poison(0).unwrap(),
            room.visit(0..1),
            room.convert(0..1, Side::Private, Patience::Endless),
        );
        assert_eq!(room.states().state(0), Some(PageState::Poisoned));
        assert_eq!(
            room.states().guard(0..1).unwrap_err().why,
            match room.states().state(0) {
                Some(PageState::Poisoned) => Why::Poisoned,
                other => panic!("{other:?}"),
            }
        );
    });
}

#[test]
fn a_conversion_waits_for_a_slot() {
    loom::model(|| {
        let room = Room::with_records(1, Side::Shared, 1);
        threads!(room:
            room.with_record(|record| room.visit_in(record, 0..1)),
            assert!(room.convert(0..1, Side::Private, Patience::Endless)),
        );
        assert_eq!(room.states().state(0), Some(PageState::Private));
        assert_eq!(room.look(0), 1);
    });
}

#[test]
fn a_slot_that_holds_is_found_or_sees_the_mark() {
    // Both threads have a record from the start, so that only the asymmetric fence stands between them.
    loom::model(|| {
        let room = Room::with_records(1, Side::Shared, 2);
        threads!(room:
            room.with_record(|record| room.visit_in(record, 0..1)),
            room.with_record(|_| {
                if !room.convert_as(true, 0..1, Side::Private, Patience::None) {
                    assert!(matches!(room.states().state(0), Some(PageState::Shared { .. })));
                }
            }),
        );
    });
}

#[test]
fn who_claims_a_record_is_on_the_roll_or_sees_the_mark() {
    // A conversion that finds a thread on the roll fails here: where it finds none, it needs no heavy half.
    loom::model(|| {
        let room = Room::with_records(1, Side::Shared, 1);
        let room = Room::change(room, |room| room.ordered = false);
        threads!(room:
            room.with_record(|record| room.visit_in(record, 0..1)),
            room.convert(0..1, Side::Private, Patience::None),
        );
    });
}

#[test]
fn a_slot_is_used_again_while_it_is_looked_at() {
    loom::model(|| {
        let room = Room::with_records(2, Side::Shared, 1);
        threads!(room:
            room.with_record(|record| {
                room.visit_in(record, 0..1);
                room.visit_in(record, 1..2);
            }),
            assert!(room.convert(0..1, Side::Private, Patience::Endless)),
        );
        assert_eq!(
            room.states().state(1),
            Some(PageState::Shared { guards: 0 })
        );
    });
}

#[test]
fn two_slots_and_a_conversion_of_both_pages() {
    bounded(|| {
        let room = Room::with_records(2, Side::Shared, 2);
        threads!(room:
            room.with_record(|record| room.visit_in(record, 0..2)),
            room.with_record(|record| room.visit_in(record, 1..2)),
            assert!(room.convert(0..2, Side::Private, Patience::Endless)),
        );
        assert_eq!((room.look(0), room.look(1)), (1, 2));
    });
}

#[test]
fn a_slot_and_a_count_on_the_same_page() {
    bounded(|| {
        let room = Room::with_records(1, Side::Shared, 1);
        threads!(room:
            room.with_record(|record| room.visit_in(record, 0..1)),
            room.visit(0..1),
            assert!(room.convert(0..1, Side::Private, Patience::Endless)),
        );
        assert_eq!(room.look(0), 1);
    });
}

#[test]
fn a_part_is_held_on_in_another_slot() {
    loom::model(|| {
        let room = Room::with_records(2, Side::Shared, 1);
        threads!(room:
            room.with_record(|record| {
                if let Some(both) = room.slot(record, 0..2) {
                    // Refused where a conversion is on its way: the first one is kept then.
                    let part = room.slot(record, 1..2).unwrap_or_else(|| both.clone());
                    drop(both);
                    room.look(1);
                    drop(part);
                }
            }),
            assert!(room.convert(1..2, Side::Private, Patience::Endless)),
        );
    });
}

#[test]
fn a_record_goes_to_another_thread() {
    bounded(|| {
        let room = Room::with_records(1, Side::Shared, 2);
        let visit = |room: &Room| room.with_record(|record| room.visit_in(record, 0..1));
        threads!(room:
            visit(&room),
            visit(&room),
            assert!(room.convert(0..1, Side::Private, Patience::Endless)),
        );
        assert_eq!(room.look(0), 1);
    });
}

#[test]
fn what_a_thread_holds_after_it_gave_its_record_back_stays_held() {
    bounded(|| {
        let room = Room::with_records(1, Side::Shared, 1);
        let claim = |room: &Room| {
            let around = Around { room, own: false };
            room.records[0].claim(&room.roll, around)
        };
        threads!(room:
            if claim(&room) {
                let kept = room.slot(&room.records[0], 0..1);
                room.records[0].give_back(&room.roll);
                if kept.is_some() {
                    room.look(0);
                }
            },
            if claim(&room) {
                room.visit_in(&room.records[0], 0..1);
                room.records[0].give_back(&room.roll);
            },
            assert!(room.convert(0..1, Side::Private, Patience::Endless)),
        );
        assert_eq!(room.look(0), 1);
    });
}

#[test]
fn what_the_guest_handed_out_is_seen_under_a_slot() {
    loom::model(|| {
        let room = Room::with_records(1, Side::Private, 1);
        threads!(room:
            assert!(room.convert(0..1, Side::Shared, Patience::None)),
            room.with_record(|record| {
                if let Some(_guard) = room.slot(record, 0..1) {
                    assert_eq!(room.look(0), 1);
                }
            }),
        );
    });
}

#[test]
fn a_pin_is_alone_among_slots() {
    loom::model(|| {
        let room = Room::with_records(1, Side::Shared, 1);
        threads!(room:
            {
                let states = room.states();
                if let Ok(_pin) = states.pin(0..1) {
                    room.write(0, 7);
                }
            },
            room.with_record(|record| room.visit_in(record, 0..1)),
        );
        assert_eq!(
            room.states().state(0),
            Some(PageState::Shared { guards: 0 })
        );
    });
}
