//! The room against a model that keeps a map of pages and their holders: what is granted, refused and given back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own helpers fail the test"
)]

mod shim;

use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use strongroom_driver::errno::Errno;
use strongroom_driver::room::{BLOCK, Room, Want};
use strongroom_driver::runs::{Run, Runs};

/// No NUMA node.
const NOWHERE: i32 = -1;

fn want(pages: usize) -> Want {
    Want {
        pages,
        huge: false,
        uid: 1,
        unlimited: true,
        node: NOWHERE,
    }
}

fn all(runs: &Runs) -> Vec<Run> {
    runs.between(0, runs.pages()).collect()
}

fn give_all(room: &mut Room, uid: u32, runs: &Runs) {
    for run in all(runs) {
        assert!(room.give_back(uid, run.pfn, run.pages));
    }
    room.forget_object();
}

/// Blocks that lie wholly in a range.
fn blocks((first, pages): (u64, usize)) -> usize {
    let end = first as usize + pages;
    (end / BLOCK).saturating_sub((first as usize).div_ceil(BLOCK))
}

#[test]
fn small_ones_stay_together_and_leave_blocks_whole() {
    let mut room = Room::new();
    room.add(BLOCK as u64, 16 * BLOCK, NOWHERE).unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(room.reserve(&want(3)).unwrap());
        held.push(room.reserve(&want(2 * BLOCK)).unwrap());
    }
    // Small ones are in one block: with 8 blocks held there are 7 whole ones.
    assert_eq!(room.largest_free_run(), 7 * BLOCK);
    // What is over goes to the block that is cut, and its blocks are blocks.
    let mixed = room.reserve(&want(BLOCK + 7)).unwrap();
    assert_eq!(all(&mixed)[0].pfn % BLOCK as u64, 0);
    assert_eq!(room.largest_free_run(), 6 * BLOCK);
    give_all(&mut room, 1, &mixed);
    for runs in &held {
        give_all(&mut room, 1, runs);
    }
    assert_eq!(room.largest_free_run(), 16 * BLOCK);
    assert_eq!((room.objects(), room.held_by(1)), (0, 0));
}

#[test]
fn a_user_cannot_drain_the_room() {
    let mut room = Room::new();
    room.add(0, 4 * BLOCK, NOWHERE).unwrap();
    room.limit_users(50);
    let greedy = Want {
        unlimited: false,
        ..want(2 * BLOCK)
    };
    let held = room.reserve(&greedy).unwrap();
    let more = Want { pages: 1, ..greedy };
    assert_eq!(room.reserve(&more).unwrap_err(), Errno::Dquot);
    let other = Want { uid: 2, ..more };
    room.reserve(&other).unwrap();
    give_all(&mut room, 1, &held);
    room.reserve(&more).unwrap();
}

