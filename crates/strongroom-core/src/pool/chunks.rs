//! Pages in chunks of 2 MiB, small requests kept apart from large ones.

use super::RunPool;
use core::fmt;

/// Pages of a chunk: 2 MiB of 4 KiB each, what one large page maps.
pub const CHUNK_PAGES: usize = 512;

/// A pool of pages that keeps as many chunks whole as it can.
///
/// Requests of whole chunks get the highest that are free; all others get the lowest run in chunks
/// that are *cut*: of which some pages are taken and some are free. Only where those have no such run
/// another chunk is cut, the lowest that is whole. A chunk whose last page comes back is whole at once.
/// So what is small fills holes that small requests left, and what is large never stands among it:
/// with one first fit for both, a day of traffic leaves small ones in most chunks
/// (`docs/benchmarks.md`, "The pool").
///
/// Page and chunk numbers begin at 0: page `p` lies in chunk `p / 512`. Chunk 0 is to begin at a
/// multiple of 2 MiB.
///
/// ```
/// use strongroom_core::pool::{CHUNK_PAGES, ChunkPool};
///
/// let mut metadata = [0; ChunkPool::metadata_words(8)];
/// let mut pool = ChunkPool::new(8, &mut metadata);
/// assert_eq!(pool.take(1), None); // all pages are taken at first
/// assert!(pool.give(0, 8 * CHUNK_PAGES));
/// assert_eq!(pool.take(CHUNK_PAGES), Some(7 * CHUNK_PAGES));
/// assert_eq!(pool.take(3), Some(0));
/// assert_eq!(pool.take(3), Some(3));
/// assert_eq!(pool.free_chunks(), 6);
/// assert!(pool.give(0, 6)); // need not be what one `take` took
/// assert_eq!(pool.free_chunks(), 7);
/// ```
pub struct ChunkPool<'a> {
    /// The free pages of chunks that are cut.
    pages: RunPool<'a>,
    /// The chunks that are wholly free. None of their pages is in `pages`.
    chunks: RunPool<'a>,
}

impl<'a> ChunkPool<'a> {
    /// Words of metadata that a pool of `chunks` chunks needs: 0.0035 % of the memory described.
    pub const fn metadata_words(chunks: usize) -> usize {
        RunPool::metadata_words(chunks.saturating_mul(CHUNK_PAGES))
            .saturating_add(RunPool::metadata_words(chunks))
    }

    /// A pool of `chunks` chunks, all of their pages taken.
    ///
    /// `metadata` is as for [`RunPool::new`]: zeros, [`metadata_words`](Self::metadata_words) of them
    /// at least. When it is too short, or so many pages cannot be counted, the pool has no pages. O(1).
    pub fn new(chunks: usize, metadata: &'a mut [u64]) -> Self {
        let pages = chunks.checked_mul(CHUNK_PAGES).unwrap_or(0);
        let chunks = pages / CHUNK_PAGES;
        let words = RunPool::metadata_words(pages);
        match metadata.split_at_mut_checked(words) {
            Some((low, high)) if high.len() >= RunPool::metadata_words(chunks) => ChunkPool {
                pages: RunPool::new(pages, low),
                chunks: RunPool::new(chunks, high),
            },
            _ => ChunkPool {
                pages: RunPool::new(0, &mut []),
                chunks: RunPool::new(0, &mut []),
            },
        }
    }

    /// Pages that the pool describes, free or taken.
    pub fn pages(&self) -> usize {
        self.pages.pages()
    }

    /// Pages that are free, in whole chunks and in cut ones. O(1).
    pub fn free_pages(&self) -> usize {
        self.chunks
            .free_pages()
            .saturating_mul(CHUNK_PAGES)
            .saturating_add(self.pages.free_pages())
    }

    /// Chunks that are wholly free. O(1).
    pub fn free_chunks(&self) -> usize {
        self.chunks.free_pages()
    }

    /// Pages of the longest run that [`take`](Self::take) can give. O(1).
    pub fn largest_free_run(&self) -> usize {
        self.chunks
            .largest_free_run()
            .saturating_mul(CHUNK_PAGES)
            .max(self.pages.largest_free_run())
    }

    /// Takes a run of `n` pages; its first page.
    ///
    /// Where `n` is a multiple of [`CHUNK_PAGES`], these are whole chunks. `None` when no run is that
    /// long or `n` is 0. A run of more than a chunk that is no multiple of it begins in a cut chunk or at the
    /// start of whole ones, but not in a cut one before whole ones. O(log pages + n / 64).
    pub fn take(&mut self, n: usize) -> Option<usize> {
        if n.is_multiple_of(CHUNK_PAGES) {
            let chunk = self.chunks.take_highest(n / CHUNK_PAGES)?;
            return Some(chunk * CHUNK_PAGES);
        }
        if let Some(start) = self.pages.take(n) {
            return Some(start);
        }
        let chunks = n.div_ceil(CHUNK_PAGES);
        let start = self.chunks.take(chunks)? * CHUNK_PAGES;
        let rest = chunks * CHUNK_PAGES - n;
        // All of them are taken here: what is left over is the free part of the last one.
        self.pages.give(start + n, rest).then_some(start)
    }

    /// Gives the pages from `start` up to `start + n` to the pool, for the first time or back; they
    /// need not be what one `take` took.
    ///
    /// False, and nothing changes, when any of them is free already (a double free) or out of range, or
    /// `n` is 0. O(log pages + n / 64).
    #[must_use]
    pub fn give(&mut self, start: usize, n: usize) -> bool {
        if !self.is_taken(start, n) {
            return false;
        }
        let end = start + n;
        let first_whole = start.div_ceil(CHUNK_PAGES);
        let end_whole = end / CHUNK_PAGES;
        if end_whole < first_whole {
            return self.give_part(start, n);
        }
        let head = first_whole * CHUNK_PAGES - start;
        let tail = end % CHUNK_PAGES;
        let whole = end_whole - first_whole;
        (head == 0 || self.give_part(start, head))
            && (whole == 0 || self.chunks.give(first_whole, whole))
            && (tail == 0 || self.give_part(end - tail, tail))
    }

    /// All pages from `start` up to `start + n` are in range and taken, and `n` is not 0. O(n / 64).
    pub fn is_taken(&self, start: usize, n: usize) -> bool {
        if !self.pages.is_taken(start, n) {
            return false;
        }
        // In range, so nothing overflows here.
        let first = start / CHUNK_PAGES;
        let last = (start + n - 1) / CHUNK_PAGES;
        self.chunks.is_taken(first, last - first + 1)
    }

    /// Gives taken pages of one chunk, and joins the chunk where they were the last.
    fn give_part(&mut self, start: usize, n: usize) -> bool {
        let chunk = start / CHUNK_PAGES;
        let first = chunk * CHUNK_PAGES;
        self.pages.give(start, n)
            && (!self.pages.is_free(first, CHUNK_PAGES)
                || self.pages.take_at(first, CHUNK_PAGES) && self.chunks.give(chunk, 1))
    }
}

impl fmt::Debug for ChunkPool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkPool")
            .field("pages", &self.pages())
            .field("free_pages", &self.free_pages())
            .field("free_chunks", &self.free_chunks())
            .finish()
    }
}
