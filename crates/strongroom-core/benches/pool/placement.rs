//! Ways to place requests: what the day is run on.

use strongroom_core::pool::{CHUNK_PAGES, ChunkPool, RunPool};

pub(crate) trait Placement {
    fn take(&mut self, pages: usize) -> Option<usize>;
    fn give(&mut self, start: usize, pages: usize);
    fn free_pages(&self) -> usize;
    /// Chunks of 2 MiB, at their places, that are wholly free.
    fn whole_chunks(&self) -> usize;
    /// The longest run that a request can get.
    fn largest_run(&self) -> usize;
}

/// The lowest run that fits, for everything.
pub(crate) struct FirstFit<'a>(pub RunPool<'a>);

impl Placement for FirstFit<'_> {
    fn take(&mut self, pages: usize) -> Option<usize> {
        if pages.is_multiple_of(CHUNK_PAGES) {
            self.0.take_aligned(pages, CHUNK_PAGES, 0)
        } else {
            self.0.take(pages)
        }
    }

    fn give(&mut self, start: usize, pages: usize) {
        assert!(self.0.give(start, pages));
    }

    fn free_pages(&self) -> usize {
        self.0.free_pages()
    }

    fn whole_chunks(&self) -> usize {
        (0..self.0.pages() / CHUNK_PAGES)
            .filter(|chunk| self.0.is_free(chunk * CHUNK_PAGES, CHUNK_PAGES))
            .count()
    }

    fn largest_run(&self) -> usize {
        self.0.largest_free_run()
    }
}

impl Placement for ChunkPool<'_> {
    fn take(&mut self, pages: usize) -> Option<usize> {
        ChunkPool::take(self, pages)
    }

    fn give(&mut self, start: usize, pages: usize) {
        assert!(ChunkPool::give(self, start, pages));
    }

    fn free_pages(&self) -> usize {
        ChunkPool::free_pages(self)
    }

    fn whole_chunks(&self) -> usize {
        self.free_chunks()
    }

    fn largest_run(&self) -> usize {
        self.largest_free_run()
    }
}
