//! Which pages of a range are free.
//!
//! [`RunPool`] keeps one bit a page and, above the bits, a tree of summaries: for
//! every eight neighbours the free run at their start, the longest one, and the one
//! at their end. A run is found by walking down from the root, whether it lies in
//! one leaf or crosses many. It is the scheme of the Go runtime's page allocator.
//!
//! The memory for bits and summaries is the caller's, and zero means taken: a pool
//! over fresh zero pages costs nothing until pages are [given](RunPool::give) to it,
//! and a part of the range that was never given costs no metadata memory.
//!
//! [`ChunkPool`] is two of them: chunks of 2 MiB, which are cut for what is smaller and joined again.
//! It is what a pool is to be that serves pages and large pages from one memory.
//!
//! Metadata is a seventh of a byte a page: 0.0035 % of the memory described at 4 KiB a
//! page (2.3 MiB for 64 GiB). Small pools round up to a few cache lines, which is
//! below 0.2 % from 9 pages on. There is no largest pool.

#![forbid(unsafe_code)]

mod bits;
mod chunks;
mod layout;
mod summary;

pub use self::chunks::{CHUNK_PAGES, ChunkPool};

use self::bits::{FREE, TAKEN};
use self::layout::{FAN_OUT, Layout, pages_at};
use self::summary::{Join, Summary};
use core::fmt;

/// A pool of pages, numbered from 0, that hands out runs of neighbours.
///
/// First fit: the lowest run wins, so that what is in use stays together and the
/// rest stays whole. Page numbers and counts may be anything: what cannot be is refused.
///
/// ```
/// use strongroom_core::pool::RunPool;
///
/// let mut metadata = [0; RunPool::metadata_words(1000)];
/// let mut pool = RunPool::new(1000, &mut metadata);
/// assert_eq!(pool.take(1), None); // all pages are taken at first
/// assert!(pool.give(100, 900));
/// assert_eq!(pool.take(8), Some(100));
/// assert_eq!(pool.take(8), Some(108));
/// assert!(pool.give(100, 8));
/// assert!(!pool.give(100, 8)); // twice
/// assert_eq!(pool.take(9), Some(116));
/// ```
pub struct RunPool<'a> {
    /// The levels of the tree, leaves first; as long as the layout says.
    metadata: &'a mut [u64],
    layout: Layout,
    pages: usize,
    free: usize,
}

/// The words of a run of pages.
struct Span {
    first: usize,
    last: usize,
    /// The run's pages in the first word, and all above them.
    head: u64,
    /// The run's pages in the last word, and all below them.
    tail: u64,
}

/// What [`RunPool::take_aligned`] looks for.
#[derive(Clone, Copy)]
struct Fit {
    pages: usize,
    align: usize,
    phase: usize,
}

impl<'a> RunPool<'a> {
    /// Words of metadata that a pool of `pages` pages needs.
    pub const fn metadata_words(pages: usize) -> usize {
        Layout::new(pages).words
    }

    /// A pool of `pages` pages, all taken.
    ///
    /// `metadata` must hold zeros, [`metadata_words`](Self::metadata_words) of them at
    /// least; what is beyond those is left alone. When it is too short, the pool has no
    /// pages, which [`pages`](Self::pages) says. When it is not zero, answers are wrong,
    /// though no method panics. O(1): nothing of it is read here.
    ///
    /// # Panics
    ///
    /// In debug builds only, when metadata of up to 4096 words is not zero.
    pub fn new(pages: usize, metadata: &'a mut [u64]) -> Self {
        let layout = Layout::new(pages);
        match metadata.get_mut(..layout.words) {
            Some(metadata) => {
                debug_assert!(
                    metadata.len() > 4096 || metadata.iter().all(|&word| word == 0),
                    "a pool's metadata must be zero"
                );
                RunPool {
                    metadata,
                    layout,
                    pages,
                    free: 0,
                }
            }
            None => RunPool {
                metadata: &mut [],
                layout: Layout::new(0),
                pages: 0,
                free: 0,
            },
        }
    }

    /// Pages that the pool describes, free or taken.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Pages that are free. O(1).
    pub fn free_pages(&self) -> usize {
        self.free
    }

    /// Pages of the longest free run: the most that [`take`](Self::take) can give. O(1).
    pub fn largest_free_run(&self) -> usize {
        self.summary(self.layout.root, 0).longest
    }

    /// Takes the lowest run of `n` free pages; its first page.
    ///
    /// `None` when no run is that long or `n` is 0. O(log pages + n / 64).
    pub fn take(&mut self, n: usize) -> Option<usize> {
        let start = self.lowest(n)?;
        self.claim(start, n).then_some(start)
    }

