//! The room: all of the pool, and who holds how much of it.

use crate::errno::Errno;
use crate::runs::Runs;
use crate::shim::{sr_alloc, sr_free};
use crate::users::Users;
use core::ptr::NonNull;
use core::slice;
use strongroom_core::driver::{HUGE_PAGE, PAGE};
use strongroom_core::pool::{CHUNK_PAGES, ChunkPool};

/// Pages of a 2 MiB block.
pub const BLOCK: usize = (HUGE_PAGE / PAGE) as usize;
const _: () = assert!(BLOCK == CHUNK_PAGES);

/// One carve-out.
#[derive(Debug)]
struct Range {
    first: u64,
    pages: usize,
    /// Its NUMA node, or a negative number.
    node: i32,
    /// Of whole blocks: what of the first and the last one is not the carve-out's is never given to it.
    pool: ChunkPool<'static>,
    metadata: NonNull<u64>,
}

impl Range {
    /// All of the pages, free.
    ///
    /// # Errors
    /// `Nomem`; `Inval` where so many pages cannot be.
    fn new(first: u64, pages: usize, node: i32) -> Result<Self, Errno> {
        let mut range = Self::taken(first, pages, node)?;
        let before = (first % BLOCK as u64) as usize;
        if range.pool.give(before, pages) {
            Ok(range)
        } else {
            Err(Errno::Inval)
        }
    }

    /// The same without a free page.
    fn taken(first: u64, pages: usize, node: i32) -> Result<Self, Errno> {
        let before = (first % BLOCK as u64) as usize;
        let all = before.checked_add(pages).ok_or(Errno::Inval)?;
        let blocks = all.div_ceil(BLOCK);
        let words = ChunkPool::metadata_words(blocks);
        let bytes = words.checked_mul(size_of::<u64>()).ok_or(Errno::Nomem)?;
        // SAFETY: any size may be asked for.
        let memory = NonNull::new(unsafe { sr_alloc(bytes) }.cast::<u64>()).ok_or(Errno::Nomem)?;
        // SAFETY: `sr_alloc` gave that many zero words, aligned; they are freed after the pool that
        // alone has this reference.
        let metadata = unsafe { slice::from_raw_parts_mut(memory.as_ptr(), words) };
        Ok(Self {
            first,
            pages,
            node,
            pool: ChunkPool::new(blocks, metadata),
            metadata: memory,
        })
    }

    /// Takes one run and appends it; false where there is none.
    fn take(&mut self, pages: usize, runs: &mut Runs) -> Result<bool, Errno> {
        let Some(start) = self.pool.take(pages) else {
            return Ok(false);
        };
        let appended = runs.append(self.base().saturating_add(start as u64), pages);
        if appended.is_err() && !self.pool.give(start, pages) {
            return Err(Errno::Inval);
        }
        appended.map(|()| true)
    }

    fn metadata_bytes(&self) -> usize {
        ChunkPool::metadata_words(self.pool.pages() / BLOCK).saturating_mul(size_of::<u64>())
    }

    /// The page frame number of the pool's page 0.
    fn base(&self) -> u64 {
        self.first - self.first % BLOCK as u64
    }

    /// The page frame number after its last page's.
    fn end(&self) -> u64 {
        self.first.saturating_add(self.pages as u64)
    }

    /// The pool's number of a page, and how many of the carve-out there are from it on.
    fn find(&self, pfn: u64) -> Option<(usize, usize)> {
        if pfn < self.first || pfn >= self.end() {
            return None;
        }
        let start = usize::try_from(pfn - self.base()).ok()?;
        Some((start, (self.end() - pfn) as usize))
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        self.pool = ChunkPool::new(0, &mut []);
        // SAFETY: it came from `sr_alloc`, and the pool that used it is gone.
        unsafe { sr_free(self.metadata.as_ptr().cast()) }
    }
}

/// A NUMA node, or everywhere else.
#[derive(Clone, Copy, Debug)]
enum Place {
    On(i32),
    Off(i32),
}

impl Place {
    fn has(self, node: i32) -> bool {
        match self {
            Self::On(wanted) => node == wanted,
            Self::Off(wanted) => node != wanted,
        }
    }
}

/// The most carve-outs.
pub const RANGES: usize = 16;

/// What an object wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// How many pages, at least 1.
    pub pages: usize,
    /// In whole aligned blocks of 2 MiB only.
    pub huge: bool,
    /// Who pays.
    pub uid: u32,
    /// The user's limit does not count.
    pub unlimited: bool,
    /// The NUMA node to begin with.
    pub node: i32,
}

/// All of the pool, and who holds how much of it.
#[derive(Debug)]
pub struct Room {
    ranges: [Option<Range>; RANGES],
    /// Blocks of the kernel's own memory, by their page frame numbers: all that are not lent are taken
    /// in here.
    lent: Option<Range>,
    /// The most pages that the kernel is to lend.
    lent_limit: usize,
    lent_pages: usize,
    users: Users,
    user_limit: usize,
    objects: usize,
}