#[test]
fn metadata_is_below_a_fifth_of_a_percent() {
    for pages in [64, BLOCK, 8 << 18] {
        let mut room = Room::new();
        room.add(0, pages, NOWHERE).unwrap();
        let described = pages * 4096;
        assert!(room.metadata_bytes() * 500 < described, "{pages}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve {
        pages: usize,
        huge: bool,
        uid: u32,
        node: i32,
    },
    /// Gives back a part of a run of an earlier object.
    GiveBack {
        object: usize,
        run: usize,
        low: usize,
        high: usize,
    },
    /// Gives back what nobody can have taken.
    GiveForeign { pfn: u64, pages: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let pages = prop_oneof![
        4 => 1_usize..40,
        2 => 1_usize..1500,
        3 => (1_usize..5).prop_map(|blocks| blocks * BLOCK),
        1 => Just(0),
    ];
    prop_oneof![
        6 => (pages, any::<bool>(), 1_u32..4, 0_i32..3)
            .prop_map(|(pages, huge, uid, node)| Step::Reserve { pages, huge, uid, node }),
        5 => (any::<usize>(), any::<usize>(), 0_usize..4, 0_usize..4)
            .prop_map(|(object, run, low, high)| Step::GiveBack { object, run, low, high }),
        1 => (0_u64..20_000, 1_usize..600).prop_map(|(pfn, pages)| Step::GiveForeign { pfn, pages }),
    ]
}

/// Ranges that begin and end within blocks, and may be neighbours.
fn ranges() -> impl Strategy<Value = Vec<(u64, usize)>> {
    proptest::collection::vec((0_u64..700, 1_usize..3000), 1..4).prop_map(|parts| {
        let mut end = 100;
        let place = |(gap, pages): (u64, usize)| {
            // Half of them right after the one before.
            let first = end + if gap % 2 == 0 { 0 } else { gap };
            end = first + pages as u64;
            (first, pages)
        };
        parts.into_iter().map(place).collect()
    })
}

struct Model {
    ranges: Vec<(u64, usize)>,
    held: BTreeMap<u64, u32>,
    limit: usize,
}

impl Model {
    fn pages(&self) -> usize {
        self.ranges.iter().map(|range| range.1).sum()
    }

    fn free(&self) -> usize {
        self.pages() - self.held.len()
    }

    fn held_by(&self, uid: u32) -> usize {
        self.held.values().filter(|&&of| of == uid).count()
    }

    fn is_free(&self, pfn: u64) -> bool {
        let inside = |&(first, pages): &(u64, usize)| (first..first + pages as u64).contains(&pfn);
        self.ranges.iter().any(inside) && !self.held.contains_key(&pfn)
    }

    fn free_of(&self, (first, pages): (u64, usize)) -> usize {
        let end = first + pages as u64;
        pages - self.held.range(first..end).count()
    }

    /// Free blocks that lie in one range.
    fn whole_blocks(&self) -> usize {
        let block = BLOCK as u64;
        let of = |&(first, pages): &(u64, usize)| {
            let starts = first.div_ceil(block)..(first + pages as u64) / block;
            starts
                .filter(|at| (at * block..(at + 1) * block).all(|pfn| self.is_free(pfn)))
                .count()
        };
        self.ranges.iter().map(of).sum()
    }

    /// What the room must answer to this.
    fn refusal(&self, want: &Want) -> Option<Errno> {
        if want.pages == 0 || want.huge && !want.pages.is_multiple_of(BLOCK) {
            Some(Errno::Inval)
        } else if want.pages > self.free() {
            Some(Errno::Nomem)
        } else if !want.unlimited && self.held_by(want.uid) + want.pages > self.limit {
            Some(Errno::Dquot)
        } else if want.huge && want.pages / BLOCK > self.whole_blocks() {
            Some(Errno::Nomem)
        } else {
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_room_answers_as_the_model_does(
        ranges in ranges(),
        percent in 20_u32..101,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut room = Room::new();
        for (node, &(first, pages)) in ranges.iter().enumerate() {
            prop_assert_eq!(room.add(first, pages, node as i32), Ok(()));
            prop_assert_eq!(room.add(first, 1, NOWHERE), Err(Errno::Inval));
        }
        room.limit_users(percent);
        let pages: usize = ranges.iter().map(|range| range.1).sum();
        let mut model = Model { ranges, held: BTreeMap::new(), limit: pages * percent as usize / 100 };
        prop_assert_eq!(room.user_limit(), model.limit);
        let mut objects: Vec<(u32, Vec<Run>)> = Vec::new();
        for step in steps {
            match step {
                Step::Reserve { pages, huge, uid, node } => {
                    let want = Want { pages, huge, uid, unlimited: uid == 3, node };
                    let refusal = model.refusal(&want);
                    let near = usize::try_from(node).ok().and_then(|node| model.ranges.get(node)).copied();
                    let near_free = near.map_or(0, |range| model.free_of(range));
                    let runs = match room.reserve(&want) {
                        Ok(runs) => runs,
                        Err(errno) => {
                            prop_assert_eq!(Some(errno), refusal);
                            continue;
                        }
                    };
                    prop_assert_eq!(refusal, None);
                    prop_assert_eq!(runs.pages(), pages);
                    prop_assert_eq!(runs.held(), pages);
                    let runs = all(&runs);
                    for run in &runs {
                        let block = BLOCK as u64;
                        prop_assert!(!huge || run.pfn % block == 0 && run.pages % BLOCK == 0);
                        for pfn in run.pfn..run.pfn + run.pages as u64 {
                            prop_assert!(model.is_free(pfn));
                            model.held.insert(pfn, uid);
                        }
                    }
                    // What is smaller than a block is cut of the near one as long as it has as much.
                    if let Some((first, there)) = near
                        && pages < BLOCK
                        && pages <= near_free
                    {
                        let near = first..first + there as u64;
                        prop_assert!(runs.iter().all(|run| near.contains(&run.pfn)));
                    }
                    objects.push((uid, runs));
                }
                Step::GiveBack { object, run, low, high } => {
                    if objects.is_empty() {
                        continue;
                    }
                    let object = object % objects.len();
                    let (uid, runs) = &mut objects[object];
                    let run = runs.swap_remove(run % runs.len());
                    // Some at its start and its end stay.
                    let low = low.min(run.pages - 1);
                    let high = high.min(run.pages - 1 - low);
                    let middle = run.pages - low - high;
                    let first = run.pfn + low as u64;
                    prop_assert!(room.give_back(*uid, first, middle));
                    prop_assert!(!room.give_back(*uid, first, middle), "twice");
                    for pfn in first..first + middle as u64 {
                        model.held.remove(&pfn);
                    }
                    for (pfn, pages) in [(run.pfn, low), (first + middle as u64, high)] {
                        if pages > 0 {
                            runs.push(Run { page: 0, pfn, pages });
                        }
                    }
                    if runs.is_empty() {
                        objects.swap_remove(object);
                        room.forget_object();
                    }
                }
                Step::GiveForeign { pfn, pages } => {
                    if (pfn..pfn + pages as u64).all(|pfn| !model.held.contains_key(&pfn)) {
                        prop_assert!(!room.give_back(1, pfn, pages));
                    }
                }
            }
            prop_assert_eq!(room.free_pages(), model.free());
            prop_assert_eq!(room.objects(), objects.len());
            for uid in 1..4 {
                prop_assert_eq!(room.held_by(uid), model.held_by(uid));
            }
        }
        let counts: HashMap<u32, usize> = (1..4).map(|uid| (uid, model.held_by(uid))).collect();
        for (uid, runs) in objects {
            for run in runs {
                prop_assert!(room.give_back(uid, run.pfn, run.pages));
            }
        }
        prop_assert!(counts.keys().all(|&uid| room.held_by(uid) == 0));
        prop_assert_eq!(room.free_pages(), pages);
        // All blocks are whole again: as many huge ones fit as at first.
        let fit: usize = model.ranges.iter().copied().map(blocks).sum();
        let want = Want { huge: true, ..want(fit * BLOCK) };
        prop_assert!(fit == 0 || room.reserve(&want).is_ok());
    }
}

#[test]
fn whole_blocks_near_serve_before_longer_runs_far() {
    let block = BLOCK as u64;
    let mut room = Room::new();
    room.add(0, 4 * BLOCK, 0).unwrap();
    room.add(8 * block, 8 * BLOCK, 1).unwrap();
    let on = |node, pages| Want {
        node,
        huge: true,
        ..want(pages)
    };
    // Of the near one's four blocks the second is held: its longest run is two.
    let held = all(&room.reserve(&on(0, 4 * BLOCK)).unwrap());
    for number in [0, 2, 3] {
        assert!(room.give_back(1, held[0].pfn + number * block, BLOCK));
    }
    let found = all(&room.reserve(&on(0, 4 * BLOCK)).unwrap());
    let near: usize = found
        .iter()
        .filter(|run| run.pfn < 4 * block)
        .map(|run| run.pages)
        .sum();
    assert_eq!(near, 3 * BLOCK, "{found:x?}");
    let far = all(&room.reserve(&on(1, BLOCK)).unwrap());
    assert!(far[0].pfn >= 8 * block);
}

#[test]
fn lent_blocks_serve_before_carve_outs_and_go_back_when_they_are_whole() {
    let block = BLOCK as u64;
    let mut room = Room::new();
    room.add(4 * block, 4 * BLOCK, NOWHERE).unwrap();
    assert_eq!(room.lacking(BLOCK, false), 0);
    assert!(!room.add_block(0));
    assert_eq!(room.spare_block(), None);
    // The carve-out lies among what the kernel can lend.
    room.lend(100 * block, 3 * BLOCK).unwrap();
    assert_eq!(room.lend(100 * block, BLOCK), Err(Errno::Inval));
    assert_eq!(room.lacking(1, false), 1);
    assert_eq!(room.lacking(BLOCK + 1, true), 2);
    assert_eq!(room.lacking(9 * BLOCK, false), 3);
    // Its neighbour before it, which joins it in one run.
    assert!(room.add_block(3 * block));
    assert!(
        !room.add_block(3 * block) && !room.add_block(block + 1) && !room.add_block(100 * block)
    );
    assert_eq!((room.pages(), room.lent_pages()), (5 * BLOCK, BLOCK));
    let small = room.reserve(&want(3)).unwrap();
    assert_eq!(all(&small)[0].pfn, 3 * block);
    assert_eq!(room.spare_block(), None);
    // The rest of the cut block is used; a huge request is not served of it.
    assert_eq!(room.lacking(BLOCK - 3, false), 0);
    assert_eq!(room.lacking(BLOCK, true), 1);
    let large = room.reserve(&want(2 * BLOCK + BLOCK - 3)).unwrap();
    assert_eq!(room.free_pages(), 2 * BLOCK);
    assert!(room.add_block(98 * block) && room.add_block(99 * block));
    assert!(!room.add_block(97 * block), "beyond the limit");
    let huge = Want {
        huge: true,
        ..want(4 * BLOCK)
    };
    let huge = room.reserve(&huge).unwrap();
    assert_eq!(room.free_pages(), 0);
    // Whole blocks go back, each once.
    give_all(&mut room, 1, &small);
    assert_eq!(room.spare_block(), None);
    give_all(&mut room, 1, &large);
    assert_eq!(room.spare_block(), Some(3 * block));
    assert_eq!(room.spare_block(), None);
    give_all(&mut room, 1, &huge);
    let mut back = [room.spare_block().unwrap(), room.spare_block().unwrap()];
    back.sort_unstable();
    assert_eq!(back, [98 * block, 99 * block]);
    assert_eq!(room.spare_block(), None);
    assert_eq!((room.free_pages(), room.lent_pages()), (4 * BLOCK, 0));
    assert_eq!(room.held_by(1), 0);
}
