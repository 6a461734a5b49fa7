//! Contexts against a model that keeps one entry of a BTreeMap a page, by what a software walk finds in
//! guest memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use std::collections::BTreeMap;
use strongroom_guest::backing::Plain;
use strongroom_guest::page_table::{
    Access, Context, Error, Fault, Features, Sharing, Size, Tables,
};
use strongroom_guest::{GuestRegion, PAGE};

/// Where the test's virtual pages begin: the last 32 MiB below a 1 GiB line that follows a 512 GiB
/// line less, so that ranges cross tables of each level.
const FIRST: u64 = (1 << 39) - (16 << 20);
const PAGES: u64 = 32 << 8;
/// Where the physical pages begin that are mapped; nothing need be there.
const MEMORY: u64 = 1 << 32;
const POOL: usize = 40 * PAGE;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    physical: u64,
    access: Access,
    exclusive: bool,
}

type Model = BTreeMap<u64, Page>;

#[derive(Clone, Debug)]
enum Step {
    Map {
        at: u64,
        to: u64,
        pages: u64,
        access: u8,
        exclusive: bool,
    },
    Unmap(u64, u64),
    /// What is mapped around a page, so that unmapping often succeeds.
    UnmapNear(u64, u64),
    Protect(u64, u64, u8),
    Restrict(u64, u64, u8),
    Clone,
    Only(u64, u64),
    Drop,
    /// A processor begins to run it.
    Run,
    Flushed,
    Next,
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1_u64..6,
        2 => 1_u64..600,
        3 => prop_oneof![Just(512_u64), Just(1024), Just(1536)],
        1 => 0..PAGES + 2,
    ]
}

fn page() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..PAGES, 2 => (0..PAGES / 512).prop_map(|large| large * 512), 1 => 4090_u64..4102]
}

fn step() -> impl Strategy<Value = Step> {
    let access = || 0_u8..8;
    prop_oneof![
        8 => (page(), page(), length(), access(), prop::bool::weighted(0.3), any::<bool>()).prop_map(
            |(at, to, pages, access, exclusive, linear)| Step::Map {
                at, to: if linear { at } else { to }, pages, access, exclusive,
            }
        ),
        1 => (page(), length()).prop_map(|(at, pages)| Step::Unmap(at, pages)),
        5 => (page(), length()).prop_map(|(at, pages)| Step::UnmapNear(at, pages)),
        3 => (page(), length(), access()).prop_map(|(at, n, access)| Step::Protect(at, n, access)),
        3 => (page(), length(), access()).prop_map(|(at, n, access)| Step::Restrict(at, n, access)),
        1 => Just(Step::Clone),
        1 => (page(), length()).prop_map(|(at, pages)| Step::Only(at, pages)),
        1 => Just(Step::Drop),
        1 => Just(Step::Run),
        2 => Just(Step::Flushed),
        4 => Just(Step::Next),
    ]
}

fn at(page: u64) -> u64 {
    FIRST + page * PAGE as u64
}

fn bytes(pages: u64) -> u64 {
    pages * PAGE as u64
}

fn physical(page: u64) -> u64 {
    MEMORY + bytes(page)
}

/// A context, its model, and whether what it unmaps is kept back, and what is.
struct Pair<'t, 'g> {
    context: Context<'t, 'g>,
    model: Model,
    runs: bool,
    kept_back: Vec<Page>,
}

impl<'t, 'g> Pair<'t, 'g> {
    fn new(context: Context<'t, 'g>, model: Model) -> Self {
        let (runs, kept_back) = (false, Vec::new());
        Pair {
            context,
            model,
            runs,
            kept_back,
        }
    }

    fn unmap(&mut self, first: u64, pages: u64) {
        for page in first..first + pages {
            let page = self.model.remove(&page).unwrap();
            if self.runs {
                self.kept_back.push(page);
            }
        }
    }
}

/// Whether all of a range is mapped.
fn mapped(model: &Model, first: u64, pages: u64) -> bool {
    pages > 0 && model.range(first..first + pages).count() as u64 == pages
}

