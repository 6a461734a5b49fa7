//! Heaps: allocations inside secret memory, wiped when they are freed.
//!
//! * [`classes`]: block sizes.
//! * [`cache`]: a thread's own free blocks; no lock.
//! * [`central`]: spans of blocks, a lock a class.
//! * [`arena`]: pages and chunks, one lock, taken after a class's.
//! * [`inner`]: the three together.
//! * [`metadata`]: what is known of blocks and pages, apart from them.
//!
//! Free memory is zero, always: `free` wipes, chunks arrive zeroed, and no free
//! list runs through the blocks. So zeroed allocation costs nothing more, and what
//! another thread or a forked child finds in a free block is nothing.
//!
//! A block's state byte says whether it is in use, and of which class. `free`
//! checks it: a second free, or a pointer that starts no block, ends the process.

mod allocator;
mod arena;
mod cache;
mod central;
mod classes;
pub(crate) mod forked;
mod inner;
mod metadata;
mod reservation;

use crate::policy::{Policy, Refused};
use crate::wipe::wipe;
use cache::Cache;
use classes::{COUNT, LARGEST, SIZES, UNIT, class_of};
use core::ops::Range;
use core::ptr::{self, NonNull};
use inner::Inner;
use metadata::{FREE, PAGES};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use strongroom_core::{Reason, Receipt};
use strongroom_sys::{PAGE, process, thread_slot};

/// The value of a thread's slot once its cache has been taken down.
const NO_CACHE: *mut u8 = ptr::without_provenance_mut(1);

/// An allocator in secret memory.
///
/// Blocks are aligned to 16 bytes at least, zero when they are handed out and wiped
/// when they are freed. A heap is thread-safe. The process-wide one ([`global`]) keeps
/// a cache for each thread; others take a lock at each call.
pub struct Heap {
    inner: OnceLock<Result<&'static Inner, Refused>>,
    cached: bool,
}

pub use allocator::SecretAllocator;
pub(crate) use forked::any_started;

/// How a heap is used at the moment. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Mapped from the keeper and charged.
    pub mapped: usize,
    /// Mapped and in no span.
    pub free: usize,
    /// Mappings.
    pub chunks: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static GLOBAL: Heap = Heap {
    inner: OnceLock::new(),
    cached: true,
};

/// The process-wide heap. It takes the policy of the first [`Heap::start`], or without one
/// prefers [`crate::Level::Hidden`], accepts [`crate::Level::Locked`] and copies on fork.
pub fn global() -> &'static Heap {
    &GLOBAL
}

const DEFAULT_POLICY: Policy =
    Policy::prefer(strongroom_core::Level::Hidden).on_fork(crate::fork::ForkPolicy::Copy);

impl Heap {
    /// A heap of its own, under a policy.
    ///
    /// # Errors
    /// Where the machine cannot keep memory at the level that the policy requires.
    pub fn new(policy: Policy) -> Result<Self, Refused> {
        let heap = Heap {
            inner: OnceLock::new(),
            cached: false,
        };
        heap.start(policy)?;
        Ok(heap)
    }

    /// Starts a heap that has not been used yet; a later call changes nothing.
    ///
    /// # Errors
    /// Where the machine cannot keep memory at the level that the policy requires.
    pub fn start(&self, policy: Policy) -> Result<(), Refused> {
        self.inner
            .get_or_init(|| Inner::start(policy))
            .as_ref()
            .map(drop)
            .map_err(|refused| *refused)
    }

