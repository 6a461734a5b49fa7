//! The heap against a model, from outside.

use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::mpsc;
use strongroom::{Heap, Level, Policy};

fn hidden() -> Policy {
    Policy::prefer(Level::Hidden)
}

/// What a block is filled with: a pattern of its own, so that an overlap shows.
fn fill(block: *mut u8, len: usize, seed: u8) {
    for at in 0..len {
        // SAFETY: a block of at least `len` bytes.
        unsafe { block.add(at).write(seed.wrapping_add((at % 251) as u8)) };
    }
}

fn check(block: *const u8, len: usize, seed: u8) {
    for at in 0..len {
        // SAFETY: as in `fill`.
        let byte = unsafe { block.add(at).read() };
        assert_eq!(
            byte,
            seed.wrapping_add((at % 251) as u8),
            "byte {at} of {len}"
        );
    }
}

fn assert_zero(block: *const u8, from: usize, len: usize) {
    // SAFETY: a block of at least `len` bytes.
    let bytes = unsafe { std::slice::from_raw_parts(block.add(from), len - from) };
    assert!(
        bytes.iter().all(|&b| b == 0),
        "not zero past {from} of {len}"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { size: usize, align: usize },
    Free(usize),
    Resize(usize, usize),
    Trim,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..200usize, 4 => 0..5000usize, 2 => 0..70_000usize, 1 => 0..3_000_000usize]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (size(), 0..16u32).prop_map(|(size, align)| Step::Allocate { size, align: 1 << align }),
        4 => any::<usize>().prop_map(Step::Free),
        2 => (any::<usize>(), size()).prop_map(|(at, size)| Step::Resize(at, size)),
        1 => Just(Step::Trim),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn blocks_are_zeroed_aligned_apart_and_kept(steps in prop::collection::vec(step(), 1..150)) {
        let heap = Heap::new(hidden()).unwrap();
        run_model(&heap, &steps);
    }

    #[test]
    fn so_are_those_of_the_cached_global_heap(steps in prop::collection::vec(step(), 1..150)) {
        run_model(strongroom::heap::global(), &steps);
    }
}

fn run_model(heap: &Heap, steps: &[Step]) {
    let mut live: Vec<(*mut u8, usize, u8)> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let seed = number as u8;
        match *step {
            Step::Allocate { size, align } => {
                let block = heap.allocate_aligned(size, align);
                assert!(!block.is_null());
                assert_eq!(block as usize % align.max(16), 0);
                // SAFETY: allocated above.
                let usable = unsafe { heap.usable_size(block) };
                assert!(usable >= size);
                assert_zero(block, 0, usable);
                fill(block, usable, seed);
                live.push((block, usable, seed));
            }
            Step::Free(at) if !live.is_empty() => {
                let (block, len, seed) = live.swap_remove(at % live.len());
                check(block, len, seed);
                // SAFETY: allocated and not freed yet.
                unsafe { heap.free(block) };
            }
            Step::Resize(at, size) if !live.is_empty() => {
                let at = at % live.len();
                let (block, len, old_seed) = live[at];
                // SAFETY: allocated and not freed yet.
                let new = unsafe { heap.resize(block, size) };
                assert!(!new.is_null());
                check(new, len.min(size), old_seed);
                // SAFETY: as above.
                let usable = unsafe { heap.usable_size(new) };
                if new != block && usable > size {
                    assert_zero(new, len.min(size), usable);
                }
                fill(new, usable, seed);
                live[at] = (new, usable, seed);
            }
            Step::Trim => heap.trim(),
            _ => {}
        }
    }
    let mut spans: Vec<_> = live
        .iter()
        .map(|(block, len, _)| (*block as usize, *len))
        .collect();
    spans.sort_unstable();
    for pair in spans.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "blocks overlap");
    }
    for (block, len, seed) in live {
        check(block, len, seed);
        // SAFETY: allocated and not freed yet.
        unsafe { heap.free(block) };
    }
}