    /// Takes the last `n` pages of the highest free run that has so many; their first page.
    ///
    /// For what is to stay apart from what [`take`](Self::take) gives. `None` as there.
    /// O(log pages + n / 64).
    pub fn take_highest(&mut self, n: usize) -> Option<usize> {
        let start = self.highest(n)?;
        self.claim(start, n).then_some(start)
    }

    /// Takes the lowest run of `n` free pages for which `(start + phase) % align` is 0;
    /// its first page.
    ///
    /// `align` is a power of two, in pages. `phase` is what page 0 is called where the
    /// alignment counts, such as its page frame number. `None` when there is no such
    /// run, `n` is 0 or `align` is not a power of two.
    ///
    /// It finds a run whenever one exists. The search passes over parts of the tree
    /// that have no run of `n` pages, or no aligned page where one could begin. Runs
    /// that are long enough but miss the alignment cost O(log pages) each, and if the
    /// pool is full of those, the whole search costs O(pages / 64). It ends at the first
    /// run of `n + align - 1` pages at the latest, as that always fits.
    pub fn take_aligned(&mut self, n: usize, align: usize, phase: usize) -> Option<usize> {
        if !align.is_power_of_two() || n == 0 || n > self.largest_free_run() {
            return None;
        }
        let start = if align == 1 {
            self.lowest(n)?
        } else {
            let fit = Fit {
                pages: n,
                align,
                phase,
            };
            self.lowest_fit(&fit, self.layout.root, 0)?
        };
        self.claim(start, n).then_some(start)
    }

    /// Takes exactly the pages from `start` up to `start + n`, as to grow a run in place.
    ///
    /// False, and nothing changes, when any of them is taken or out of range, or `n`
    /// is 0. O(log pages + n / 64).
    #[must_use]
    pub fn take_at(&mut self, start: usize, n: usize) -> bool {
        self.claim(start, n)
    }

    /// Gives the pages from `start` up to `start + n` to the pool, for the first time
    /// or back; they need not be what one `take` took.
    ///
    /// False, and nothing changes, when any of them is free already (a double free) or
    /// out of range, or `n` is 0. O(log pages + n / 64).
    #[must_use]
    pub fn give(&mut self, start: usize, n: usize) -> bool {
        let given = self.turn(start, n, FREE);
        if given {
            self.free = self.free.saturating_add(n);
        }
        given
    }

    /// All pages from `start` up to `start + n` are in range and free, and `n` is not 0. O(n / 64).
    pub fn is_free(&self, start: usize, n: usize) -> bool {
        self.span(start, n)
            .is_some_and(|span| self.are(&span, FREE))
    }

    /// All pages from `start` up to `start + n` are in range and taken, and `n` is not 0. O(n / 64).
    pub fn is_taken(&self, start: usize, n: usize) -> bool {
        self.span(start, n)
            .is_some_and(|span| self.are(&span, TAKEN))
    }

    /// Takes a run if all of it is free. Runs that a search found come here too: the
    /// bits have the last word, whatever the tree above them said.
    fn claim(&mut self, start: usize, n: usize) -> bool {
        let taken = self.turn(start, n, TAKEN);
        if taken {
            self.free = self.free.saturating_sub(n);
        }
        taken
    }

    /// Puts a run into `state` if all of it is in the other one.
    #[inline]
    fn turn(&mut self, start: usize, n: usize, state: u64) -> bool {
        let Some(span) = self.span(start, n) else {
            return false;
        };
        let possible = self.are(&span, !state);
        if possible {
            self.mark(&span, state);
        }
        possible
    }

    /// The words of a run; `None` when it is empty or leaves the range.
    #[inline]
    fn span(&self, start: usize, n: usize) -> Option<Span> {
        let last = start.checked_add(n.checked_sub(1)?)?;
        (last < self.pages).then_some(Span {
            first: start / bits::PAGES,
            last: last / bits::PAGES,
            head: FREE << (start % bits::PAGES),
            tail: FREE >> (bits::PAGES - 1 - last % bits::PAGES),
        })
    }

    /// Every page of the run is in `state`.
    #[inline]
    fn are(&self, span: &Span, state: u64) -> bool {
        let differ = |word: u64, pages: u64| (word ^ state) & pages != 0;
        match self.metadata.get(span.first..=span.last) {
            Some(&[only]) => !differ(only, span.head & span.tail),
            Some([head, middle @ .., tail]) => {
                !differ(*head, span.head)
                    && !differ(*tail, span.tail)
                    && middle.iter().all(|&word| word == state)
            }
            _ => false,
        }
    }

