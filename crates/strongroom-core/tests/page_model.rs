//! The page states against a model that keeps a struct a page and a list of who holds what.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use strongroom_core::page::{
    Conversion, ExclusivePin, Fence, Guard, Holders, PageState, PageStates, Parking, Record,
    Refused, Side, Slot, SlotGuard, Spin, Why,
};

const PAGES: usize = 12;
const SLOTS: usize = 3;

/// One thread with a record.
#[derive(Clone, Copy)]
struct Alone<'a>(&'a Record<AtomicUsize, SLOTS>);

impl Fence for Alone<'_> {
    fn light(&self) {}

    fn heavy(&self) -> bool {
        panic!("there is nobody else")
    }

    fn full(&self) {}
}

impl Holders for Alone<'_> {
    type Address = AtomicUsize;

    fn others(&self) -> bool {
        false
    }

    fn each(&self, mut look: impl FnMut(&[Slot])) {
        look(self.0.slots());
    }
}

impl Parking<AtomicU32> for Alone<'_> {
    type Deadline = u32;

    fn park(&self, word: &AtomicU32, seen: u32, deadline: u32) -> bool {
        Spin.park(word, seen, deadline)
    }

    fn unpark(&self, _word: &AtomicU32) {}

    fn pause(&self, looks: u32, deadline: u32) -> bool {
        looks < deadline
    }
}

#[derive(Clone, Debug)]
enum Step {
    Guard(Range<usize>),
    /// One more on part of a guard that is out.
    Again(usize, Range<usize>),
    DropGuard(usize),
    GuardIn(Range<usize>),
    Share(usize),
    DropSlot(usize),
    Pin(Range<usize>),
    DropPin(usize),
    PinToConversion(usize),
    Convert(Range<usize>, bool),
    CommitFirst(usize, usize),
    Commit(usize),
    GiveUp(usize),
    Poison(usize),
    Heal(usize),
}

