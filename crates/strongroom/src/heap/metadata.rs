//! What the heap knows of its blocks, kept apart from them.
//!
//! It holds no secret and lies in ordinary memory, so that it costs nothing of
//! RLIMIT_MEMLOCK and no overflow in the heap runs into it. Everything is a flat
//! array over the reservation, and zero means "nothing here": a fork copies it by
//! copy-on-write, and untouched parts cost nothing.

use super::classes::UNIT;
use crate::keeper::{KEEPERS, Keeper};
use std::sync::atomic::{AtomicU8, Ordering};
use strongroom_core::pool::RunPool;
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{Errno, PAGE};

/// The state of a unit that starts no block in use.
pub(super) const FREE: u8 = 0;
/// The state of the first unit of a block of whole pages.
pub(super) const PAGES: u8 = u8::MAX;

/// One span: a run of pages cut into blocks of one class, or a block of whole pages.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Span {
    /// One bit a block: free and here, not in a thread's cache.
    pub free: [u64; 4],
    /// Neighbours in the list of spans with free blocks: first page plus one, 0 for none.
    pub next: u32,
    /// See `next`.
    pub previous: u32,
    /// Length in pages.
    pub pages: u32,
    /// Set bits in `free`.
    pub free_blocks: u16,
    /// The class plus one, 0 for a block of whole pages or no span.
    pub class_plus_one: u8,
    /// Whether it is in its class's list.
    pub listed: bool,
    /// Whose cache was filled from it, 0 for nobody's.
    pub owner: u16,
}

/// A mapping of secret memory: the unit in which it comes from and goes back to the kernel.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Chunk {
    /// First page, counted from the start of the reservation.
    pub page: u32,
    /// Length in pages.
    pub pages: u32,
    /// Pages in spans.
    pub used: u32,
    /// Who keeps it, by its place in [`KEEPERS`].
    pub keeper: u16,
    /// The same of the chunk that takes this one's place in a forked child.
    pub replaced_by: u16,
}

impl Chunk {
    /// Who keeps it.
    pub(super) fn keeper(&self) -> &'static dyn Keeper {
        KEEPERS[usize::from(self.keeper) % KEEPERS.len()]
    }
}

/// How much heap one step of growing metadata serves, in pages: enough that every array grows by
/// whole pages, the one with a byte a page too.
const STEP: usize = PAGE;

/// The arrays. Copies of this struct point to the same memory.
#[derive(Clone, Copy)]
pub(super) struct Metadata {
    start: *mut u8,
    len: usize,
    /// Pages in the reservation.
    pages: usize,
    states: *mut u8,
    spans: *mut Span,
    offsets: *mut u8,
    touched: *mut u8,
    free_pool: *mut u64,
    hole_pool: *mut u64,
    chunks: *mut Chunk,
}

/// The lengths of the arrays in bytes, each rounded to pages, in the order of the fields.
fn lengths(pages: usize) -> [usize; 7] {
    let round = |len: usize| len.next_multiple_of(PAGE);
    let pool = round(RunPool::metadata_words(pages) * 8);
    [
        round(pages * PAGE / UNIT),
        round(pages * size_of::<Span>()),
        round(pages),
        round(pages),
        pool,
        pool,
        round(max_chunks(pages) * size_of::<Chunk>()),
    ]
}

/// How many chunks the table holds: past vm.max_map_count's default there is no use for more.
pub(super) fn max_chunks(pages: usize) -> usize {
    pages.min(65_536)
}

impl Metadata {
    /// Reserves the arrays for a heap of `pages` pages, a multiple of the step.
    pub(super) fn reserve(pages: usize) -> Result<Self, Errno> {
        let lengths = lengths(pages);
        let len = lengths.iter().sum();
        // SAFETY: a new mapping replaces nothing.
        let start = unsafe { super::reservation::reserve(Place::Anywhere, len) }?;
        let mut at = start;
        let [
            states,
            spans,
            offsets,
            touched,
            free_pool,
            hole_pool,
            chunks,
        ] = lengths.map(|len| {
            let this = at;
            at = at.wrapping_add(len);
            this
        });
        let metadata = Self {
            start,
            len,
            pages,
            states,
            spans: spans.cast(),
            offsets,
            touched,
            free_pool: free_pool.cast(),
            hole_pool: hole_pool.cast(),
            chunks: chunks.cast(),
        };
        // The pools' trees and the table span the whole reservation but are touched where used.
        for (area, len) in [
            (free_pool, lengths[4]),
            (hole_pool, lengths[5]),
            (chunks, lengths[6]),
        ] {
            // SAFETY: inside the reservation made above.
            if let Err(errno) = unsafe { open(area, len) } {
                // SAFETY: as above, and nobody has a pointer into it.
                let _ = unsafe { memory::unmap(start, metadata.len) };
                return Err(errno);
            }
        }
        Ok(metadata)
    }