    /// Puts every page of the run into `state`; all were in the other one.
    fn mark(&mut self, span: &Span, state: u64) {
        let set = |word: &mut u64, pages: u64| *word = *word & !pages | state & pages;
        match self.metadata.get_mut(span.first..=span.last) {
            Some([only]) => set(only, span.head & span.tail),
            Some([head, middle @ .., tail]) => {
                set(head, span.head);
                set(tail, span.tail);
                middle.fill(state);
            }
            _ => return,
        }
        self.renew_above(span.first, span.last, state);
    }

    /// Renews the nodes above the leaves `first` to `last`, each once, level by level.
    fn renew_above(&mut self, mut first: usize, mut last: usize, state: u64) {
        for level in 1..=self.layout.root {
            first /= FAN_OUT;
            last /= FAN_OUT;
            let changed = self.renew(level, first);
            if last > first {
                // Then `changed` is true: the run reaches the end of the first node.
                self.renew(level, last);
                // Nodes between the first and the last are all free or all taken.
                let whole = if state == FREE {
                    Summary::free(pages_at(level))
                } else {
                    Summary::TAKEN
                };
                let between = self.layout.span(level, first + 1, last - first - 1);
                for node in self
                    .metadata
                    .get_mut(between)
                    .unwrap_or_default()
                    .chunks_mut(Summary::words(level))
                {
                    whole.encode(node);
                }
            }
            // What is above depends on nothing else that changed.
            if !changed {
                break;
            }
        }
    }

    /// Computes one node from its children; says whether it changed.
    fn renew(&mut self, level: usize, node: usize) -> bool {
        let mut join = Join::new(pages_at(level - 1));
        if level == 1 {
            for &word in self.leaves(node) {
                join.push_word(word);
            }
        } else {
            for child in self.children(level, node) {
                join.push(child);
            }
        }
        let summary = join.finish();
        self.metadata
            .get_mut(self.layout.node(level, node))
            .is_some_and(|words| summary.encode(words))
    }

    #[inline]
    fn summary(&self, level: usize, node: usize) -> Summary {
        Summary::decode(
            self.metadata
                .get(self.layout.node(level, node))
                .unwrap_or_default(),
        )
    }