fn range() -> impl Strategy<Value = Range<usize>> {
    (0..PAGES + 2, 0..5usize).prop_map(|(start, length)| start..start + length)
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..8usize;
    prop_oneof![
        4 => range().prop_map(Step::Guard),
        2 => (which.clone(), range()).prop_map(|(n, r)| Step::Again(n, r)),
        4 => which.clone().prop_map(Step::DropGuard),
        4 => range().prop_map(Step::GuardIn),
        2 => which.clone().prop_map(Step::Share),
        5 => which.clone().prop_map(Step::DropSlot),
        2 => range().prop_map(Step::Pin),
        2 => which.clone().prop_map(Step::DropPin),
        1 => which.clone().prop_map(Step::PinToConversion),
        5 => (range(), any::<bool>()).prop_map(|(r, to)| Step::Convert(r, to)),
        1 => (which.clone(), 0..4usize).prop_map(|(n, k)| Step::CommitFirst(n, k)),
        3 => which.clone().prop_map(Step::Commit),
        2 => which.prop_map(Step::GiveUp),
        1 => (0..PAGES + 1).prop_map(Step::Poison),
        1 => (0..PAGES + 1).prop_map(Step::Heal),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Page {
    side: Side,
    guards: u32,
    /// Those of them that are in slots.
    slots: u32,
    pinned: bool,
    /// Where a conversion that has it takes it.
    going: Option<Side>,
    poisoned: bool,
}

impl Page {
    fn state(&self) -> PageState {
        match (self.poisoned, self.going, self.pinned, self.side) {
            (true, ..) => PageState::Poisoned,
            (_, Some(to), _, side) if to != side => PageState::Converting {
                to,
                guards: self.guards,
            },
            (_, _, true, _) => PageState::Exclusive,
            (.., Side::Private) => PageState::Private,
            (.., Side::Shared) => PageState::Shared {
                guards: self.guards,
            },
        }
    }

    /// Why it takes no guard.
    fn shut(&self) -> Option<Why> {
        match self.state() {
            PageState::Poisoned => Some(Why::Poisoned),
            PageState::Private => Some(Why::Private),
            PageState::Exclusive => Some(Why::Exclusive),
            PageState::Converting { .. } => Some(Why::Converting),
            PageState::Shared { .. } => None,
        }
    }

    /// Why its word takes no pin; slots are looked at later.
    fn pin_shut(&self) -> Option<Why> {
        self.shut()
            .or(match (self.going, self.guards - self.slots) {
                (Some(_), _) => Some(Why::Converting),
                (None, 0) => None,
                (None, guards) => Some(Why::Held { guards, pages: 0 }),
            })
    }

    fn conversion_shut(&self) -> Option<Why> {
        match (self.poisoned, self.pinned, self.going) {
            (true, ..) => Some(Why::Poisoned),
            (_, true, _) => Some(Why::Exclusive),
            (.., Some(_)) => Some(Why::Converting),
            _ => None,
        }
    }
}

struct Model([Page; PAGES]);

impl Model {
    fn first(&self, pages: &Range<usize>, shut: fn(&Page) -> Option<Why>) -> Result<(), Refused> {
        if pages.end > PAGES {
            return Err(Refused {
                page: pages.start.max(PAGES),
                why: Why::OutOfRange { pages: PAGES },
            });
        }
        let refused = |page| shut(&self.0[page]).map(|why| Refused { page, why });
        pages.clone().find_map(refused).map_or(Ok(()), Err)
    }

    fn convertible(&self, pages: &Range<usize>, to: Side) -> Result<(), Refused> {
        self.first(pages, Page::conversion_shut)?;
        match to {
            Side::Private => self.let_go(pages),
            Side::Shared => Ok(()),
        }
    }

    fn pinnable(&self, pages: &Range<usize>) -> Result<(), Refused> {
        match self.first(pages, Page::pin_shut) {
            Err(refused) if !matches!(refused.why, Why::Held { .. }) => Err(refused),
            _ => self.let_go(pages),
        }
    }

    /// Nobody holds any of them.
    fn let_go(&self, pages: &Range<usize>) -> Result<(), Refused> {
        let held: Vec<_> = pages
            .clone()
            .filter(|&page| self.0[page].guards > 0)
            .collect();
        held.first().map_or(Ok(()), |&page| {
            let (guards, pages) = (self.0[page].guards, held.len());
            Err(Refused {
                page,
                why: Why::Held { guards, pages },
            })
        })
    }

    fn each(&mut self, pages: Range<usize>, change: impl Fn(&mut Page)) {
        self.0[pages].iter_mut().for_each(change);
    }
}

fn take<T>(list: &mut Vec<T>, n: usize) -> Option<T> {
    (!list.is_empty()).then(|| list.swap_remove(n % list.len()))
}

fn runs(model: &Model, pages: Range<usize>) -> Vec<usize> {
    pages
        .filter(|&page| {
            model.0[page]
                .going
                .is_some_and(|to| to != model.0[page].side)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_states_answer_as_the_model_does(
        steps in prop::collection::vec(step(), 1..80),
        initially_private in any::<bool>(),
    ) {
        let initial = if initially_private { Side::Private } else { Side::Shared };
        let words = [const { AtomicU32::new(0) }; PAGES];
        let record = Record::new();
        let states = PageStates::new(&words, initial, Alone(&record));
        let page = Page { side: initial, guards: 0, slots: 0, pinned: false, going: None, poisoned: false };
        let mut model = Model([page; PAGES]);
        let mut guards: Vec<Guard<'_, Alone<'_>>> = Vec::new();
        // Each with its slot's pages, which all that share it have in common.
        let mut in_slots: Vec<(std::rc::Rc<Range<usize>>, SlotGuard<'_>)> = Vec::new();
        let mut taken = 0;
        let mut pins: Vec<ExclusivePin<'_, Alone<'_>>> = Vec::new();
        let mut conversions: Vec<Conversion<'_, Alone<'_>>> = Vec::new();
        let commit = |model: &mut Model, pages: Range<usize>| model.each(pages, |page| {
            page.side = page.going.take().unwrap();
        });
        for step in steps {
            match step {
                Step::Guard(pages) => {
                    let got = states.guard(pages.clone());
                    prop_assert_eq!(
                        got.as_ref().map(|_| ()).map_err(|e| *e),
                        model.first(&pages, Page::shut)
                    );
                    if let Ok(guard) = got {
                        model.each(pages, |page| page.guards += 1);
                        guards.push(guard);
                    }
                }
                Step::Again(n, pages) if !guards.is_empty() => {
                    let guard = &guards[n % guards.len()];
                    let inside = guard.pages();
                    let got = guard.again(pages.clone());
                    let fits = inside.start <= pages.start && pages.end <= inside.end;
                    prop_assert_eq!(got.is_ok(), fits);
                    if let Ok(guard) = got {
                        model.each(pages, |page| page.guards += 1);
                        guards.push(guard);
                    }
                }
                Step::DropGuard(n) => if let Some(guard) = take(&mut guards, n) {
                    model.each(guard.pages(), |page| page.guards -= 1);
                    drop(guard);
                },
                Step::GuardIn(pages) => {
                    let got = states.guard_in(&record, pages.clone());
                    let free = taken < SLOTS && model.first(&pages, Page::shut).is_ok();
                    prop_assert_eq!(got.is_some(), free);
                    if let Some(guard) = got {
                        if !pages.is_empty() {
                            prop_assert_eq!(states.held_by(&guard), pages.clone());
                            let page = (pages.start + pages.end) / 2;
                            prop_assert_eq!(states.held_from(&guard, page), pages.end - page);
                        }
                        model.each(pages.clone(), |page| (page.guards, page.slots) = (page.guards + 1, page.slots + 1));
                        taken += 1;
                        in_slots.push((std::rc::Rc::new(pages), guard));
                    }
                }
                Step::Share(n) => if !in_slots.is_empty() {
                    let shared = in_slots[n % in_slots.len()].clone();
                    in_slots.push(shared);
                },
                Step::DropSlot(n) => if let Some((pages, guard)) = take(&mut in_slots, n) {
                    drop(guard);
                    if let Ok(pages) = std::rc::Rc::try_unwrap(pages) {
                        model.each(pages, |page| (page.guards, page.slots) = (page.guards - 1, page.slots - 1));
                        taken -= 1;
                    }
                },
                Step::Pin(pages) => {
                    let got = states.pin(pages.clone());
                    prop_assert_eq!(
                        got.as_ref().map(|_| ()).map_err(|e| *e),
                        model.pinnable(&pages)
                    );
                    if let Ok(pin) = got {
                        model.each(pages, |page| page.pinned = true);
                        pins.push(pin);
                    }
                }
                Step::DropPin(n) => if let Some(pin) = take(&mut pins, n) {
                    model.each(pin.pages(), |page| page.pinned = false);
                    drop(pin);
                },
                Step::PinToConversion(n) => if let Some(pin) = take(&mut pins, n) {
                    model.each(pin.pages(), |page| {
                        page.pinned = false;
                        page.going = Some(Side::Private);
                    });
                    conversions.push(pin.into_conversion());
                },
                Step::Convert(pages, private) => {
                    let to = if private { Side::Private } else { Side::Shared };
                    let got = states.convert(pages.clone(), to, 1);
                    prop_assert_eq!(
                        got.as_ref().map(|_| ()).map_err(|e| *e),
                        model.convertible(&pages, to)
                    );
                    if let Ok(conversion) = got {
                        model.each(pages.clone(), |page| page.going = Some(to));
                        let changes: Vec<usize> = conversion.changes().flatten().collect();
                        prop_assert_eq!(changes, runs(&model, pages));
                        conversions.push(conversion);
                    }
                }
                Step::CommitFirst(n, count) if !conversions.is_empty() => {
                    let at = n % conversions.len();
                    let pages = conversions[at].pages();
                    conversions[at].commit_first(count);
                    let end = (pages.start + count).min(pages.end);
                    commit(&mut model, pages.start..end);
                    prop_assert_eq!(conversions[at].pages(), end..pages.end);
                }
                Step::Commit(n) => if let Some(conversion) = take(&mut conversions, n) {
                    commit(&mut model, conversion.pages());
                    conversion.commit();
                },
                Step::GiveUp(n) => if let Some(conversion) = take(&mut conversions, n) {
                    model.each(conversion.pages(), |page| page.going = None);
                    drop(conversion);
                },
                Step::Poison(page) => {
                    prop_assert_eq!(states.poison(page).is_ok(), page < PAGES);
                    if let Some(page) = model.0.get_mut(page) {
                        page.poisoned = true;
                    }
                }
                Step::Heal(page) => {
                    prop_assert_eq!(states.heal(page).is_ok(), page < PAGES);
                    if let Some(page) = model.0.get_mut(page) {
                        page.poisoned = false;
                    }
                }
                Step::Again(..) | Step::CommitFirst(..) => {}
            }
            for page in 0..PAGES {
                prop_assert_eq!(states.state(page), Some(model.0[page].state()), "page {}", page);
            }
            prop_assert_eq!(states.state(PAGES), None);
        }
    }
}

#[test]
fn a_page_has_room_for_millions_of_guards_and_no_more() {
    let words = [const { AtomicU32::new(0) }; 1];
    let states = PageStates::new(&words, Side::Shared, Spin);
    let first = states.guard(0..1).unwrap();
    let mut all = Vec::new();
    while let Ok(guard) = states.guard(0..1) {
        all.push(guard);
    }
    assert_eq!(all.len(), (1 << 24) - 2);
    assert_eq!(states.guard(0..1).unwrap_err().why, Why::Crowded);
    assert_eq!(first.again(0..1).unwrap_err().why, Why::Crowded);
    drop(all);
    assert_eq!(states.state(0), Some(PageState::Shared { guards: 1 }));
}