impl Room {
    /// A room without pages.
    pub const fn new() -> Self {
        Self {
            ranges: [const { None }; RANGES],
            lent: None,
            lent_limit: 0,
            lent_pages: 0,
            users: Users::new(),
            user_limit: 0,
            objects: 0,
        }
    }

    /// Adds pages, all of them free.
    ///
    /// # Errors
    /// `Inval` where there are no pages, they are partly there already, or there are too many ranges; `Nomem`.
    pub fn add(&mut self, first: u64, pages: usize, node: i32) -> Result<(), Errno> {
        let end = first.checked_add(pages as u64).ok_or(Errno::Inval)?;
        let overlaps = self
            .ranges()
            .any(|range| range.first < end && first < range.end());
        if pages == 0 || overlaps {
            return Err(Errno::Inval);
        }
        let place = self.ranges.iter_mut().find(|range| range.is_none());
        let place = place.ok_or(Errno::Inval)?;
        *place = Some(Range::new(first, pages, node)?);
        Ok(())
    }

    /// Has the kernel lend blocks: at most `limit` pages, of page frame numbers below `end`. 0.0035 % of
    /// the memory below `end` goes for their description.
    ///
    /// # Errors
    /// `Inval` where that was said before, `Nomem`.
    pub fn lend(&mut self, end: u64, limit: usize) -> Result<(), Errno> {
        if self.lent.is_some() {
            return Err(Errno::Inval);
        }
        let pages = usize::try_from(end).map_err(|_| Errno::Inval)?;
        self.lent = Some(Range::taken(0, pages, -1)?);
        self.lent_limit = limit;
        Ok(())
    }

    /// The most pages that the kernel is to lend.
    pub fn lent_limit(&self) -> usize {
        self.lent_limit
    }

    /// Pages that the kernel has lent.
    pub fn lent_pages(&self) -> usize {
        self.lent_pages
    }

    /// How many blocks the kernel would have to lend for all of a request to be served of such.
    pub fn lacking(&self, pages: usize, huge: bool) -> usize {
        let Some(lent) = &self.lent else { return 0 };
        let whole = lent.pool.free_chunks().saturating_mul(BLOCK);
        let there = if huge { whole } else { lent.pool.free_pages() };
        let left = self.lent_limit.saturating_sub(self.lent_pages) / BLOCK;
        pages.saturating_sub(there).div_ceil(BLOCK).min(left)
    }

    /// The kernel lends a block, wiped. False where it cannot be one, or the limit is reached: then it is not the room's.
    pub fn add_block(&mut self, pfn: u64) -> bool {
        let Ok(start) = usize::try_from(pfn) else {
            return false;
        };
        let Some(lent) = &mut self.lent else {
            return false;
        };
        let given = start.is_multiple_of(BLOCK)
            && self.lent_pages.saturating_add(BLOCK) <= self.lent_limit
            && lent.pool.give(start, BLOCK);
        if given {
            self.lent_pages = self.lent_pages.saturating_add(BLOCK);
        }
        given
    }

    /// A block that the kernel lent and that nobody holds a page of: it is the room's no more.
    pub fn spare_block(&mut self) -> Option<u64> {
        let start = self.lent.as_mut()?.pool.take(BLOCK)?;
        self.lent_pages = self.lent_pages.saturating_sub(BLOCK);
        Some(start as u64)
    }

    /// The most that a user may hold, in percent of the pool and of what the kernel is to lend.
    pub fn limit_users(&mut self, percent: u32) {
        let all = self.pages().saturating_add(self.lent_limit);
        self.user_limit = (all / 100).saturating_mul(percent as usize)
            + (all % 100).saturating_mul(percent as usize) / 100;
    }

    /// The most that a user may hold, in pages.
    pub fn user_limit(&self) -> usize {
        self.user_limit
    }

    /// All pages: those of the carve-outs, and those that the kernel has lent now.
    pub fn pages(&self) -> usize {
        let own: usize = self.ranges().map(|range| range.pages).sum();
        own.saturating_add(self.lent_pages)
    }

    /// Pages that can be given out.
    pub fn free_pages(&self) -> usize {
        self.all().map(|range| range.pool.free_pages()).sum()
    }

    /// The carve-outs' pages of a NUMA node, and how many of them are free.
    pub fn node(&self, node: i32) -> (usize, usize) {
        self.ranges()
            .filter(|range| range.node == node)
            .fold((0, 0), |(pages, free), range| {
                (pages + range.pages, free + range.pool.free_pages())
            })
    }

    /// The largest free run that an object can get in one: of whole blocks, or of pages of cut ones.
    pub fn largest_free_run(&self) -> usize {
        self.all()
            .map(|range| range.pool.largest_free_run())
            .max()
            .unwrap_or(0)
    }

    /// The memory that describes the pages, in bytes.
    pub fn metadata_bytes(&self) -> usize {
        self.all().map(Range::metadata_bytes).sum()
    }

    /// Objects that hold pages.
    pub fn objects(&self) -> usize {
        self.objects
    }

