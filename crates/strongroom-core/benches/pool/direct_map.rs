//! What memfd_secret would do to the direct map: a model, and said to be one.
//!
//! The kernel takes its pages one by one from the buddy allocator (mm/secretmem.c, 6.12), which gets
//! them from its lists in batches of some 64 (`pcp->batch`, mm/page_alloc.c). Here each batch is
//! a random 64 pages, aligned, of the machine's memory. A page taken out splits the large entry that maps
//! it, for good. Pages that were given back are taken again first, so that nothing is split but where
//! more is in use than ever before: that favours memfd_secret.

use crate::random::Random;
use strongroom_core::pool::CHUNK_PAGES;

const BATCH: usize = 64;
const BATCHES_A_CHUNK: usize = CHUNK_PAGES / BATCH;
const CHUNKS_A_GIB: usize = 512;

pub(crate) struct DirectMap {
    random: Random,
    /// Batches in the order of their use, as far as that is drawn.
    order: Vec<u32>,
    used: usize,
    split: Vec<bool>,
    split_gib: Vec<bool>,
}

impl DirectMap {
    /// Of `pages` pages, all in entries of 1 GiB.
    pub(crate) fn new(pages: usize, seed: u64) -> Self {
        let chunks = pages / CHUNK_PAGES;
        Self {
            random: Random::new(seed),
            order: (0..(chunks * BATCHES_A_CHUNK) as u32).collect(),
            used: 0,
            split: vec![false; chunks],
            split_gib: vec![false; chunks.div_ceil(CHUNKS_A_GIB)],
        }
    }

    /// So many pages are in use.
    pub(crate) fn reach(&mut self, pages: usize) {
        while self.used < pages.div_ceil(BATCH).min(self.order.len()) {
            let other = self.used + self.random.below(self.order.len() - self.used);
            self.order.swap(self.used, other);
            let chunk = self.order[self.used] as usize / BATCHES_A_CHUNK;
            self.split[chunk] = true;
            self.split_gib[chunk / CHUNKS_A_GIB] = true;
            self.used += 1;
        }
    }

    /// How many areas of 2 MiB are mapped in pages of 4 KiB, and of 1 GiB in less than 1 GiB.
    pub(crate) fn split(&self) -> (usize, usize) {
        let count = |of: &[bool]| of.iter().filter(|&&split| split).count();
        (count(&self.split), count(&self.split_gib))
    }
}
