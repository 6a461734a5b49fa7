//! What stands behind a [`Heap`](super::Heap): classes, pages and caches, and their locks.
//!
//! Locks are taken in this order: one class, the arena, the caches. A fork takes all.

use super::arena::Arena;
use super::cache::{Cache, Owners};
use super::central::{ClassList, span_pages};
use super::classes::{COUNT, UNIT};
use super::metadata::{FREE, Metadata, PAGES, Span};
use super::{NO_CACHE, corrupted, forked, lock};
use crate::keeper::{self, Keeper, refusal};
use crate::policy::{Policy, Refused};
use crate::wipe::wipe;
use core::cell::UnsafeCell;
use core::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use strongroom_core::{Reason, Receipt};
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{PAGE, page_ceil, thread_slot};

/// Address space of a heap: the 65,530 mappings that a process may have by default, at 2 MiB
/// each, are 128 GiB; this is half of it.
const RESERVATION: usize = 64 << 30;
/// How much free memory a heap keeps before it gives chunks back, in bytes.
const BUDGET: usize = 64 << 20;

pub(super) struct Inner {
    pub(super) base: *mut u8,
    /// How much of the heap has usable metadata, in bytes. It only grows.
    pub(super) usable: AtomicUsize,
    pub(super) len: usize,
    pub(super) metadata: Metadata,
    pub(super) policy: Policy,
    pub(super) receipt: Receipt,
    pub(super) keeper: &'static dyn Keeper,
    pub(super) classes: [Mutex<ClassList>; COUNT],
    pub(super) arena: Mutex<Arena>,
    pub(super) caches: Mutex<Caches>,
    /// Which caches have a thread.
    pub(super) owners: Owners,
    /// Why the last allocation failed.
    pub(super) refusal: Mutex<Option<Reason>>,
    /// The next heap in the list that a fork walks.
    pub(super) next: UnsafeCell<*const Inner>,
    /// The locks while a fork holds them.
    pub(super) held: UnsafeCell<Option<forked::Held>>,
}

// SAFETY: the pointers lead to mappings, which belong to no thread; what changes in them is
// guarded by the locks beside them or atomic. `next` is guarded by the list's lock and `held`
// by the fork's.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// Every thread's cache, so that a forked child can find them, and those without a thread.
pub(super) struct Caches {
    pub(super) live: *mut Cache,
    pub(super) spare: *mut Cache,
    /// The last owner number that was given to a cache.
    owners: u16,
}

// SAFETY: the caches lie in mappings that are never unmapped while the heap lives.
unsafe impl Send for Caches {}

