//! Pages: chunks of secret memory taken from the keeper, cut into runs, given back.
//!
//! The arena is one address range, reserved at the start. Chunks are mapped into
//! it from the bottom, each by one call to the keeper; runs of pages come from the
//! lowest place that fits, so that the top empties first. A chunk that is wholly
//! free goes back to the kernel once more than the budget is free.

use super::metadata::{Chunk, Metadata, max_chunks};
use super::reservation::reserve;
use crate::keeper::{self, Inheritance, KEEPERS, Keeper, refusal};
use strongroom_core::Reason;
use strongroom_core::pool::RunPool;
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{Errno, PAGE};

/// The largest chunk, in pages: what one direct-map entry of the kernel covers.
pub(super) const CHUNK_MAX: usize = 2 * 1024 * 1024 / PAGE;
/// The smallest that is asked for first, in pages.
const CHUNK_MIN: usize = 64 * 1024 / PAGE;

/// The pages of a heap. All positions and lengths are in pages from [`Arena::base`].
pub(super) struct Arena {
    pub(super) base: *mut u8,
    pages: usize,
    pub(super) metadata: Metadata,
    pub(super) keeper: &'static dyn Keeper,
    /// Mapped, zero, and in no span.
    free: RunPool<'static>,
    /// Below `top` and in no chunk.
    holes: RunPool<'static>,
    /// Where no chunk has ever been.
    top: usize,
    /// Up to where the metadata is usable.
    grown: usize,
    table: *mut Chunk,
    chunks: usize,
    /// How many pages may stay free.
    budget: usize,
    mapped: usize,
}

