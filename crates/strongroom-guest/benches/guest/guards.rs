//! What a guard costs, taken and dropped: alone, and beside another thread's.

use crate::rounds::{Rounds, Row, median, time};
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Barrier;
use strongroom_guest::backing::Plain;
use strongroom_guest::{GuestRegion, PAGE};

const PAGES: usize = 8192;
const OPERATIONS: &str = "two atomic operations";
/// How often each thread takes one in a slice, and how many slices make a round's value, their median.
const TIMES: usize = 10_000;
const SLICES: usize = 41;

/// Where each of two threads takes its guards: first page, and how many pages on in each step.
struct Place {
    name: &'static str,
    first: [usize; 2],
    step: usize,
}

/// Far apart: each thread has the states of its own 256 pages, over which it goes. Neighbours: the states of the two
/// pages lie in one line of the cache.
const PLACES: [Place; 3] = [
    Place {
        name: "each on pages of its own",
        first: [0, PAGES / 2],
        step: 1,
    },
    Place {
        name: "each on the other's neighbour",
        first: [0, 1],
        step: 0,
    },
    Place {
        name: "on the same page",
        first: [0, 0],
        step: 0,
    },
];

fn page(first: usize, step: usize, n: usize) -> usize {
    first + n * step % 256
}

/// Nanoseconds of each action of a thread; so many threads do the same at once.
fn together(threads: usize, action: impl Fn(usize, usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let others = AtomicU32::new(threads as u32);
    let each: Vec<f64> = std::thread::scope(|scope| {
        let (barrier, others, action) = (&barrier, &others, &action);
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    barrier.wait();
                    let slices: Vec<_> = (0..SLICES)
                        .map(|_| time(TIMES, |n| action(thread, n)))
                        .collect();
                    // Nobody is alone in the end.
                    others.fetch_sub(1, Ordering::Relaxed);
                    while others.load(Ordering::Relaxed) > 0 {
                        (0..100).for_each(|n| action(thread, n));
                    }
                    median(&slices)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    each.iter().sum::<f64>() / each.len() as f64
}

pub(crate) fn measure(rounds: &Rounds) {
    let region = GuestRegion::new(0, Plain::new(PAGES * PAGE).unwrap()).unwrap();
    let words: Vec<AtomicU32> = (0..PAGES).map(|_| AtomicU32::new(0)).collect();
    let guard = |page: usize| {
        let start = page * PAGE;
        drop(black_box(region.guard(start..start + 1).unwrap()));
    };
    // What a count that goes up and down cannot do without.
    let operations = |page: usize| {
        words[page].fetch_add(1, Ordering::Acquire);
        black_box(words[page].fetch_sub(1, Ordering::Release));
    };
    rounds.short(
        "guard of a page, one thread",
        OPERATIONS,
        |n| guard(n % 256),
        |n| operations(n % 256),
    );
    rounds.short(
        "guard of 16 pages, one thread",
        "the same on 16 words",
        |n| {
            let start = n % 16 * 16 * PAGE;
            drop(black_box(region.guard(start..start + 16 * PAGE).unwrap()));
        },
        |n| (0..16).for_each(|page| operations(n % 16 * 16 + page)),
    );
    rounds.short(
        "slice of a page, one thread",
        "a guard of it",
        |n| drop(black_box(region.slice(n % 256 * PAGE..n % 256 * PAGE + 64))),
        |n| guard(n % 256),
    );
    let unit = "ns";
    for Place { name, first, step } in PLACES {
        let what = format!("guard of a page, 2 threads, {name}");
        rounds.compare(
            Row {
                what: &what,
                peer: OPERATIONS,
                unit,
            },
            || together(2, |thread, n| guard(page(first[thread], step, n))),
            || together(2, |thread, n| operations(page(first[thread], step, n))),
        );
        rounds.compare(
            Row {
                what: &what,
                peer: "one thread's",
                unit,
            },
            || together(2, |thread, n| guard(page(first[thread], step, n))),
            || together(1, |thread, n| guard(page(first[thread], step, n))),
        );
    }
}