/// Whether a physical page may be mapped: how all the models use it.
fn allowed(pairs: &[Pair<'_, '_>], to: u64, pages: u64, exclusive: bool) -> bool {
    let range = physical(to)..physical(to + pages);
    pairs
        .iter()
        .flat_map(|pair| pair.model.values().chain(&pair.kept_back))
        .filter(|page| range.contains(&page.physical))
        .all(|page| !exclusive && !page.exclusive)
}

/// What the tables must look like: how many there are.
fn tables(model: &Model) -> usize {
    let mut tables = std::collections::BTreeSet::from([(3, 0)]);
    // Areas of 2 MiB that one table or one entry maps.
    let mut areas: BTreeMap<u64, Vec<(u64, Page)>> = BTreeMap::new();
    for (&page, value) in model {
        let area = areas.entry(at(page) >> 21).or_default();
        area.push((page, *value));
    }
    for (area, pages) in areas {
        tables.insert((2, area >> 18));
        tables.insert((1, area >> 9));
        let (first, start) = pages[0];
        let large = pages.len() == 512
            && start.physical.is_multiple_of(Size::Large.bytes())
            && pages.iter().all(|(page, value)| {
                let physical = start.physical + bytes(page - first);
                *value == Page { physical, ..start }
            });
        if !large {
            tables.insert((0, area));
        }
    }
    tables.len()
}

fn compare(tables_of: &Tables<'_>, pair: &Pair<'_, '_>, whole: bool) {
    assert_eq!(pair.context.check().unwrap(), None);
    if !pair.runs {
        // Who asks for the root may run it.
        return;
    }
    let root = pair.context.root();
    for page in 0..PAGES {
        // All edges, and one in 7 of the rest.
        let here = pair.model.get(&page);
        let edge = page == 0
            || page.is_multiple_of(512)
            || pair.model.contains_key(&(page - 1)) != here.is_some();
        if !whole && !edge && !page.is_multiple_of(7) {
            continue;
        }
        let found = tables_of.translate(root, at(page) + 5);
        match (here, found) {
            (None, Err(Fault::Absent { .. })) => {}
            (Some(page), Ok(found)) => {
                assert_eq!(
                    (found.physical, found.access),
                    (page.physical + 5, page.access)
                );
            }
            other => panic!("page {page}: {other:?}"),
        }
    }
}

