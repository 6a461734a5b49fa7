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
    /// # Errors
    /// `Nomem`; `Inval` where so many pages cannot be.
    fn new(first: u64, pages: usize, node: i32) -> Result<Self, Errno> {
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
        let mut pool = ChunkPool::new(blocks, metadata);
        let given = pool.give(before, pages);
        let range = Self {
            first,
            pages,
            node,
            pool,
            metadata: memory,
        };
        if given { Ok(range) } else { Err(Errno::Inval) }
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
    users: Users,
    user_limit: usize,
    objects: usize,
}

impl Room {
    /// A room without pages.
    pub const fn new() -> Self {
        Self {
            ranges: [const { None }; RANGES],
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

    /// The most that a user may hold, in percent of the pool.
    pub fn limit_users(&mut self, percent: u32) {
        self.user_limit = (self.pages() / 100).saturating_mul(percent as usize)
            + (self.pages() % 100).saturating_mul(percent as usize) / 100;
    }

    /// The most that a user may hold, in pages.
    pub fn user_limit(&self) -> usize {
        self.user_limit
    }

    /// All pages.
    pub fn pages(&self) -> usize {
        self.ranges().map(|range| range.pages).sum()
    }

    /// Pages that can be given out.
    pub fn free_pages(&self) -> usize {
        self.ranges().map(|range| range.pool.free_pages()).sum()
    }

    /// The largest free run that an object can get in one: of whole blocks, or of pages of cut ones.
    pub fn largest_free_run(&self) -> usize {
        self.ranges()
            .map(|range| range.pool.largest_free_run())
            .max()
            .unwrap_or(0)
    }

    /// The memory that describes the pages, in bytes.
    pub fn metadata_bytes(&self) -> usize {
        self.ranges().map(Range::metadata_bytes).sum()
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
    /// in huge pages. O(log pages) and O(run / 64) a run.
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

    fn gather(&mut self, want: &Want, runs: &mut Runs) -> Result<(), Errno> {
        // By halves of what is wanted: where 64 blocks in a row are not there, 32 may be.
        let mut step = want.pages / BLOCK;
        while step > 0 {
            step = step.min(want.pages.saturating_sub(runs.pages()) / BLOCK);
            if step > 0 && !self.take(step.saturating_mul(BLOCK), want.node, runs)? {
                step /= 2;
            }
        }
        loop {
            let left = want.pages.saturating_sub(runs.pages());
            if left == 0 {
                return Ok(());
            }
            // Less than a block, so that cut ones are asked first; and at most what is there.
            let pages = left.min(BLOCK - 1).min(self.largest_free_run());
            if want.huge || !self.take(pages, want.node, runs)? {
                return Err(Errno::Nomem);
            }
        }
    }

    /// Takes one run and appends it; false where there is none. The wanted node's ranges come first.
    fn take(&mut self, pages: usize, node: i32, runs: &mut Runs) -> Result<bool, Errno> {
        for near in [true, false] {
            for range in self.ranges.iter_mut().flatten() {
                if (range.node == node) != near {
                    continue;
                }
                if let Some(start) = range.pool.take(pages) {
                    let pfn = range.base().saturating_add(start as u64);
                    let appended = runs.append(pfn, pages);
                    if appended.is_err() {
                        self.put_back(pfn, pages);
                    }
                    return appended.map(|()| true);
                }
            }
        }
        Ok(false)
    }

    fn put_back(&mut self, pfn: u64, pages: usize) -> bool {
        // Runs that join can cross from one range into its neighbour.
        let mut pfn = pfn;
        let mut left = pages;
        while left > 0 {
            let found = self
                .ranges
                .iter_mut()
                .flatten()
                .find_map(|range| range.find(pfn).map(|found| (range, found)));
            let Some((range, (start, there))) = found else {
                return false;
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