    /// Makes the arrays usable for pages `from..to`; both are rounded out to steps.
    pub(super) fn grow(&self, from: usize, to: usize) -> Result<(), Errno> {
        let from = from / STEP * STEP;
        let to = to.next_multiple_of(STEP).min(self.pages);
        let areas = [
            (self.states, PAGE / UNIT),
            (self.spans.cast(), size_of::<Span>()),
            (self.offsets, 1),
            (self.touched, 1),
        ];
        for (area, per_page) in areas {
            // SAFETY: `from..to` is inside the arrays; a step of each is whole pages.
            unsafe { open(area.add(from * per_page), (to - from) * per_page) }?;
        }
        Ok(())
    }

    /// Whether the address lies in one of the arrays.
    pub(super) fn contains(&self, address: *const u8) -> bool {
        (address as usize).wrapping_sub(self.start as usize) < self.len
    }

    /// Unmaps everything.
    ///
    /// # Safety
    /// Nothing may use any copy of this struct afterwards.
    pub(super) unsafe fn release(self) {
        // SAFETY: the caller's promise.
        let _ = unsafe { memory::unmap(self.start, self.len) };
    }

    /// The unit states, one byte a unit.
    pub(super) fn states(&self) -> *mut u8 {
        self.states
    }

    /// The state of a unit: [`FREE`], [`PAGES`] or a class plus one.
    ///
    /// # Safety
    /// The unit's page must have been grown to.
    #[inline(always)]
    pub(super) unsafe fn state(&self, unit: usize) -> u8 {
        // SAFETY: the caller's promise; units are accessed through atomics everywhere.
        unsafe { AtomicU8::from_ptr(self.states.add(unit)) }.load(Ordering::Relaxed)
    }

    /// Sets it.
    ///
    /// # Safety
    /// As for [`Metadata::state`], and the unit must be the caller's to hand out or take back.
    #[inline(always)]
    pub(super) unsafe fn set_state(&self, unit: usize, state: u8) {
        // SAFETY: the caller's promise.
        unsafe { AtomicU8::from_ptr(self.states.add(unit)) }.store(state, Ordering::Relaxed);
    }

    /// The span that starts at a page.
    ///
    /// # Safety
    /// The page must have been grown to.
    #[inline]
    pub(super) unsafe fn span(&self, page: usize) -> *mut Span {
        // SAFETY: the caller's promise.
        unsafe { self.spans.add(page) }
    }

    /// The first page of the span that a page of a class's block lies in.
    ///
    /// # Safety
    /// The page must be in a live span of a class.
    #[inline]
    pub(super) unsafe fn span_start(&self, page: usize) -> usize {
        // SAFETY: the caller's promise. It was written before the span's first block was handed out.
        page - usize::from(
            unsafe { AtomicU8::from_ptr(self.offsets.add(page)) }.load(Ordering::Relaxed),
        )
    }

    /// Notes for each page of a class's span how far its first page is; at most 255 pages.
    ///
    /// # Safety
    /// The pages must have been grown to and be the caller's.
    pub(super) unsafe fn set_span_start(&self, first: usize, pages: usize) {
        for back in 0..pages {
            // SAFETY: the caller's promise.
            unsafe { AtomicU8::from_ptr(self.offsets.add(first + back)) }
                .store(back as u8, Ordering::Relaxed);
        }
    }

    /// A byte a page: not 0 where it is known to exist, 0 where nobody knows. A page counts as
    /// untouched again when its chunk goes back.
    ///
    /// # Safety
    /// The pages must have been grown to and be the caller's, and the slice must not outlive that.
    #[allow(
        clippy::mut_from_ref,
        reason = "the metadata is a set of pointers, each page its owner's"
    )]
    pub(super) unsafe fn touched(&self, first: usize, pages: usize) -> &mut [u8] {
        // SAFETY: the caller's promise; the array is zero at first, and pages have one owner.
        unsafe { core::slice::from_raw_parts_mut(self.touched.add(first), pages) }
    }

    /// The memory of the pools of free pages and of holes in the reservation, and the chunk table.
    ///
    /// # Safety
    /// To be called once: the references are exclusive.
    pub(super) unsafe fn tables(&self) -> (&'static mut [u64], &'static mut [u64], *mut Chunk) {
        let words = RunPool::metadata_words(self.pages);
        // SAFETY: both areas were opened by `reserve`, are zero, and are that long; the lifetime
        // ends with `release`, whose caller promises that nothing uses them later.
        unsafe {
            (
                core::slice::from_raw_parts_mut(self.free_pool, words),
                core::slice::from_raw_parts_mut(self.hole_pool, words),
                self.chunks,
            )
        }
    }
}

/// Makes reserved pages usable.
///
/// # Safety
/// The range must be a reservation of the caller's, or usable already.
unsafe fn open(start: *mut u8, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { memory::protect(start, len, memory::READ | memory::WRITE) }
}
