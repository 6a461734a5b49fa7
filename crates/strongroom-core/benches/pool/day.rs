//! The day on a pool: what is taken and given, what fails, and what the free memory looks like.

use crate::placement::Placement;
use crate::trace::{KINDS, Request, SECONDS, Trace};
use std::time::{Duration, Instant};
use strongroom_core::pool::CHUNK_PAGES;

/// Simulated seconds between looks.
const INTERVAL: usize = 600;

/// One look at a pool.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    pub second: usize,
    pub free: usize,
    /// Free pages that lie in whole chunks.
    pub whole: usize,
    pub largest: usize,
    /// Most pages that were in use at once so far, and of these those in small requests.
    pub most_used: usize,
    pub most_small: usize,
}

/// What came of a day.
#[derive(Default)]
pub(crate) struct Day {
    pub looks: Vec<Look>,
    /// By kind.
    pub requests: [usize; KINDS.len()],
    /// For which there were not enough free pages.
    pub full: usize,
    /// Failed although enough pages were free: not even pieces of 2 MiB were to be had for a large one.
    pub fragmented: usize,
    /// Of several chunks, and placed in more runs than one.
    pub in_pieces: usize,
    /// For all calls, with what the simulation keeps of them.
    pub took: Duration,
    pub calls: usize,
}

/// The runs of a request that is alive. Nearly all have one.
type Runs = (u32, u32);

struct Running<'a, P> {
    pool: &'a mut P,
    /// What ends in each second.
    ends: Vec<Vec<Runs>>,
    used: usize,
    small: usize,
    /// Of the request that is placed.
    placed: Vec<Runs>,
    day: Day,
}

impl<P: Placement> Running<'_, P> {
    fn place(&mut self, request: &Request) {
        self.day.requests[request.kind] += 1;
        let free = self.pool.free_pages();
        let mut left = request.pages;
        let mut piece = request.pages;
        self.placed.clear();
        while left > 0 {
            piece = piece.min(left);
            self.day.calls += 1;
            if let Some(start) = self.pool.take(piece) {
                self.placed.push((start as u32, piece as u32));
                left -= piece;
            } else if piece > CHUNK_PAGES {
                // Several runs serve a large request as well: half of it, then.
                piece = (piece / CHUNK_PAGES).div_ceil(2) * CHUNK_PAGES;
            } else {
                break;
            }
        }
        if left > 0 {
            for &(start, pages) in &self.placed {
                self.pool.give(start as usize, pages as usize);
            }
            if free < request.pages {
                self.day.full += 1;
            } else {
                self.day.fragmented += 1;
            }
            return;
        }
        if self.placed.len() > 1 {
            self.day.in_pieces += 1;
        }
        self.used += request.pages;
        if request.pages < CHUNK_PAGES {
            self.small += request.pages;
        }
        if let Some(ends) = self.ends.get_mut(request.end) {
            ends.extend_from_slice(&self.placed);
        }
    }

    fn end(&mut self, second: usize) {
        for (start, pages) in std::mem::take(&mut self.ends[second]) {
            self.pool.give(start as usize, pages as usize);
            self.day.calls += 1;
            self.used -= pages as usize;
            if (pages as usize) < CHUNK_PAGES {
                self.small -= pages as usize;
            }
        }
    }
}

/// Runs the day of this seed on a pool whose pages are all free.
pub(crate) fn run(pool: &mut impl Placement, seed: u64) -> Day {
    let mut trace = Trace::new(pool.free_pages(), seed);
    let mut running = Running {
        pool,
        ends: vec![Vec::new(); SECONDS],
        used: 0,
        small: 0,
        placed: Vec::new(),
        day: Day::default(),
    };
    let mut requests = Vec::new();
    let (mut most_used, mut most_small) = (0, 0);
    while let Some(second) = trace.next_second(&mut requests) {
        let start = Instant::now();
        running.end(second);
        for request in &requests {
            running.place(request);
        }
        running.day.took += start.elapsed();
        most_used = most_used.max(running.used);
        most_small = most_small.max(running.small);
        if second % INTERVAL == 0 || second + 1 == SECONDS {
            running.day.looks.push(Look {
                second,
                free: running.pool.free_pages(),
                whole: running.pool.whole_chunks() * CHUNK_PAGES,
                largest: running.pool.largest_run(),
                most_used,
                most_small,
            });
        }
    }
    running.day
}