// SAFETY: the raw pointers lead to memory that only the arena's owner, one thread at a time
// behind the heap's lock, changes; mappings belong to no thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Reserves up to `pages` pages of address space, less where the limit wants it.
    pub(super) fn reserve(
        keeper: &'static dyn Keeper,
        pages: usize,
        budget: usize,
    ) -> Result<Self, Reason> {
        let mut pages = pages;
        loop {
            match Self::try_reserve(keeper, pages, budget) {
                Err(Errno::NOMEM) if pages > 16 * CHUNK_MAX => pages /= 2,
                result => return result.map_err(|errno| refusal("mmap", errno, pages * PAGE)),
            }
        }
    }

    fn try_reserve(
        keeper: &'static dyn Keeper,
        pages: usize,
        budget: usize,
    ) -> Result<Self, Errno> {
        let base = reserve_aligned(pages * PAGE)?;
        let metadata = Metadata::reserve(pages).inspect_err(|_| {
            // SAFETY: mapped above, and nobody has a pointer into it.
            let _ = unsafe { memory::unmap(base, pages * PAGE) };
        })?;
        // SAFETY: called once for this metadata.
        let (free, holes, table) = unsafe { metadata.tables() };
        Ok(Self {
            base,
            pages,
            metadata,
            keeper,
            free: RunPool::new(pages, free),
            holes: RunPool::new(pages, holes),
            top: 0,
            grown: 0,
            table,
            chunks: 0,
            budget,
            mapped: 0,
        })
    }

    /// Unmaps everything; secret files are zeroed by the kernel as they go.
    ///
    /// # Safety
    /// Nothing may use the arena's memory or metadata afterwards.
    pub(super) unsafe fn release(&mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            let _ = memory::unmap(self.base, self.pages * PAGE);
            self.metadata.release();
        }
    }

    /// The reservation's length in bytes.
    pub(super) fn len(&self) -> usize {
        self.pages * PAGE
    }

    /// Up to where the metadata is usable, in bytes.
    pub(super) fn usable(&self) -> usize {
        self.grown * PAGE
    }

    /// Pages mapped from the keeper.
    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }

    /// Mapped pages in no span.
    pub(super) fn free_pages(&self) -> usize {
        self.free.free_pages()
    }

    /// Whether the page is in no run.
    pub(super) fn is_free(&self, page: usize) -> bool {
        self.free.is_free(page, 1)
    }

    /// The chunks, in address order.
    pub(super) fn chunks(&self) -> &[Chunk] {
        // SAFETY: the first `chunks` entries of the table are initialised and ours.
        unsafe { core::slice::from_raw_parts(self.table, self.chunks) }
    }

    fn chunks_mut(&mut self) -> &mut [Chunk] {
        // SAFETY: as in `chunks`, and `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.table, self.chunks) }
    }

    /// A run of `pages` zero pages whose address is a multiple of `align` pages.
    ///
    /// O(log n) where it is at hand, and one call to the keeper a chunk where it is not.
    pub(super) fn take(&mut self, pages: usize, align: usize) -> Result<usize, Reason> {
        let phase = (self.base as usize / PAGE) & (align - 1);
        let mut run = self.find(pages, align, phase);
        if run.is_none() {
            self.grow(pages + align - 1)?;
            run = self.find(pages, align, phase);
        }
        let first = run.ok_or(Reason::OutOfMemory)?;
        self.settle(first, pages).inspect_err(|_| {
            let _ = self.free.give(first, pages);
        })?;
        self.account(first, pages, |used, n| used + n);
        Ok(first)
    }

    fn find(&mut self, pages: usize, align: usize, phase: usize) -> Option<usize> {
        if align == 1 {
            self.free.take(pages)
        } else {
            self.free.take_aligned(pages, align, phase)
        }
    }

    /// Exactly these pages, if all are free.
    pub(super) fn take_at(&mut self, first: usize, pages: usize) -> bool {
        if first + pages > self.pages || !self.free.take_at(first, pages) {
            return false;
        }
        if self.settle(first, pages).is_err() {
            let _ = self.free.give(first, pages);
            return false;
        }
        self.account(first, pages, |used, n| used + n);
        true
    }

    /// Has the keeper settle those pages of a run that were never touched: whoever gets them may not
    /// find out at the first touch that they are beyond a limit.
    fn settle(&self, first: usize, pages: usize) -> Result<(), Reason> {
        // SAFETY: a run that this call has taken, below `grown`.
        let touched = unsafe { self.metadata.touched(first, pages) };
        let mut page = first;
        for known in touched.chunk_by_mut(|a, b| a == b) {
            let (from, len) = (page, known.len());
            page += len;
            if known[0] == 0 && self.settle_untouched(from, len)? {
                known.fill(1);
            }
        }
        Ok(())
    }

    fn settle_untouched(&self, first: usize, pages: usize) -> Result<bool, Reason> {
        // One keeper for all, or one that stood in for it.
        let mut all = true;
        for (keeper, first, pages) in self.pieces(first, pages) {
            all &= keeper.settle(self.address(first), pages * PAGE)?;
        }
        Ok(all)
    }

    /// The parts of a run by chunks: who keeps each, its first page, its length.
    pub(super) fn pieces(
        &self,
        first: usize,
        pages: usize,
    ) -> impl Iterator<Item = (&'static dyn Keeper, usize, usize)> + '_ {
        self.parts(first, pages, Chunk::keeper)
    }

    /// [`Arena::pieces`], by who keeps what takes the chunks' place in a forked child.
    pub(super) fn replacement_pieces(
        &self,
        first: usize,
        pages: usize,
    ) -> impl Iterator<Item = (&'static dyn Keeper, usize, usize)> + '_ {
        self.parts(first, pages, |chunk| {
            KEEPERS[usize::from(chunk.replaced_by) % KEEPERS.len()]
        })
    }

    fn parts(
        &self,
        first: usize,
        pages: usize,
        keeper: fn(&Chunk) -> &'static dyn Keeper,
    ) -> impl Iterator<Item = (&'static dyn Keeper, usize, usize)> + '_ {
        let end = first + pages;
        self.chunks()[self.chunk_of(first)..]
            .iter()
            .map(move |chunk| {
                let from = first.max(chunk.page as usize);
                let to = end.min((chunk.page + chunk.pages) as usize);
                (keeper(chunk), from, to.saturating_sub(from))
            })
            .take_while(|(_, _, pages)| *pages > 0)
    }

    /// How much each keeper keeps, in pages, in the order of [`KEEPERS`].
    pub(super) fn kept(&self) -> [usize; KEEPERS.len()] {
        let mut kept = [0; KEEPERS.len()];
        for chunk in self.chunks() {
            kept[usize::from(chunk.keeper) % KEEPERS.len()] += chunk.pages as usize;
        }
        kept
    }

    /// Notes who keeps what takes a chunk's place in a forked child; it counts from [`Arena::replaced`] on.
    pub(super) fn note_replacement(&mut self, chunk: usize, keeper: &'static dyn Keeper) {
        if let Some(chunk) = self.chunks_mut().get_mut(chunk) {
            chunk.replaced_by = position(keeper);
        }
    }

    /// In a forked child: every chunk was replaced.
    pub(super) fn replaced(&mut self) {
        for chunk in self.chunks_mut() {
            chunk.keeper = chunk.replaced_by;
        }
    }

    /// Takes pages back; they must be zero. Chunks that are wholly free and past the budget
    /// return to the kernel.
    pub(super) fn give(&mut self, first: usize, pages: usize) {
        let given = self.free.give(first, pages);
        debug_assert!(given, "pages {first}+{pages} were free already");
        self.account(first, pages, |used, n| used - n);
        if self.free.free_pages() > self.budget {
            self.give_back(first, pages);
        }
    }

    /// Returns every wholly free chunk to the kernel, whatever the budget.
    pub(super) fn trim(&mut self) {
        let budget = core::mem::replace(&mut self.budget, 0);
        self.give_back(0, self.top);
        self.budget = budget;
    }

    /// Adjusts `used` of the chunks that the run touches.
    fn account(&mut self, first: usize, pages: usize, change: impl Fn(u32, u32) -> u32) {
        let mut at = self.chunk_of(first);
        let end = first + pages;
        while let Some(chunk) = self
            .chunks_mut()
            .get_mut(at)
            .filter(|c| (c.page as usize) < end)
        {
            let from = first.max(chunk.page as usize);
            let to = end.min((chunk.page + chunk.pages) as usize);
            chunk.used = change(chunk.used, (to - from) as u32);
            at += 1;
        }
    }

    /// The index of the chunk that holds `page`, or of the next one.
    fn chunk_of(&self, page: usize) -> usize {
        self.chunks()
            .partition_point(|c| (c.page + c.pages) as usize <= page)
    }

    /// Gives back wholly free chunks in the run, highest first, down to the budget.
    fn give_back(&mut self, first: usize, pages: usize) {
        let low = self.chunk_of(first);
        let mut at = self
            .chunks()
            .partition_point(|c| (c.page as usize) < first + pages);
        while at > low && self.free.free_pages() > self.budget {
            at -= 1;
            let Chunk {
                page, pages, used, ..
            } = self.chunks()[at];
            let (first, len) = (page as usize, pages as usize);
            if used != 0 || !self.free.take_at(first, len) {
                continue;
            }
            let start = self.address(first);
            // The file dies with its mapping and the kernel zeroes its pages (mm/secretmem.c); locked
            // memory was wiped when it was freed.
            // SAFETY: the chunk is wholly free, so nobody has a pointer into it.
            if unsafe { reserve(Place::Over(start), len * PAGE) }.is_err() {
                // No room for one more mapping: the chunk stays.
                let _ = self.free.give(first, len);
                continue;
            }
            // SAFETY: nobody's pages.
            unsafe { self.metadata.touched(first, len) }.fill(0);
            let _ = self.holes.give(first, len);
            self.mapped -= len;
            let chunks = self.chunks;
            self.chunks_mut().copy_within(at + 1..chunks, at);
            self.chunks -= 1;
        }
    }

    /// Maps `need` contiguous pages or more.
    fn grow(&mut self, need: usize) -> Result<(), Reason> {
        // Half of what there is keeps the number of mappings logarithmic until chunks are full size.
        let mut want = (self.mapped / 2)
            .next_power_of_two()
            .clamp(CHUNK_MIN, CHUNK_MAX)
            .max(need);
        loop {
            match self.map(want) {
                // Near a limit, a smaller piece may still fit.
                Err(
                    Reason::LockLimit { .. }
                    | Reason::OutOfMemory
                    | Reason::PoolFull { .. }
                    | Reason::PoolLimit { .. },
                ) if want > need => {
                    want = need.max(want / 2);
                }
                result => return result,
            }
        }
    }

    /// Maps exactly `pages` contiguous pages, in chunks of [`CHUNK_MAX`] at most.
    fn map(&mut self, pages: usize) -> Result<(), Reason> {
        let full = Reason::ReservationFull {
            limit: self.len() as u64,
        };
        let (first, fresh) = match self.take_hole(pages) {
            Some(first) => (first, false),
            None => (self.fresh(pages).ok_or(full)?, true),
        };
        let result = self.map_at(first, pages);
        // At the limit the keeper fails before it touches the range. After any other failure nobody
        // can tell whether the kernel left a hole there that somebody else's mapping is in by now:
        // such a range is not used again.
        let untouched = result.err().is_some_and(keeper::leaves_place_alone);
        if fresh && !untouched {
            self.top += pages;
        } else if !fresh && untouched {
            let _ = self.holes.give(first, pages);
        }
        result
    }

    /// Where `pages` pages are that were never in a chunk, from `top` on; it is left to the caller to
    /// move that past them.
    fn fresh(&mut self, pages: usize) -> Option<usize> {
        // One entry of 2 MiB can map a chunk of that size that begins at a multiple of it.
        if self.aligns(pages) {
            let gap = self.top.next_multiple_of(CHUNK_MAX) - self.top;
            if gap > 0 && self.pages - self.top >= gap + pages {
                let _ = self.holes.give(self.top, gap);
                self.top += gap;
            }
        }
        (self.pages - self.top >= pages).then_some(self.top)
    }

    /// Whether chunks for so much are to begin at a multiple of [`CHUNK_MAX`].
    fn aligns(&self, pages: usize) -> bool {
        pages >= CHUNK_MAX && self.keeper.inheritance() == Inheritance::Nothing
    }

    fn take_hole(&mut self, pages: usize) -> Option<usize> {
        if self.aligns(pages) {
            self.holes.take_aligned(pages, CHUNK_MAX, 0)
        } else {
            self.holes.take(pages)
        }
    }

    fn map_at(&mut self, first: usize, pages: usize) -> Result<(), Reason> {
        let end = first + pages;
        if end > self.grown {
            self.metadata
                .grow(self.grown, end)
                .map_err(|errno| refusal("mprotect", errno, pages * PAGE))?;
            self.grown = end;
        }
        let pieces = pages.div_ceil(CHUNK_MAX);
        if self.chunks + pieces > max_chunks(self.pages) {
            return Err(Reason::TooManyMappings {
                limit: max_chunks(self.pages) as u64,
            });
        }
        // The table first, so that each entry says who keeps its piece.
        let at = self.chunk_of(first);
        let chunks = self.chunks;
        self.chunks += pieces;
        self.chunks_mut().copy_within(at..chunks, at + pieces);
        for piece in 0..pieces {
            let page = first + piece * CHUNK_MAX;
            let len = CHUNK_MAX.min(end - page);
            let place = Place::Over(self.address(page));
            // SAFETY: the pages are in the reservation and in no chunk, so nobody uses them.
            match unsafe { keeper::map_or_next(self.keeper, place, len * PAGE) } {
                Ok((_, keeper)) => {
                    self.chunks_mut()[at + piece] = Chunk {
                        page: page as u32,
                        pages: len as u32,
                        used: 0,
                        keeper: position(keeper),
                        replaced_by: 0,
                    };
                }
                Err(reason) => {
                    // SAFETY: the pieces before this one were mapped by this call, and nobody has a
                    // pointer into them.
                    let undone =
                        unsafe { reserve(Place::Over(self.address(first)), (page - first) * PAGE) };
                    debug_assert!(piece == 0 || undone.is_ok());
                    self.chunks_mut().copy_within(at + pieces.., at);
                    self.chunks = chunks;
                    return Err(reason);
                }
            }
        }
        self.mapped += pages;
        let _ = self.free.give(first, pages);
        Ok(())
    }

    /// The address of a page.
    pub(super) fn address(&self, page: usize) -> *mut u8 {
        self.base.wrapping_add(page * PAGE)
    }
}

/// The keeper's place in [`KEEPERS`].
fn position(keeper: &'static dyn Keeper) -> u16 {
    KEEPERS
        .iter()
        .position(|other| *other == keeper)
        .unwrap_or_default() as u16
}

/// Address space that begins at a multiple of a whole chunk.
pub(super) fn reserve_aligned(len: usize) -> Result<*mut u8, Errno> {
    const CHUNK: usize = CHUNK_MAX * PAGE;
    // SAFETY: a new mapping replaces nothing.
    let start = unsafe { reserve(Place::Anywhere, len) }?;
    if (start as usize).is_multiple_of(CHUNK) {
        return Ok(start);
    }
    // SAFETY: as above, and what is unmapped was reserved here and is nobody's.
    unsafe {
        memory::unmap(start, len)?;
        let start = reserve(Place::Anywhere, len + CHUNK)?;
        let first = (start as usize).next_multiple_of(CHUNK) - start as usize;
        if first > 0 {
            memory::unmap(start, first)?;
        }
        let rest = CHUNK - first;
        if rest > 0 {
            memory::unmap(start.wrapping_add(first + len), rest)?;
        }
        Ok(start.wrapping_add(first))
    }
}