    /// What a user holds, in pages.
    pub fn held_by(&self, uid: u32) -> usize {
        self.users.held(uid)
    }

    /// Takes pages for an object: whole blocks of 2 MiB, in one run where there is one, and what is over
    /// in blocks that are cut. Where whole blocks are no more, cut ones serve for them, but for an object
    /// in huge pages. Of each, the wanted node's come first. O(log pages) and O(run / 64) a run.
    ///
    /// # Errors
    /// `Dquot`, `Nomem`; nothing changed. `Inval` for no pages, or no whole blocks.
    pub fn reserve(&mut self, want: &Want) -> Result<Runs, Errno> {
        if want.pages == 0 || want.huge && !want.pages.is_multiple_of(BLOCK) {
            return Err(Errno::Inval);
        }
        if want.pages > self.free_pages() {
            return Err(Errno::Nomem);
        }
        let limit = if want.unlimited {
            usize::MAX
        } else {
            self.user_limit
        };
        self.users.charge(want.uid, want.pages, limit)?;
        let mut runs = Runs::new();
        if let Err(errno) = self.gather(want, &mut runs) {
            let all = runs.pages();
            for run in runs.between(0, all) {
                self.put_back(run.pfn, run.pages);
            }
            self.users.release(want.uid, want.pages);
            return Err(errno);
        }
        self.objects = self.objects.saturating_add(1);
        Ok(runs)
    }

    /// Takes back wiped pages of an object. False, and nothing changes, where they are not the room's or free.
    pub fn give_back(&mut self, uid: u32, pfn: u64, pages: usize) -> bool {
        let given = self.put_back(pfn, pages);
        if given {
            self.users.release(uid, pages);
        }
        given
    }

    /// An object holds nothing any more.
    pub fn forget_object(&mut self) {
        self.objects = self.objects.saturating_sub(1);
    }

    fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().flatten()
    }

    fn all(&self) -> impl Iterator<Item = &Range> {
        self.ranges().chain(&self.lent)
    }

    /// Whole blocks first, so that they lie at multiples of 2 MiB in the object; of each size, those
    /// that the kernel lent before those of the carve-outs.
    fn gather(&mut self, want: &Want, runs: &mut Runs) -> Result<(), Errno> {
        let blocks = |runs: &Runs| want.pages.saturating_sub(runs.pages()) / BLOCK;
        if let Some(lent) = &mut self.lent {
            while blocks(runs) > 0 && lent.take(BLOCK, runs)? {}
        }
        for place in [Place::On(want.node), Place::Off(want.node)] {
            // By halves of what is wanted: where 64 blocks in a row are not there, 32 may be.
            let mut step = blocks(runs);
            while step > 0 {
                step = step.min(blocks(runs));
                if step > 0 && !self.take(step.saturating_mul(BLOCK), place, runs)? {
                    step /= 2;
                }
            }
        }
        let left = |runs: &Runs| want.pages.saturating_sub(runs.pages());
        if want.huge && left(runs) > 0 {
            return Err(Errno::Nomem);
        }
        // Less than a block, so that cut ones are asked first; and at most what is there.
        let most = |runs: &Runs, largest: usize| left(runs).min(BLOCK - 1).min(largest);
        if let Some(lent) = &mut self.lent {
            while left(runs) > 0 && lent.take(most(runs, lent.pool.largest_free_run()), runs)? {}
        }
        for place in [Place::On(want.node), Place::Off(want.node)] {
            while left(runs) > 0 && self.take(most(runs, self.largest(place)), place, runs)? {}
        }
        if left(runs) > 0 {
            return Err(Errno::Nomem);
        }
        Ok(())
    }

    /// The largest free run of the carve-outs there.
    fn largest(&self, place: Place) -> usize {
        self.ranges()
            .filter(|range| place.has(range.node))
            .map(|range| range.pool.largest_free_run())
            .max()
            .unwrap_or(0)
    }

    /// Takes one run of the carve-outs there and appends it; false where there is none.
    fn take(&mut self, pages: usize, place: Place, runs: &mut Runs) -> Result<bool, Errno> {
        for range in self.ranges.iter_mut().flatten() {
            if place.has(range.node) && range.take(pages, runs)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn put_back(&mut self, pfn: u64, pages: usize) -> bool {
        // Runs that join can cross from one range into its neighbour, and from a block that is lent.
        let mut pfn = pfn;
        let mut left = pages;
        while left > 0 {
            let own = self
                .ranges
                .iter_mut()
                .flatten()
                .find_map(|range| range.find(pfn).map(|found| (range, found)));
            let (range, (start, there)) = match (own, &mut self.lent) {
                (Some(own), _) => own,
                (None, Some(lent)) => {
                    let Some((start, there)) = lent.find(pfn) else {
                        return false;
                    };
                    (lent, (start, there.min(BLOCK - start % BLOCK)))
                }
                (None, None) => return false,
            };
            let part = left.min(there);
            if !range.pool.give(start, part) {
                return false;
            }
            pfn = pfn.saturating_add(part as u64);
            left = left.saturating_sub(part);
        }
        true
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}