    #[inline]
    fn inner(&self) -> Option<&'static Inner> {
        self.inner
            .get_or_init(|| Inner::start(DEFAULT_POLICY))
            .as_ref()
            .ok()
            .copied()
    }

    /// The heap where it has been started already.
    fn started(&self) -> Option<&'static Inner> {
        self.inner.get()?.as_ref().ok().copied()
    }

    /// This thread's cache, where it has one.
    ///
    /// It is whole and stays so while the thread lives, and nobody else touches it. Those who
    /// make a reference of it end that before they call anything that asks for it again.
    #[inline(always)]
    fn cache(&self) -> Option<NonNull<Cache>> {
        let slot = thread_slot::get();
        if !self.cached || slot.addr() <= NO_CACHE.addr() {
            return None;
        }
        NonNull::new(slot.cast())
    }

    /// A zeroed block of at least `size` bytes, aligned to 16 bytes; null where memory is refused.
    #[inline]
    pub fn allocate(&self, size: usize) -> *mut u8 {
        if size <= LARGEST {
            let class = class_of(size);
            if let Some(mut cache) = self.cache() {
                // SAFETY: see `cache`.
                let cache = unsafe { cache.as_mut() };
                if let Some(unit) = cache.pop(class) {
                    // SAFETY: a unit of the heap, in no one else's hands.
                    return unsafe {
                        *cache.states.add(unit as usize) = class as u8 + 1;
                        cache.base.add(unit as usize * UNIT)
                    };
                }
            }
        }
        self.allocate_slow(size, UNIT)
    }

    /// As [`Heap::allocate`], aligned to `align` bytes, a power of two.
    #[inline]
    pub fn allocate_aligned(&self, size: usize, align: usize) -> *mut u8 {
        debug_assert!(align.is_power_of_two());
        if align <= UNIT {
            return self.allocate(size);
        }
        self.allocate_slow(size, align)
    }

    #[cold]
    #[inline(never)]
    fn allocate_slow(&self, size: usize, align: usize) -> *mut u8 {
        let Some(inner) = self.inner() else {
            return ptr::null_mut();
        };
        if self.cached && thread_slot::get().is_null() {
            inner.make_cache();
        }
        let class = class_aligned(size, align);
        let attempt = || match class {
            // SAFETY: see `cache`.
            Some(class) => inner.take_block(class, self.cache().map(|mut c| unsafe { c.as_mut() })),
            None => inner.take_pages(size, align),
        };
        let result = attempt().or_else(|_| {
            // What this thread's cache holds may free whole spans.
            self.flush(inner);
            attempt()
        });
        match result {
            Ok(start) => start,
            Err(reason) => {
                *lock(&inner.refusal) = Some(reason);
                ptr::null_mut()
            }
        }
    }

    /// Returns what this thread's cache holds.
    fn flush(&self, inner: &Inner) {
        if let Some(mut cache) = self.cache() {
            // SAFETY: see `cache`.
            inner.flush(unsafe { cache.as_mut() });
        }
    }

    /// Whether the address lies in this heap's range.
    #[inline]
    pub fn contains(&self, address: *const u8) -> bool {
        self.started()
            .is_some_and(|inner| inner.offset(address) < inner.len)
    }

    /// Whether all of a range of addresses, not empty, lies in this heap's range.
    pub fn contains_range(&self, range: &Range<usize>) -> bool {
        !range.is_empty()
            && self.contains(range.start as *const u8)
            && self.contains((range.end - 1) as *const u8)
    }

    /// How much the heap could ever hold, in bytes; 0 before its first use.
    pub fn capacity(&self) -> usize {
        self.started().map_or(0, |inner| inner.len)
    }

    /// Whether the address lies in what the heap knows of its blocks: no secret, not locked.
    pub fn is_metadata(&self, address: *const u8) -> bool {
        self.started()
            .is_some_and(|inner| inner.metadata.contains(address))
    }

    /// Wipes a block and takes it back.
    ///
    /// A pointer that starts no block in use ends the process with a message: going on
    /// would hand memory to two owners.
    ///
    /// # Safety
    /// Nothing may use the block afterwards.
    #[inline]
    pub unsafe fn free(&self, block: *mut u8) {
        // SAFETY: the caller's promise.
        if !unsafe { self.free_if_ours(block) } {
            corrupted("free of a pointer that no heap handed out");
        }
    }

    /// As [`Heap::free`], but an address outside of the heap is left alone: returns false then.
    ///
    /// # Safety
    /// As [`Heap::free`].
    #[inline]
    pub unsafe fn free_if_ours(&self, block: *mut u8) -> bool {
        if let Some(mut cache) = self.cache() {
            // SAFETY: see `cache`.
            let cache = unsafe { cache.as_mut() };
            let offset = (block as usize).wrapping_sub(cache.base as usize);
            let unit = offset / UNIT;
            if offset < cache.len && offset.is_multiple_of(UNIT) {
                // SAFETY: `len` is how far the metadata is usable.
                let state = unsafe { cache.states.add(unit) };
                // SAFETY: as above.
                let class = usize::from(unsafe { *state }).wrapping_sub(1);
                if class < COUNT {
                    // SAFETY: the state says that a block of the class starts here, and it is the
                    // caller's to give up.
                    unsafe {
                        wipe(block, SIZES[class] as usize);
                        *state = FREE;
                    }
                    if !cache.push(class, unit as u32) {
                        self.free_full(class, unit);
                    }
                    return true;
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.free_slow(block) }
    }

    /// Makes room in a full magazine, then keeps the block.
    #[cold]
    #[inline(never)]
    fn free_full(&self, class: usize, unit: usize) {
        let (Some(mut cache), Some(inner)) = (self.cache(), self.started()) else {
            return;
        };
        // SAFETY: see `cache`; the caller no longer uses its own reference.
        let cache = unsafe { cache.as_mut() };
        if !cache.widen(class) {
            inner.flush_class(cache, class, false);
        }
        if !cache.push(class, unit as u32) {
            inner.give_blocks(class, |give| give(unit as u32));
        }
    }

    #[cold]
    #[inline(never)]
    unsafe fn free_slow(&self, block: *mut u8) -> bool {
        let Some(inner) = self
            .started()
            .filter(|inner| inner.offset(block) < inner.len)
        else {
            return false;
        };
        if self.cached && thread_slot::get().is_null() {
            inner.make_cache();
        }
        if let Some(mut cache) = self.cache() {
            // SAFETY: see `cache`.
            unsafe { cache.as_mut() }.len = inner.usable.load(Ordering::Acquire);
        }
        let unit = inner.unit_of(block);
        // SAFETY: `unit_of` checked that it is inside the heap and usable.
        match unsafe { inner.metadata.state(unit) } {
            FREE => corrupted("double free, or free of a pointer that starts no block"),
            PAGES => inner.give_pages(unit),
            state => {
                let class = usize::from(state) - 1;
                // SAFETY: as in `free`.
                unsafe {
                    wipe(block, SIZES[class] as usize);
                    inner.metadata.set_state(unit, FREE);
                }
                inner.give_blocks(class, |give| give(unit as u32));
            }
        }
        true
    }

    /// How many bytes the block can hold.
    ///
    /// # Safety
    /// The block must be one in use of this heap; others end the process.
    #[inline]
    pub unsafe fn usable_size(&self, block: *mut u8) -> usize {
        let Some(inner) = self.inner() else {
            corrupted("use of a pointer that no heap handed out");
        };
        let unit = inner.unit_of(block);
        // SAFETY: `unit_of` checked that it is inside the heap and usable.
        match unsafe { inner.metadata.state(unit) } {
            FREE => corrupted("use of a pointer that starts no block in use"),
            PAGES => inner.run_pages(unit) * PAGE,
            state => SIZES[usize::from(state) - 1] as usize,
        }
    }

    /// Changes a block's size, in place where it can; null, with the block as it was, where
    /// memory is refused. New bytes past the old usable size are zero.
    ///
    /// # Safety
    /// As [`Heap::free`] where a new address is returned.
    pub unsafe fn resize(&self, block: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        let old = unsafe { self.usable_size(block) };
        if let Some(inner) = self.inner() {
            if size > LARGEST && old > LARGEST {
                if inner.resize_run(inner.unit_of(block), size) {
                    return block;
                }
            } else if size <= LARGEST && old <= LARGEST && class_of(size) == class_of(old) {
                return block;
            }
        }
        let new = self.allocate(size);
        if !new.is_null() {
            // SAFETY: both blocks are that long and differ.
            unsafe {
                ptr::copy_nonoverlapping(block, new, old.min(size));
                self.free(block);
            }
        }
        new
    }

    /// Why the last allocation that failed was refused.
    pub fn last_refusal(&self) -> Option<Reason> {
        match self.inner.get()? {
            Ok(inner) => *lock(&inner.refusal),
            Err(refused) => Some(refused.reason),
        }
    }

    /// What the heap's memory is held under; `None` before its first use.
    pub fn receipt(&self) -> Option<Receipt> {
        Some(self.started()?.receipt)
    }

    /// The policy that the heap was started under; `None` before its first use.
    pub fn policy(&self) -> Option<Policy> {
        Some(self.started()?.policy)
    }

    /// The name of the keeper at work; `None` before the heap's first use.
    pub fn keeper(&self) -> Option<&'static str> {
        Some(self.started()?.keeper.name())
    }

    /// As whose memory the heap's pages are noted in the ledger, where their user changes their
    /// access; `None` before its first use.
    pub fn holder(&self) -> Option<crate::ledger::Holder> {
        Some(crate::ledger::Holder::Heap(self.started()?.keeper))
    }

    /// How much each keeper keeps of what is mapped, in bytes, in the order of
    /// [`crate::keeper::KEEPERS`]: one may stand in for another whose memory is used up.
    pub fn kept(&self) -> [usize; crate::keeper::KEEPERS.len()] {
        self.started().map_or([0; _], |inner| {
            lock(&inner.arena).kept().map(|pages| pages * PAGE)
        })
    }

    /// Address and length in bytes of the lowest chunk; (0, 0) for a heap without any.
    pub fn first_chunk(&self) -> (usize, usize) {
        let Some(inner) = self.started() else {
            return (0, 0);
        };
        let arena = lock(&inner.arena);
        match arena.chunks().first() {
            Some(chunk) => (
                arena.address(chunk.page as usize) as usize,
                chunk.pages as usize * PAGE,
            ),
            None => (0, 0),
        }
    }

    /// How much is in use.
    pub fn usage(&self) -> Usage {
        let Some(inner) = self.started() else {
            return Usage::default();
        };
        let arena = lock(&inner.arena);
        Usage {
            mapped: arena.mapped() * PAGE,
            free: arena.free_pages() * PAGE,
            chunks: arena.chunks().len(),
        }
    }

    /// Gives every wholly free chunk back to the kernel, and this thread's cached blocks first.
    pub fn trim(&self) {
        if let Some(inner) = self.started() {
            self.flush(inner);
            lock(&inner.arena).trim();
        }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // Blocks borrow the heap through its users' lifetimes; the global one is never dropped.
        if let Some(inner) = self.started() {
            // SAFETY: nobody can hold the heap any more.
            unsafe { inner.release() };
        }
    }
}

/// The smallest class whose blocks hold `size` bytes and start at multiples of `align`; none where
/// whole pages serve. Spans start on pages, so a block is aligned to what divides its size.
fn class_aligned(size: usize, align: usize) -> Option<usize> {
    if size > LARGEST || align > PAGE {
        return None;
    }
    (class_of(size)..COUNT).find(|&class| (SIZES[class] as usize).is_multiple_of(align))
}

/// Ends the process: the heap's user broke it, and going on would hand memory to two owners.
#[cold]
fn corrupted(what: &str) -> ! {
    process::complain(b"strongroom: ");
    process::complain(what.as_bytes());
    process::complain(b"\n");
    std::process::abort()
}