fn run(steps: Vec<Step>) {
    let region = GuestRegion::new(0, Plain::new(POOL + PAGE).unwrap()).unwrap();
    let mut metadata = vec![0; Tables::metadata_words(POOL)];
    let features = Features {
        physical_bits: 40,
        largest: Size::Huge,
        shadowed: false,
    };
    let of = Tables::new(&region, PAGE..PAGE + POOL, features, &mut metadata).unwrap();
    let mut pairs = vec![Pair::new(of.context().unwrap(), Model::new())];
    let mut now = 0;
    for step in steps {
        if pairs.is_empty() {
            pairs.push(Pair::new(of.context().unwrap(), Model::new()));
        }
        now %= pairs.len();
        let free = of.free();
        let before: Vec<_> = pairs[now].context.runs().collect();
        let mut failed = false;
        match step {
            Step::Map {
                at: first,
                to,
                pages,
                access,
                exclusive,
            } => {
                let access = Access::from_bits_retain(access);
                let possible = pages > 0
                    && pairs[now]
                        .model
                        .range(first..first + pages)
                        .next()
                        .is_none()
                    && allowed(&pairs, to, pages, exclusive);
                let sharing = if exclusive {
                    Sharing::Exclusive
                } else {
                    Sharing::Common
                };
                let memory = physical(to)..physical(to + pages);
                let pair = &mut pairs[now];
                match pair.context.map(at(first), memory, access, sharing) {
                    Ok(()) => {
                        assert!(possible);
                        for n in 0..pages {
                            let physical = physical(to + n);
                            pair.model.insert(
                                first + n,
                                Page {
                                    physical,
                                    access,
                                    exclusive,
                                },
                            );
                        }
                    }
                    Err(Error::Exhausted { needed, free: had }) => {
                        assert!(possible && needed > had && had == free);
                        failed = true;
                    }
                    Err(error) => {
                        assert!(!possible, "{error}");
                        failed = true;
                    }
                }
            }
            Step::Unmap(first, pages) => {
                let pair = &mut pairs[now];
                match pair.context.unmap(at(first), bytes(pages)) {
                    Ok(()) => pair.unmap(first, pages),
                    Err(Error::Exhausted { .. }) => failed = true,
                    Err(_) => {
                        assert!(!mapped(&pair.model, first, pages));
                        failed = true;
                    }
                }
            }
            Step::UnmapNear(near, most) => {
                let pair = &mut pairs[now];
                let Some(first) = pair.model.range(near..).next().map(|(page, _)| *page) else {
                    continue;
                };
                let pages = (0..most)
                    .take_while(|n| pair.model.contains_key(&(first + n)))
                    .count() as u64;
                if pages == 0 {
                    continue;
                }
                match pair.context.unmap(at(first), bytes(pages)) {
                    Ok(()) => pair.unmap(first, pages),
                    Err(Error::Exhausted { .. }) => failed = true,
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Protect(first, pages, access) => {
                let access = Access::from_bits_retain(access);
                let pair = &mut pairs[now];
                match pair.context.protect(at(first), bytes(pages), access) {
                    Ok(()) => {
                        assert!(mapped(&pair.model, first, pages));
                        for (_, page) in pair.model.range_mut(first..first + pages) {
                            page.access = access;
                        }
                    }
                    Err(Error::Exhausted { .. }) => failed = true,
                    Err(_) => {
                        assert!(!mapped(&pair.model, first, pages));
                        failed = true;
                    }
                }
            }
            Step::Restrict(first, pages, access) => {
                let access = Access::from_bits_retain(access);
                let pair = &mut pairs[now];
                match pair.context.restrict(at(first), bytes(pages), access) {
                    Ok(()) => {
                        for (_, page) in pair.model.range_mut(first..first + pages) {
                            page.access &= access;
                        }
                    }
                    Err(Error::Exhausted { .. }) => failed = true,
                    Err(error) => {
                        assert!(pages == 0, "{error}");
                        failed = true;
                    }
                }
            }
            Step::Clone => match pairs[now].context.try_clone() {
                Ok(context) => {
                    let mut model = pairs[now].model.clone();
                    model.retain(|_, page| !page.exclusive);
                    pairs.push(Pair::new(context, model));
                }
                Err(error) => {
                    assert!(matches!(error, Error::Exhausted { .. }), "{error}");
                    failed = true;
                }
            },
            Step::Only(first, pages) => match pairs[now]
                .context
                .restricted_to(&[(at(first), bytes(pages))])
            {
                Ok(context) => {
                    let mut model = pairs[now].model.clone();
                    model.retain(|page, value| {
                        !value.exclusive && (first..first + pages).contains(page)
                    });
                    pairs.push(Pair::new(context, model));
                }
                Err(error) => {
                    assert!(
                        pages == 0 || matches!(error, Error::Exhausted { .. }),
                        "{error}"
                    );
                    failed = true;
                }
            },
            Step::Drop => drop(pairs.swap_remove(now)),
            Step::Run => {
                pairs[now].context.root();
                pairs[now].runs = true;
            }
            Step::Flushed => {
                pairs[now].context.flushed();
                pairs[now].kept_back.clear();
            }
            Step::Next => now += 1,
        }
        if failed {
            assert_eq!(of.free(), free, "a refusal cost tables");
            let after: Vec<_> = pairs[now].context.runs().collect();
            assert_eq!(after, before, "a refusal changed something");
        }
        for (n, pair) in pairs.iter().enumerate() {
            assert_eq!(pair.context.tables(), tables(&pair.model));
            // What others do must not show: all of them are compared in the end.
            if n == now % pairs.len() {
                compare(&of, pair, false);
            }
        }
        if pairs.iter().all(|pair| !pair.runs) {
            let used: usize = pairs.iter().map(|pair| pair.context.tables()).sum();
            assert_eq!(of.free(), POOL / PAGE - used);
        }
    }
    for pair in &mut pairs {
        pair.context.root();
        pair.runs = true;
        compare(&of, pair, true);
    }
    drop(pairs);
    assert_eq!(of.free(), POOL / PAGE, "all tables come back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn contexts_are_what_the_model_says(steps in prop::collection::vec(step(), 1..40)) {
        run(steps);
    }
}
