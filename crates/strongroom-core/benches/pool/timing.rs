//! Nanoseconds to take and to give a page: of the processor, as others may have it meanwhile.

use crate::random::Random;
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::time::Duration;
use strongroom_core::pool::{ChunkPool, RunPool};

/// Free pages come in runs of this many, at random places.
const RUN: usize = 16;
/// Calls in one measurement, at most.
const CALLS: usize = 50_000;

/// Nanoseconds a call.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub take: f64,
    pub give: f64,
}

/// What is measured.
trait Pool {
    fn take(&mut self) -> Option<usize>;
    fn give(&mut self, start: usize, pages: usize) -> bool;
    fn is_taken(&self, page: usize) -> bool;
    fn free_pages(&self) -> usize;
    fn pages(&self) -> usize;
}

impl Pool for RunPool<'_> {
    fn take(&mut self) -> Option<usize> {
        RunPool::take(self, 1)
    }
    fn give(&mut self, start: usize, pages: usize) -> bool {
        RunPool::give(self, start, pages)
    }
    fn is_taken(&self, page: usize) -> bool {
        RunPool::is_taken(self, page, 1)
    }
    fn free_pages(&self) -> usize {
        RunPool::free_pages(self)
    }
    fn pages(&self) -> usize {
        RunPool::pages(self)
    }
}

impl Pool for ChunkPool<'_> {
    fn take(&mut self) -> Option<usize> {
        ChunkPool::take(self, 1)
    }
    fn give(&mut self, start: usize, pages: usize) -> bool {
        ChunkPool::give(self, start, pages)
    }
    fn is_taken(&self, page: usize) -> bool {
        ChunkPool::is_taken(self, page, 1)
    }
    fn free_pages(&self) -> usize {
        ChunkPool::free_pages(self)
    }
    fn pages(&self) -> usize {
        ChunkPool::pages(self)
    }
}

/// Of one pool for all, first fit.
pub(crate) fn runs(pages: usize, fill: f64, seed: u64) -> Times {
    let mut metadata = vec![0; RunPool::metadata_words(pages)];
    measure(&mut RunPool::new(pages, &mut metadata), fill, seed)
}

/// Of a pool of chunks.
pub(crate) fn chunks(pages: usize, fill: f64, seed: u64) -> Times {
    let chunks = pages / strongroom_core::pool::CHUNK_PAGES;
    let mut metadata = vec![0; ChunkPool::metadata_words(chunks)];
    measure(&mut ChunkPool::new(chunks, &mut metadata), fill, seed)
}

/// Fills `pool`, all of which is taken, to this part; then gives random pages back and takes as many.
fn measure(pool: &mut impl Pool, fill: f64, seed: u64) -> Times {
    let mut random = Random::new(seed);
    let pages = pool.pages();
    let free = ((1.0 - fill) * pages as f64) as usize;
    while pool.free_pages() < free {
        let start = random.below(pages / RUN) * RUN;
        if pool.is_taken(start) {
            assert!(pool.give(start, RUN));
        }
    }
    let mut chosen: Vec<usize> = (0..CALLS.min(pages / 16))
        .map(|_| random.below(pages))
        .filter(|&page| pool.is_taken(page))
        .collect();
    chosen.sort_unstable();
    chosen.dedup();
    for index in (1..chosen.len()).rev() {
        chosen.swap(index, random.below(index + 1));
    }
    let start = processor_time();
    for &page in &chosen {
        assert!(pool.give(page, 1));
    }
    let middle = processor_time();
    for _ in &chosen {
        assert!(black_box(pool.take()).is_some());
    }
    let (give, take) = (middle - start, processor_time() - middle);
    let each = |all: Duration| all.as_secs_f64() * 1e9 / chosen.len() as f64;
    Times {
        take: each(take),
        give: each(give),
    }
}

/// What this thread had of the processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
