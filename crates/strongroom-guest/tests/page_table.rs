//! Contexts: sizes, rights, owners, refusals, and what a guest can do to its tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::Ordering;
use std::time::Duration;
use strongroom_guest::backing::{Plain, Poison};
use strongroom_guest::page_table::{
    Access, Context, Error, Fault, Features, Sharing, Size, Tables,
};
use strongroom_guest::{Contents, GuestRegion, PAGE, Side, Why};
use vm_memory::{Bytes, MemoryRegionAddress};

const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
const HUGE: Features = Features {
    physical_bits: 46,
    largest: Size::Huge,
    shadowed: false,
};
const RW: Access = Access::WRITE.union(Access::USER);
const RX: Access = Access::EXECUTE.union(Access::USER);

/// Calls `test` with tables in a pool of so many pages, at guest physical 1 MiB.
fn with_pool(pages: usize, features: Features, test: impl FnOnce(&Tables<'_>, &GuestRegion)) {
    let region = GuestRegion::new(0x10_0000, Plain::new(pages * PAGE).unwrap()).unwrap();
    let mut metadata = vec![0; Tables::metadata_words(pages * PAGE)];
    let tables = Tables::new(&region, 0..pages * PAGE, features, &mut metadata).unwrap();
    test(&tables, &region);
}

fn size(tables: &Tables<'_>, context: &Context<'_, '_>, address: u64) -> Size {
    tables.translate(context.root(), address).unwrap().size
}

#[test]
fn entries_are_as_large_as_they_can_be() {
    with_pool(16, HUGE, |tables, _| {
        let mut context = tables.context().unwrap();
        // From one page below a 1 GiB line to one page past the next: 4 KiB, 1 GiB, 4 KiB.
        let memory = 5 * G1 - K4..6 * G1 + K4;
        context.map(G1 - K4, memory, RW, Sharing::Common).unwrap();
        assert_eq!(size(tables, &context, G1 - K4), Size::Base);
        assert_eq!(size(tables, &context, G1), Size::Huge);
        assert_eq!(size(tables, &context, 2 * G1), Size::Base);
        // Root, one table of 1 GiB entries, and a directory and a table on each side.
        assert_eq!(context.tables(), 6);
        // Physically off by a page: nothing but 4 KiB will do.
        let memory = 8 * G1 + K4..8 * G1 + M2 + K4;
        context.map(8 * M2, memory, RW, Sharing::Common).unwrap();
        assert_eq!(size(tables, &context, 8 * M2), Size::Base);
    });
    let small = Features {
        largest: Size::Base,
        ..HUGE
    };
    with_pool(16, small, |tables, _| {
        let mut context = tables.context().unwrap();
        context
            .map(0, 0x4000_0000..0x4000_0000 + M2, RW, Sharing::Common)
            .unwrap();
        assert_eq!(size(tables, &context, 0), Size::Base);
    });
}

#[test]
fn a_part_that_is_restricted_splits_an_entry_and_joins_it_again() {
    with_pool(16, HUGE, |tables, _| {
        let mut context = tables.context().unwrap();
        context.map(0, 4 * G1..5 * G1, RW, Sharing::Common).unwrap();
        let few = context.tables();
        assert_eq!(few, 2);
        context.restrict(5 * M2 + K4, K4, Access::USER).unwrap();
        assert_eq!(context.tables(), 4);
        let look = |address| tables.translate(context.root(), address).unwrap();
        for address in [5 * M2, 5 * M2 + K4, 5 * M2 + 2 * K4, 6 * M2, 0] {
            let restricted = address == 5 * M2 + K4;
            let found = look(address);
            assert_eq!(found.access, if restricted { Access::USER } else { RW });
            assert_eq!(found.physical, 4 * G1 + address);
        }
        assert_eq!(look(6 * M2).size, Size::Large);
        // A right that is gone does not come back by another restriction.
        context.restrict(0, G1, Access::all()).unwrap();
        assert_eq!(look_at(tables, &context, 5 * M2 + K4).access, Access::USER);
        context.protect(5 * M2 + K4, K4, RW).unwrap();
        context.flushed();
        assert_eq!(
            (context.tables(), size(tables, &context, 0)),
            (few, Size::Huge)
        );
        assert_eq!(tables.free(), 16 - few);
    });
}

fn look_at(
    tables: &Tables<'_>,
    context: &Context<'_, '_>,
    address: u64,
) -> strongroom_guest::page_table::Translation {
    tables.translate(context.root(), address).unwrap()
}

#[test]
fn an_exclusive_page_is_in_one_context_only() {
    with_pool(32, HUGE, |tables, _| {
        let mut one = tables.context().unwrap();
        let mut other = tables.context().unwrap();
        let secret = 2 * G1..2 * G1 + 4 * K4;
        one.map(0, secret.clone(), RW, Sharing::Exclusive).unwrap();
        one.map(M2, G1..G1 + K4, RX, Sharing::Common).unwrap();
        assert_eq!(tables.owner(2 * G1 + K4), Some(one.id()));
        for sharing in [Sharing::Common, Sharing::Exclusive] {
            let owner = one.id();
            let physical = 2 * G1 + K4;
            let memory = physical..physical + M2;
            let refused = Err(Error::Exclusive { physical, owner });
            assert_eq!(other.map(0, memory.clone(), RW, sharing), refused);
            assert_eq!(one.map(8 * M2, memory, RW, sharing), refused);
        }
        // What is common already does not become exclusive.
        assert_eq!(
            other.map(0, G1..G1 + K4, RW, Sharing::Exclusive),
            Err(Error::Common {
                physical: G1,
                times: 1
            })
        );
        // A copy has what is common and not the secret.
        let copy = one.try_clone().unwrap();
        assert_eq!(look_at(tables, &copy, M2).access, RX);
        assert!(matches!(
            tables.translate(copy.root(), 0),
            Err(Fault::Absent { .. })
        ));
        // A processor may have it cached until it is flushed.
        one.root();
        one.unmap(0, K4).unwrap();
        assert!(
            other
                .map(0, 2 * G1..2 * G1 + K4, RW, Sharing::Exclusive)
                .is_err()
        );
        one.flushed();
        other
            .map(0, 2 * G1..2 * G1 + K4, RW, Sharing::Exclusive)
            .unwrap();
        assert_eq!(tables.owner(2 * G1), Some(other.id()));
        drop(one);
        assert_eq!(tables.owner(2 * G1 + K4), None);
        drop((other, copy));
        assert_eq!(tables.free(), 32);
    });
}

#[test]
fn restricted_copies_have_what_was_named_and_nothing_else() {
    with_pool(64, HUGE, |tables, _| {
        let mut whole = tables.context().unwrap();
        whole
            .map(0, 4 * G1..4 * G1 + 4 * M2, RW, Sharing::Common)
            .unwrap();
        let high = 0xffff_8000_0000_0000;
        whole.map(high, G1..G1 + M2, RX, Sharing::Common).unwrap();
        let part = whole
            .restricted_to(&[(M2 + K4, 2 * K4), (high, K4)])
            .unwrap();
        let root = part.root();
        let there = [M2 + K4, M2 + 2 * K4, high, high + K4 - 1];
        for address in there {
            assert_eq!(
                tables.translate(root, address).map(|t| t.physical).unwrap(),
                look_at(tables, &whole, address).physical
            );
        }
        for address in [0, M2, M2 + 3 * K4, high + K4, high - (1 << 47)] {
            assert!(tables.translate(root, address).is_err(), "{address:#x}");
        }
        let runs: Vec<_> = part.runs().map(|run| (run.start, run.length)).collect();
        assert_eq!(runs, [(M2 + K4, 2 * K4), (high, K4)]);
        let twice = whole.restricted_to(&[(0, 2 * K4), (K4, K4)]);
        assert_eq!(twice.map(drop), Err(Error::Mapped(K4)));
    });
}

#[test]
fn refusals_name_the_cause_and_change_nothing() {
    with_pool(8, HUGE, |tables, region| {
        let mut context = tables.context().unwrap();
        context.map(M2, G1..G1 + K4, RW, Sharing::Common).unwrap();
        let free = tables.free();
        let mut map = |at, memory| context.map(at, memory, RW, Sharing::Common);
        assert_eq!(map(1, G1..G1 + K4), Err(Error::Misaligned(1)));
        assert_eq!(map(0, G1..G1 + 1), Err(Error::Misaligned(1)));
        assert_eq!(map(0, G1 + 8..G1 + 8 + K4), Err(Error::Misaligned(G1 + 8)));
        assert!(matches!(map(0, G1..G1), Err(Error::NotCanonical { .. })));
        let low_end = 1 << 47;
        for at in [
            low_end,
            low_end - K4,
            u64::MAX - 2 * K4 + 1,
            0xffff_7fff_ffff_f000,
        ] {
            let memory = G1..G1 + 3 * K4;
            assert!(
                matches!(map(at, memory), Err(Error::NotCanonical { .. })),
                "{at:#x}"
            );
        }
        let end = 1 << 46;
        assert!(matches!(
            map(0, end - K4..end + K4),
            Err(Error::Beyond { .. })
        ));
        assert_eq!(map(M2 - K4, G1..G1 + 2 * K4), Err(Error::Mapped(M2)));
        assert_eq!(map(0, 0..M2), Err(Error::TablePage(0x10_0000)));
        assert_eq!(
            map(0, 0x10_1000..0x10_2000),
            Err(Error::TablePage(0x10_1000))
        );
        let two_tables_each = map(4 * G1 - K4, G1..G1 + 4 * M2);
        assert!(
            matches!(two_tables_each, Err(Error::Exhausted { free: 4, .. })),
            "{two_tables_each:?}"
        );
        // The largest range there is ends as early.
        let all = map(0, K4 + G1..(1 << 46));
        assert!(matches!(all, Err(Error::Mapped(M2))), "{all:?}");
        let most = map(0xffff_8000_0000_0000, K4 + G1..(1 << 46));
        assert!(matches!(most, Err(Error::Exhausted { .. })), "{most:?}");
        assert_eq!(context.unmap(0, M2), Err(Error::NotMapped(0)));
        assert_eq!(context.unmap(M2, 2 * K4), Err(Error::NotMapped(M2 + K4)));
        assert_eq!(context.protect(0, M2 + K4, RW), Err(Error::NotMapped(0)));
        assert_eq!((tables.free(), context.tables()), (free, 4));
        assert_eq!(context.runs().count(), 1);
        // Odd pools.
        let new = |bytes| {
            let mut metadata = [0; 64];
            Tables::new(region, bytes, HUGE, &mut metadata).map(drop)
        };
        assert_eq!(new(0..1), Err(Error::Misaligned(1)));
        assert!(matches!(new(PAGE..PAGE), Err(Error::Beyond { .. })));
        assert!(matches!(new(0..9 * PAGE), Err(Error::Beyond { .. })));
        let none = Tables::new(region, 0..PAGE, HUGE, &mut []).map(drop);
        assert_eq!(none, Err(Error::Exhausted { needed: 1, free: 0 }));
    });
}

#[test]
fn tables_that_became_private_stay_as_they_are() {
    let pool = 16 * PAGE;
    let region = GuestRegion::new(0, Poison::new(pool).unwrap()).unwrap();
    let mut metadata = vec![0; Tables::metadata_words(pool)];
    let tables = Tables::new(&region, 0..pool, HUGE, &mut metadata).unwrap();
    let mut context = tables.context().unwrap();
    context.map(0, G1..G1 + M2, RW, Sharing::Exclusive).unwrap();
    let root = context.root();
    region
        .convert(0..pool, Side::Private, Contents::Kept, Duration::ZERO)
        .unwrap();
    let runs: Vec<_> = context.runs().collect();
    for refused in [
        context.map(G1, 2 * G1..2 * G1 + K4, RW, Sharing::Common),
        context.unmap(0, M2),
        context.protect(0, K4, RX),
        context.restrict(0, K4, RX),
        context.try_clone().map(drop),
    ] {
        let Err(Error::Table(strongroom_guest::Error::Refused(refused))) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(refused.why, Why::Private);
    }
    assert_eq!(context.runs().collect::<Vec<_>>(), runs);
    assert_eq!(tables.free(), 16 - context.tables());
    region
        .convert(0..pool, Side::Shared, Contents::Kept, Duration::ZERO)
        .unwrap();
    assert_eq!(tables.translate(root, K4).unwrap().physical, G1 + K4);
    assert_eq!(context.check().unwrap(), None);
    drop(context);
    assert_eq!(tables.free(), 16);
}

#[test]
fn a_guest_that_writes_to_its_tables_is_found_and_confuses_nobody() {
    with_pool(16, HUGE, |tables, region| {
        let mut one = tables.context().unwrap();
        let mut other = tables.context().unwrap();
        one.map(0, G1..G1 + 4 * K4, RW, Sharing::Exclusive).unwrap();
        other
            .map(0, 2 * G1..2 * G1 + K4, RW, Sharing::Exclusive)
            .unwrap();
        let offset = |physical: u64| MemoryRegionAddress(physical - region.start());
        let root_of_other = other.root();
        // Its root leads to itself, to the other's tables, and to nowhere.
        for entry in [one.root() | 7, root_of_other | 7, u64::MAX, 0] {
            region
                .store(entry, offset(one.root()), Ordering::Relaxed)
                .unwrap();
            let difference = one.check().unwrap().unwrap();
            assert_eq!((difference.physical, difference.found), (one.root(), entry));
            // Walks end.
            let _ = tables.translate(one.root(), 0);
            one.protect(0, K4, RX).unwrap();
            one.unmap(K4, K4).unwrap();
            one.map(K4, G1 + K4..G1 + 2 * K4, RW, Sharing::Common)
                .unwrap_err();
            one.flushed();
            one.map(K4, G1 + K4..G1 + 2 * K4, RW, Sharing::Exclusive)
                .unwrap();
            one.protect(0, K4, RW).unwrap();
        }
        assert_eq!(other.check().unwrap(), None);
        assert_eq!(tables.translate(root_of_other, 0).unwrap().physical, 2 * G1);
        drop(one);
        drop(other);
        assert_eq!(tables.free(), 16);
    });
}

#[test]
fn where_kvm_shadows_tables_nothing_is_taken_from_a_context_that_ran() {
    let features = Features {
        shadowed: true,
        ..HUGE
    };
    with_pool(16, features, |tables, _| {
        let mut context = tables.context().unwrap();
        context
            .map(0, G1..G1 + 4 * K4, RW, Sharing::Exclusive)
            .unwrap();
        context.protect(0, K4, RX).unwrap();
        context.unmap(3 * K4, K4).unwrap();
        context.root();
        let refused = Err(Error::Shadowed(context.id()));
        assert_eq!(context.unmap(0, K4), refused);
        assert_eq!(context.protect(0, K4, RW), refused);
        assert_eq!(context.restrict(0, K4, RX), refused);
        context
            .map(M2, G1 + M2..G1 + M2 + K4, RW, Sharing::Common)
            .unwrap();
        let (worn, free) = (context.tables(), tables.free());
        drop(context);
        assert_eq!((tables.free(), worn), (free, 5), "never used again");
        assert_eq!(tables.owner(G1), None);
        // One that never ran goes back whole.
        drop(tables.context().unwrap());
        assert_eq!(tables.free(), free);
    });
}

#[test]
fn contexts_are_made_and_dropped_by_threads_at_once() {
    with_pool(64, HUGE, |tables, _| {
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                scope.spawn(move || {
                    for round in 0..200 {
                        let mut context = tables.context().unwrap();
                        let secret = (8 + thread) * G1 + round * K4;
                        context
                            .map(round * M2, secret..secret + K4, RW, Sharing::Exclusive)
                            .unwrap();
                        assert_eq!(tables.owner(secret), Some(context.id()));
                        assert_eq!(look_at(tables, &context, round * M2).physical, secret);
                    }
                });
            }
        });
        assert_eq!(tables.free(), 64);
    });
}