    /// The summaries of a node's children; `level` is the node's and at least 2.
    #[inline]
    fn children(
        &self,
        level: usize,
        node: usize,
    ) -> impl DoubleEndedIterator<Item = Summary> + ExactSizeIterator + '_ {
        self.metadata
            .get(self.layout.children(level, node))
            .unwrap_or_default()
            .chunks(Summary::words(level - 1))
            .map(Summary::decode)
    }

    /// The words of a node's leaves; the node's level is 1.
    #[inline]
    fn leaves(&self, node: usize) -> &[u64] {
        self.metadata
            .get(self.layout.children(1, node))
            .unwrap_or_default()
    }

    /// The first page of the lowest free run of `n` pages.
    fn lowest(&self, n: usize) -> Option<usize> {
        if n == 0 || n > self.largest_free_run() {
            return None;
        }
        let mut node = 0;
        'down: for level in (2..=self.layout.root).rev() {
            let pages = pages_at(level - 1);
            // The free run that ends where the child begins.
            let mut run: usize = 0;
            for (child, summary) in (node * FAN_OUT..).zip(self.children(level, node)) {
                let start = child.wrapping_mul(pages).wrapping_sub(run);
                run = run.saturating_add(summary.prefix);
                if run >= n {
                    return Some(start);
                }
                if summary.longest >= n {
                    node = child;
                    continue 'down;
                }
                if summary.prefix != pages {
                    run = summary.suffix;
                }
            }
            return None;
        }
        let mut run = 0;
        for (leaf, &word) in (node * FAN_OUT..).zip(self.leaves(node)) {
            let page = leaf * bits::PAGES;
            if run + bits::prefix(word) >= n {
                return Some(page - run);
            }
            let starts = bits::run_starts(word, n);
            if starts != 0 {
                return Some(page + starts.trailing_zeros() as usize);
            }
            run = if word == FREE {
                run + bits::PAGES
            } else {
                bits::suffix(word)
            };
        }
        None
    }

    /// As [`lowest`](Self::lowest), from the other end: the first of the `n` highest pages that lie
    /// in one free run.
    fn highest(&self, n: usize) -> Option<usize> {
        if n == 0 || n > self.largest_free_run() {
            return None;
        }
        let mut node = 0;
        'down: for level in (2..=self.layout.root).rev() {
            let pages = pages_at(level - 1);
            // The free run that begins where the child ends.
            let mut run: usize = 0;
            let first = node * FAN_OUT;
            let children = (first..first + FAN_OUT).zip(self.children(level, node));
            for (child, summary) in children.rev() {
                let end = (child + 1).wrapping_mul(pages).wrapping_add(run);
                run = run.saturating_add(summary.suffix);
                if run >= n {
                    return Some(end.wrapping_sub(n));
                }
                if summary.longest >= n {
                    node = child;
                    continue 'down;
                }
                if summary.suffix != pages {
                    run = summary.prefix;
                }
            }
            return None;
        }
        let mut run = 0;
        let first = node * FAN_OUT;
        for (leaf, &word) in (first..first + FAN_OUT).zip(self.leaves(node)).rev() {
            let page = leaf * bits::PAGES;
            if run + bits::suffix(word) >= n {
                return Some((page + bits::PAGES + run).wrapping_sub(n));
            }
            let starts = bits::run_starts(word, n);
            if starts != 0 {
                return Some(page + starts.ilog2() as usize);
            }
            run = if word == FREE {
                run + bits::PAGES
            } else {
                bits::prefix(word)
            };
        }
        None
    }

    /// The first page of the lowest fit that lies wholly inside one node.
    ///
    /// It calls itself one level down only: 6 deep for 64 GiB, 20 at the very most.
    fn lowest_fit(&self, fit: &Fit, level: usize, node: usize) -> Option<usize> {
        let pages = pages_at(level.checked_sub(1)?);
        let mut page = node.wrapping_mul(FAN_OUT).wrapping_mul(pages);
        // The free run that ends at `page`. A run is tried where it ends; ends come
        // in order, so the first fit is the lowest.
        let mut run: usize = 0;
        if level == 1 {
            for &word in self.leaves(node) {
                let prefix = bits::prefix(word);
                let found = fit.within(page.wrapping_sub(run), run + prefix);
                if found.is_some() {
                    return found;
                }
                let starts = bits::run_starts(word, fit.pages) & fit.aligned(page);
                if starts != 0 {
                    return Some(page + starts.trailing_zeros() as usize);
                }
                run = if word == FREE {
                    run + bits::PAGES
                } else {
                    bits::suffix(word)
                };
                page = page.wrapping_add(bits::PAGES);
            }
        } else {
            for (child, summary) in (node * FAN_OUT..).zip(self.children(level, node)) {
                let joined = run.saturating_add(summary.prefix);
                let mut found = fit.within(page.wrapping_sub(run), joined);
                if found.is_none() && summary.longest >= fit.pages && summary.prefix != pages {
                    // The runs at both ends are tried here; those between them are
                    // worth a walk down only if one could begin at an aligned page.
                    let inside = pages
                        .saturating_sub(summary.prefix)
                        .saturating_sub(summary.suffix);
                    let inside_fits = fit.within(page.wrapping_add(summary.prefix), inside);
                    if inside_fits.is_some() {
                        found = self.lowest_fit(fit, level - 1, child);
                    }
                }
                if found.is_some() {
                    return found;
                }
                page = page.wrapping_add(pages);
                run = if summary.prefix == pages {
                    joined
                } else {
                    summary.suffix
                };
            }
        }
        fit.within(page.wrapping_sub(run), run)
    }
}

impl Fit {
    /// The lowest aligned page of the run at `start` with enough of the run after it.
    #[inline]
    fn within(&self, start: usize, run: usize) -> Option<usize> {
        let skip = self.skip(start);
        (self.pages <= run && skip <= run - self.pages).then(|| start.wrapping_add(skip))
    }

    /// Pages from `start` to the next aligned one.
    #[inline]
    fn skip(&self, start: usize) -> usize {
        // Right even where the sum wraps: `align` divides the number of `usize`s.
        start.wrapping_add(self.phase).wrapping_neg() & (self.align - 1)
    }

    /// A bit for every aligned page of the word whose first page is `page`.
    #[inline]
    fn aligned(&self, page: usize) -> u64 {
        let skip = self.skip(page);
        if skip >= bits::PAGES {
            0
        } else if self.align >= bits::PAGES {
            1 << skip
        } else {
            // Ones at multiples of `align`, which divides 64.
            FREE.checked_div((1 << self.align) - 1).unwrap_or(FREE) << skip
        }
    }
}

impl fmt::Debug for RunPool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunPool")
            .field("pages", &self.pages)
            .field("free_pages", &self.free)
            .field("largest_free_run", &self.largest_free_run())
            .finish()
    }
}