impl Inner {
    /// Sets up a heap in a mapping of its own: it must not move, and `malloc` is not there yet.
    pub(super) fn start(policy: Policy) -> Result<&'static Inner, Refused> {
        let refused = |reason| Refused {
            level: policy.required(),
            reason,
        };
        let (keeper, receipt) = keeper::choose(&policy)?;
        let mut arena =
            Arena::reserve(keeper, RESERVATION / PAGE, BUDGET / PAGE).map_err(refused)?;
        let len = size_of::<Inner>().next_multiple_of(PAGE);
        // SAFETY: a new mapping replaces nothing.
        let home = match unsafe { memory::map_private(Place::Anywhere, len) } {
            Ok(home) => home.cast::<Inner>(),
            Err(errno) => {
                // SAFETY: nobody has seen the arena.
                unsafe { arena.release() };
                return Err(refused(refusal("mmap", errno, len)));
            }
        };
        let inner = Inner {
            base: arena.base,
            usable: AtomicUsize::new(0),
            len: arena.len(),
            metadata: arena.metadata,
            policy,
            receipt,
            keeper,
            classes: core::array::from_fn(|class| Mutex::new(ClassList::new(class))),
            arena: Mutex::new(arena),
            caches: Mutex::new(Caches {
                live: ptr::null_mut(),
                spare: ptr::null_mut(),
                owners: 0,
            }),
            owners: Owners::new(),
            refusal: Mutex::new(None),
            next: UnsafeCell::new(ptr::null()),
            held: UnsafeCell::new(None),
        };
        // SAFETY: the mapping is page-aligned, large enough and ours.
        let inner = unsafe {
            home.write(inner);
            &*home
        };
        forked::register(inner);
        Ok(inner)
    }

    /// Unmaps the heap and all that belongs to it.
    ///
    /// # Safety
    /// Nothing may use the heap or a block of it afterwards.
    pub(super) unsafe fn release(&'static self) {
        forked::unregister(self);
        // SAFETY: the caller's promise.
        unsafe { lock(&self.arena).release() };
        let home = ptr::from_ref(self).cast_mut().cast::<u8>();
        // SAFETY: mapped by `start` with this length; a heap of its own has no caches.
        let _ = unsafe { memory::unmap(home, size_of::<Inner>().next_multiple_of(PAGE)) };
    }

    /// The position of an address in the heap, in bytes; past the end for foreign ones.
    #[inline]
    pub(super) fn offset(&self, address: *const u8) -> usize {
        (address as usize).wrapping_sub(self.base as usize)
    }

    /// The unit that a pointer names; a pointer that names none ends the process.
    #[inline]
    pub(super) fn unit_of(&self, block: *const u8) -> usize {
        let offset = self.offset(block);
        if offset >= self.usable.load(Ordering::Acquire) || !offset.is_multiple_of(UNIT) {
            corrupted("a pointer that the heap did not hand out");
        }
        offset / UNIT
    }

    fn address(&self, unit: usize) -> *mut u8 {
        self.base.wrapping_add(unit * UNIT)
    }

    /// Gives this thread a cache; without memory for one it goes on without.
    pub(super) fn make_cache(&self) {
        static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
        // While this runs, a call back into malloc must not come here again.
        thread_slot::set(NO_CACHE);
        let key = *KEY.get_or_init(|| {
            let mut key = 0;
            // SAFETY: `key` is a valid place for the answer.
            let status = unsafe { libc::pthread_key_create(&raw mut key, Some(forget_cache)) };
            (status == 0).then_some(key)
        });
        let Some(key) = key else { return };
        let Some(cache) = self.new_cache() else {
            return;
        };
        // SAFETY: the key exists; the destructor gets the pointer back when the thread ends.
        if unsafe { libc::pthread_setspecific(key, cache.cast()) } == 0 {
            thread_slot::set(cache.cast());
        } else {
            self.retire(cache);
        }
    }

    fn new_cache(&self) -> Option<*mut Cache> {
        let mut caches = lock(&self.caches);
        let cache = if caches.spare.is_null() {
            let len = size_of::<Cache>().next_multiple_of(PAGE);
            // SAFETY: a new mapping replaces nothing. All zero is an empty cache.
            unsafe { memory::map_private(Place::Anywhere, len) }
                .ok()?
                .cast::<Cache>()
        } else {
            let cache = caches.spare;
            // SAFETY: spare caches are whole and nobody's.
            caches.spare = unsafe { (*cache).next };
            cache
        };
        // SAFETY: a cache of ours that no thread has yet.
        unsafe {
            (*cache).base = self.base;
            (*cache).len = self.usable.load(Ordering::Acquire);
            (*cache).states = self.metadata.states();
            if (*cache).owner == 0 {
                caches.owners = caches.owners % u16::MAX + 1;
                (*cache).owner = caches.owners;
            }
            self.owners.set_alive((*cache).owner, true);
            (*cache).next = caches.live;
        }
        caches.live = cache;
        Some(cache)
    }

    /// Takes a cache from its thread; its blocks must have been flushed or be forgotten.
    fn retire(&self, cache: *mut Cache) {
        let mut caches = lock(&self.caches);
        let mut link = &raw mut caches.live;
        // SAFETY: the list holds whole caches, and its lock is held.
        unsafe {
            while !(*link).is_null() && *link != cache {
                link = &raw mut (**link).next;
            }
            if *link == cache {
                *link = (*cache).next;
            }
            (*cache).forget();
            self.owners.set_alive((*cache).owner, false);
            (*cache).next = caches.spare;
        }
        caches.spare = cache;
    }

    /// A block of a class, by way of the cache where there is one.
    pub(super) fn take_block(
        &self,
        class: usize,
        cache: Option<&mut Cache>,
    ) -> Result<*mut u8, Reason> {
        let mut one = [0u32];
        let unit = match cache {
            None => {
                self.take_units(class, 0, &mut one)?;
                one[0]
            }
            Some(cache) => match cache.pop(class) {
                Some(unit) => unit,
                None => {
                    let owner = cache.owner;
                    let count = self.take_units(class, owner, cache.refill_room(class))?;
                    cache.len = self.usable.load(Ordering::Acquire);
                    cache.refilled(class, count);
                    cache.pop(class).ok_or(Reason::OutOfMemory)?
                }
            },
        };
        // SAFETY: a unit of the heap, in no one else's hands.
        unsafe { self.metadata.set_state(unit as usize, class as u8 + 1) };
        Ok(self.address(unit as usize))
    }

    /// Fills `out` with free blocks of a class, at least one. Returns how many.
    ///
    /// They come from a span that no other cache is filled from, where there is room for one:
    /// two threads that write to neighbouring blocks, or states, would wait for each other.
    fn take_units(&self, class: usize, owner: u16, out: &mut [u32]) -> Result<usize, Reason> {
        let mut list = lock(&self.classes[class]);
        let count = list.take_own(&self.metadata, &self.owners, owner, out);
        if count > 0 {
            return Ok(count);
        }
        let fresh = {
            let mut arena = lock(&self.arena);
            let fresh = span_pages(&mut arena, class);
            self.usable.store(arena.usable(), Ordering::Release);
            fresh
        };
        match fresh {
            Ok(first) => {
                list.add_span(&self.metadata, first);
                Ok(list.take_own(&self.metadata, &self.owners, owner, out))
            }
            Err(reason) => match list.take(&self.metadata, out) {
                0 => Err(reason),
                count => Ok(count),
            },
        }
    }

    /// Takes wiped blocks of a class back, as `each` names them.
    pub(super) fn give_blocks(&self, class: usize, each: impl FnOnce(&mut dyn FnMut(u32))) {
        let mut list = lock(&self.classes[class]);
        each(&mut |unit| {
            if let Some(first) = list.give(&self.metadata, unit as usize) {
                let pages = super::classes::SPAN_PAGES[class];
                lock(&self.arena).give(first, usize::from(pages));
            }
        });
    }

    /// Returns the older half of a class's cached blocks, or all.
    pub(super) fn flush_class(&self, cache: &mut Cache, class: usize, all: bool) {
        self.give_blocks(class, |give| cache.drain(class, all, give));
    }

    /// Returns all cached blocks.
    pub(super) fn flush(&self, cache: &mut Cache) {
        for class in 0..COUNT {
            self.flush_class(cache, class, true);
        }
    }

    /// A block of whole pages.
    pub(super) fn take_pages(&self, size: usize, align: usize) -> Result<*mut u8, Reason> {
        let len = page_ceil(size.max(1)).filter(|&len| len <= self.len);
        let pages = len.ok_or(Reason::ReservationFull {
            limit: self.len as u64,
        })? / PAGE;
        let mut arena = lock(&self.arena);
        let first = arena.take(pages, (align / PAGE).max(1))?;
        self.usable.store(arena.usable(), Ordering::Release);
        let unit = first * PAGE / UNIT;
        // Under the arena's lock, so that a fork finds no taken pages without their span.
        // SAFETY: the run is ours and the arena grew the metadata over it.
        unsafe {
            self.metadata.span(first).write(Span {
                free: [0; 4],
                next: 0,
                previous: 0,
                pages: pages as u32,
                free_blocks: 0,
                class_plus_one: 0,
                listed: false,
                owner: 0,
            });
            self.metadata.set_state(unit, PAGES);
        }
        Ok(self.address(unit))
    }

    /// Wipes a block of whole pages and takes it back.
    pub(super) fn give_pages(&self, unit: usize) {
        let first = unit * UNIT / PAGE;
        let pages = self.run_pages(unit);
        // Wiped first: a fork in between finds a block in use, or a free one that is zero.
        // SAFETY: the block is the caller's to give up.
        unsafe {
            self.wipe_resident(first, pages);
            self.metadata.set_state(unit, FREE);
        }
        lock(&self.arena).give(first, pages);
    }

    /// The length of a block of whole pages.
    pub(super) fn run_pages(&self, unit: usize) -> usize {
        // SAFETY: the state said that a block of whole pages starts here.
        unsafe { (*self.metadata.span(unit * UNIT / PAGE)).pages as usize }
    }

    /// Changes the length of a block of whole pages in place, if that can be done.
    pub(super) fn resize_run(&self, unit: usize, size: usize) -> bool {
        let Some(len) = page_ceil(size) else {
            return false;
        };
        let (first, old, new) = (unit * UNIT / PAGE, self.run_pages(unit), len / PAGE);
        if new < old {
            // SAFETY: the tail is the caller's to give up.
            unsafe { self.wipe_resident(first + new, old - new) };
        }
        let mut arena = lock(&self.arena);
        if new > old && !arena.take_at(first + old, new - old) {
            return false;
        }
        // SAFETY: the span of a live block that the caller owns.
        unsafe { (*self.metadata.span(first)).pages = new as u32 };
        if new < old {
            arena.give(first + new, old - new);
        }
        true
    }

    /// Zeroes the pages of a run that were ever touched. Those that the metadata knows to exist are
    /// not asked about again: the question costs more than the wiping.
    ///
    /// # Safety
    /// The run must be the caller's.
    unsafe fn wipe_resident(&self, first: usize, pages: usize) {
        // SAFETY: the caller's run, over which the arena grew the metadata.
        let touched = unsafe { self.metadata.touched(first, pages) };
        let mut page = first;
        for known in touched.chunk_by_mut(|a, b| a == b) {
            let (start, len) = (self.base.wrapping_add(page * PAGE), known.len() * PAGE);
            page += known.len();
            // SAFETY: the caller's promise, for all three.
            unsafe {
                if known[0] != 0 {
                    wipe(start, len);
                    continue;
                }
                self.keeper.each_run(start, len, |offset, len| {
                    wipe(start.add(offset), len);
                    known[offset / PAGE..(offset + len) / PAGE].fill(1);
                });
            }
        }
    }
}

/// Runs when a thread ends: its cached blocks go back to everyone.
extern "C" fn forget_cache(cache: *mut libc::c_void) {
    let cache = cache.cast::<Cache>();
    // Later destructors may still allocate; they go without a cache.
    thread_slot::set(NO_CACHE);
    if let Some(inner) = super::global().started() {
        // SAFETY: the key's value was this thread's cache, and nobody else touches it.
        inner.flush(unsafe { &mut *cache });
        inner.retire(cache);
    }
}
