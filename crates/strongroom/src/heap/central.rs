//! Spans: runs of pages cut into blocks of one class, and the lists of those with room.

use super::arena::Arena;
use super::cache::Owners;
use super::classes::{COUNT, SIZES, SPAN_BLOCKS, SPAN_PAGES, UNIT};
use super::metadata::{FREE, Metadata, Span};
use strongroom_core::Reason;
use strongroom_sys::PAGE;

/// How many spans are looked at for one of one's own.
const OWN_SEARCH: usize = 8;
const UNITS_PER_PAGE: usize = PAGE / UNIT;

/// The spans of one class that have free blocks, as a list through [`Span::next`].
///
/// Its lock guards every span of the class.
pub(super) struct ClassList {
    class: usize,
    head: u32,
}

impl ClassList {
    pub(super) const fn new(class: usize) -> Self {
        assert!(class < COUNT);
        Self { class, head: 0 }
    }

    /// Takes up to `out.len()` free blocks, as units, from one of the first spans in the list that no
    /// other thread's cache is filled from. Returns how many.
    pub(super) fn take_own(
        &mut self,
        metadata: &Metadata,
        owners: &Owners,
        owner: u16,
        out: &mut [u32],
    ) -> usize {
        let mut at = self.head;
        for _ in 0..OWN_SEARCH {
            let Some(first) = (at as usize).checked_sub(1) else {
                break;
            };
            // SAFETY: the list holds live spans of this class, which `self`'s lock guards.
            let span = unsafe { &mut *metadata.span(first) };
            if owner == 0 || span.owner == owner || !owners.is_alive(span.owner) {
                span.owner = owner;
                return self.take_from(metadata, first, out);
            }
            at = span.next;
        }
        0
    }

    /// As [`ClassList::take_own`], from any spans.
    pub(super) fn take(&mut self, metadata: &Metadata, out: &mut [u32]) -> usize {
        let mut taken = 0;
        while taken < out.len() && self.head != 0 {
            taken += self.take_from(metadata, self.head as usize - 1, &mut out[taken..]);
        }
        taken
    }

    fn take_from(&mut self, metadata: &Metadata, first: usize, out: &mut [u32]) -> usize {
        let units = SIZES[self.class] as usize / UNIT;
        // SAFETY: the list holds live spans of this class, which `self`'s lock guards.
        let span = unsafe { &mut *metadata.span(first) };
        let mut taken = 0;
        for (index, word) in span.free.iter_mut().enumerate() {
            while *word != 0 && taken < out.len() {
                let block = index * 64 + word.trailing_zeros() as usize;
                *word &= *word - 1;
                span.free_blocks -= 1;
                out[taken] = (first * UNITS_PER_PAGE + block * units) as u32;
                taken += 1;
            }
        }
        if span.free_blocks == 0 {
            self.unlink(metadata, first);
        }
        taken
    }

    /// Makes a span of the run that starts at page `first` and lists it.
    pub(super) fn add_span(&mut self, metadata: &Metadata, first: usize) {
        let blocks = SPAN_BLOCKS[self.class];
        let pages = usize::from(SPAN_PAGES[self.class]);
        // SAFETY: the caller took the run from the arena, which grew the metadata over it.
        unsafe {
            metadata.set_span_start(first, pages);
            metadata.span(first).write(Span {
                free: lowest(blocks),
                next: 0,
                previous: 0,
                pages: pages as u32,
                free_blocks: blocks,
                class_plus_one: self.class as u8 + 1,
                listed: false,
                owner: 0,
            });
        }
        self.link(metadata, first);
    }

    /// Takes a block back; its bytes must be zero and its state [`FREE`]. Returns the span's first
    /// page where the span is now wholly free: it is then in no list and nobody's.
    pub(super) fn give(&mut self, metadata: &Metadata, unit: usize) -> Option<usize> {
        // SAFETY: the unit starts a block of this class, so its page is in a live span.
        let first = unsafe { metadata.span_start(unit / UNITS_PER_PAGE) };
        // SAFETY: as above; `self`'s lock guards it.
        let span = unsafe { &mut *metadata.span(first) };
        let block = (unit - first * UNITS_PER_PAGE) / (SIZES[self.class] as usize / UNIT);
        span.free[block / 64] |= 1 << (block % 64);
        span.free_blocks += 1;
        if span.free_blocks == SPAN_BLOCKS[self.class] {
            if span.listed {
                self.unlink(metadata, first);
            }
            span.class_plus_one = 0;
            return Some(first);
        }
        if !span.listed {
            self.link(metadata, first);
        }
        None
    }

    fn link(&mut self, metadata: &Metadata, first: usize) {
        let this = first as u32 + 1;
        // SAFETY: live spans of this class, guarded by `self`'s lock; never two references at once.
        unsafe {
            (*metadata.span(first)).listed = true;
            (*metadata.span(first)).previous = 0;
            (*metadata.span(first)).next = self.head;
            if self.head != 0 {
                (*metadata.span(self.head as usize - 1)).previous = this;
            }
        }
        self.head = this;
    }

    fn unlink(&mut self, metadata: &Metadata, first: usize) {
        // SAFETY: as in `link`.
        unsafe {
            let Span { next, previous, .. } = *metadata.span(first);
            (*metadata.span(first)).listed = false;
            match previous {
                0 => self.head = next,
                page => (*metadata.span(page as usize - 1)).next = next,
            }
            if next != 0 {
                (*metadata.span(next as usize - 1)).previous = previous;
            }
        }
    }

    /// Rebuilds the list in a forked child from the states of the blocks: what sat in the caches
    /// of threads that the child does not have is free again.
    pub(super) fn clear(&mut self) {
        self.head = 0;
    }

    /// Relists one span of this class from its blocks' states; see [`ClassList::clear`].
    /// `cached` tells which free blocks the surviving thread's cache holds.
    pub(super) fn relist(
        &mut self,
        metadata: &Metadata,
        first: usize,
        mut cached: impl FnMut(u32) -> bool,
    ) {
        let units = SIZES[self.class] as usize / UNIT;
        let mut free = [0u64; 4];
        let mut count = 0;
        for block in 0..usize::from(SPAN_BLOCKS[self.class]) {
            let unit = first * UNITS_PER_PAGE + block * units;
            // SAFETY: a unit of a live span.
            if unsafe { metadata.state(unit) } == FREE && !cached(unit as u32) {
                free[block / 64] |= 1 << (block % 64);
                count += 1;
            }
        }
        // SAFETY: a live span of this class, guarded by `self`'s lock.
        unsafe {
            let span = &mut *metadata.span(first);
            span.free = free;
            span.free_blocks = count;
            span.listed = false;
        }
        if count > 0 {
            self.link(metadata, first);
        }
    }
}

/// A bitmap with the lowest `count` bits set.
fn lowest(count: u16) -> [u64; 4] {
    core::array::from_fn(
        |index| match usize::from(count).saturating_sub(index * 64) {
            0 => 0,
            bits @ 1..64 => (1 << bits) - 1,
            _ => !0,
        },
    )
}

/// Takes the pages of one span of `class` from the arena.
pub(super) fn span_pages(arena: &mut Arena, class: usize) -> Result<usize, Reason> {
    arena.take(usize::from(SPAN_PAGES[class]), 1)
}