#[test]
fn what_is_freed_goes_back_to_the_kernel_past_the_budget() {
    let heap = Heap::new(hidden()).unwrap();
    let blocks: Vec<_> = (0..100).map(|_| heap.allocate(1 << 20)).collect();
    assert!(
        blocks.iter().all(|b| !b.is_null()),
        "{:?}",
        heap.last_refusal()
    );
    let full = heap.usage();
    assert!(full.mapped >= 100 << 20);
    for block in blocks {
        // SAFETY: allocated above.
        unsafe { heap.free(block) };
    }
    let after = heap.usage();
    assert_eq!(after.free, after.mapped);
    assert!(after.mapped < full.mapped, "nothing was given back");
    assert!(after.chunks < full.chunks);
    heap.trim();
    assert_eq!(heap.usage().mapped, 0);
    assert_eq!(heap.usage().chunks, 0);
    // And from there on again.
    let block = heap.allocate(5000);
    assert!(!block.is_null());
    assert_zero(block, 0, 5000);
}

#[test]
fn threads_hand_blocks_to_each_other() {
    let heap = strongroom::heap::global();
    let (to_freer, from_maker) = mpsc::sync_channel::<(usize, usize, u8)>(64);
    let maker = std::thread::spawn(move || {
        for number in 0..60_000usize {
            let size = number * 7 % 600;
            let block = heap.allocate(size);
            assert!(!block.is_null());
            assert_zero(block, 0, size);
            fill(block, size, number as u8);
            to_freer.send((block as usize, size, number as u8)).unwrap();
        }
    });
    let freer = std::thread::spawn(move || {
        let mut kept = HashMap::new();
        for (number, (block, size, seed)) in from_maker.into_iter().enumerate() {
            check(block as *const u8, size, seed);
            kept.insert(number % 500, block)
                .into_iter()
                .for_each(|old| {
                    // SAFETY: handed over by the maker, freed once.
                    unsafe { heap.free(old as *mut u8) };
                });
        }
        for block in kept.into_values() {
            // SAFETY: as above.
            unsafe { heap.free(block as *mut u8) };
        }
    });
    maker.join().unwrap();
    freer.join().unwrap();
}

#[test]
fn many_threads_come_and_go() {
    let heap = strongroom::heap::global();
    let before = heap.usage().mapped;
    for _ in 0..20 {
        let threads: Vec<_> = (0..8usize)
            .map(|thread| {
                std::thread::spawn(move || {
                    let blocks: Vec<_> =
                        (0..500).map(|n| heap.allocate(n * (thread + 1))).collect();
                    for block in blocks {
                        // SAFETY: allocated above.
                        unsafe { heap.free(block) };
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    }
    // 160 threads that each left a cache behind would hold far more.
    assert!(heap.usage().mapped <= before + (64 << 20));
}

#[test]
fn collections_live_in_a_heap() {
    let heap = Heap::new(hidden()).unwrap();
    let mut words: allocator_api2::vec::Vec<u64, &Heap> = allocator_api2::vec::Vec::new_in(&heap);
    words.extend(0..10_000);
    assert!(heap.contains(words.as_ptr().cast()));
    assert_eq!(words.iter().sum::<u64>(), 49_995_000);
    assert!(
        heap.receipt()
            .unwrap()
            .held()
            .contains(Level::Locked.protections())
    );
}

#[test]
fn sizes_without_end_are_refused_with_a_reason() {
    let heap = Heap::new(hidden()).unwrap();
    assert!(heap.allocate(usize::MAX).is_null());
    assert!(heap.allocate(1 << 46).is_null());
    assert!(heap.allocate_aligned(usize::MAX - 4096, 1 << 21).is_null());
    assert!(heap.last_refusal().is_some());
    assert!(!heap.allocate(1).is_null());
}

#[test]
fn locked_memory_serves_too() {
    let heap = Heap::new(Policy::require(Level::Locked)).unwrap();
    let block = heap.allocate(100_000);
    assert!(!block.is_null());
    assert_zero(block, 0, 100_000);
    fill(block, 100_000, 3);
    // SAFETY: allocated above.
    unsafe { heap.free(block) };
    let again = heap.allocate(100_000);
    assert_zero(again, 0, 100_000);
    assert_eq!(heap.keeper(), Some("locked"));
}
