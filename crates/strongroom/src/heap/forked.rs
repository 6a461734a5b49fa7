//! Heaps across fork: locks held over it, blocks copied, caches of lost threads emptied.

use super::Inner;
use super::arena::{Arena, reserve_aligned};
use super::cache::Cache;
use super::central::ClassList;
use super::classes::{COUNT, SIZES, UNIT};
use super::metadata::{Chunk, FREE, Metadata, PAGES};
use super::{NO_CACHE, inner::Caches, lock};
use crate::fork::ForkPolicy;
use crate::keeper::{self, Inheritance};
use crate::resident;
use crate::wipe::wipe;
use core::ops::Range;
use core::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use strongroom_core::Reason;
use strongroom_sys::memory::{self, Advice, Place};
use strongroom_sys::{PAGE, thread_slot};

/// Every lock of a heap.
pub(super) struct Held {
    classes: [MutexGuard<'static, ClassList>; COUNT],
    arena: MutexGuard<'static, Arena>,
    caches: MutexGuard<'static, Caches>,
}

struct List(*const Inner);

// SAFETY: heaps in the list stay where they are until they unregister, under the list's lock.
unsafe impl Send for List {}

static HEAPS: Mutex<List> = Mutex::new(List(ptr::null()));

static ANY: AtomicBool = AtomicBool::new(false);

/// Whether any heap was ever started.
pub(crate) fn any_started() -> bool {
    ANY.load(Ordering::Relaxed)
}

pub(super) fn register(inner: &'static Inner) {
    crate::fork::watch();
    let mut heaps = lock(&HEAPS);
    ANY.store(true, Ordering::Relaxed);
    // SAFETY: the list's lock guards every `next`.
    unsafe { *inner.next.get() = heaps.0 };
    heaps.0 = inner;
}

pub(super) fn unregister(inner: &'static Inner) {
    let mut heaps = lock(&HEAPS);
    let mut link = &raw mut heaps.0;
    // SAFETY: the list holds live heaps, and its lock is held.
    unsafe {
        while !(*link).is_null() && !ptr::eq(*link, inner) {
            link = (**link).next.get();
        }
        if ptr::eq(*link, inner) {
            *link = *inner.next.get();
        }
    }
}

/// All heaps, locked for a fork. Dropping it unlocks them, in parent and child alike: the
/// thread that forks is the one that the child has.
pub(crate) struct LockedHeaps {
    heaps: MutexGuard<'static, List>,
}

impl LockedHeaps {
    /// Locks every heap.
    pub(crate) fn lock() -> Self {
        let locked = Self {
            heaps: lock(&HEAPS),
        };
        locked.each(|inner| {
            let held = Held {
                classes: core::array::from_fn(|class| lock(&inner.classes[class])),
                arena: lock(&inner.arena),
                caches: lock(&inner.caches),
            };
            // SAFETY: the list's lock guards `held`.
            unsafe { *inner.held.get() = Some(held) };
        });
        locked
    }

    fn each(&self, mut act: impl FnMut(&'static Inner)) {
        let mut at = self.heaps.0;
        // SAFETY: the list holds live heaps, and its lock is held.
        while let Some(inner) = unsafe { at.as_ref() } {
            act(inner);
            // SAFETY: as above.
            at = unsafe { *inner.next.get() };
        }
    }

    fn arenas(
        &self,
        mut act: impl FnMut(&'static Inner, &mut Arena) -> Result<(), Reason>,
    ) -> Result<(), Reason> {
        let mut result = Ok(());
        self.each(|inner| {
            // SAFETY: the list's lock guards `held`, and each heap comes up once.
            if let Some(held) = unsafe { &mut *inner.held.get() } {
                result = result.and_then(|()| act(inner, &mut held.arena));
            }
        });
        result
    }

    /// Whether any heap's policy is to deny forks.
    pub(crate) fn any_denies(&self) -> bool {
        let mut denies = false;
        self.each(|inner| denies |= inner.policy.fork() == ForkPolicy::Deny);
        denies
    }

    /// Whether any heap's memory comes to no child by itself.
    pub(crate) fn any_secret(&self) -> bool {
        let mut any = false;
        self.each(|inner| any |= !inner.keeper.copies_on_write());
        any
    }

    /// Whether a child is to have contents that it cannot see.
    pub(crate) fn any_to_hand_over(&self) -> bool {
        let mut any = false;
        let _ = self.arenas(|inner, arena| {
            any |= inner.policy.fork() == ForkPolicy::Copy && arena.chunks().iter().any(is_unseen);
            Ok(())
        });
        any
    }

    /// Whether all of a range is memory of heaps whose contents the child is to have.
    pub(crate) fn hand_over(&self, range: &Range<usize>) -> bool {
        let mut any = false;
        let _ = self.arenas(|inner, arena| {
            let base = arena.address(0) as usize;
            if inner.policy.fork() != ForkPolicy::Copy
                || !(base..base + arena.len()).contains(&range.start)
            {
                return Ok(());
            }
            let (first, pages) = ((range.start - base) / PAGE, range.len().div_ceil(PAGE));
            let kept: usize = arena.pieces(first, pages).map(|(.., pages)| pages).sum();
            any |= kept == pages;
            Ok(())
        });
        any
    }

    /// Before the fork: lets the child inherit (`inherit`) the mappings it will copy from, or,
    /// after it, no longer.
    pub(crate) fn share_with_child(&self, inherit: bool) -> Result<(), Reason> {
        self.arenas(|inner, arena| {
            for chunk in arena.chunks() {
                let advice = match (chunk.keeper().inheritance(), inner.policy.fork()) {
                    (Inheritance::Shared, ForkPolicy::Copy) if inherit => Advice::LinuxDoFork,
                    (Inheritance::Shared, ForkPolicy::Copy) => Advice::LinuxDontFork,
                    // Locked memory is inherited by copy-on-write, and emptied in the child where asked.
                    (Inheritance::CopyOnWrite, ForkPolicy::Drop) if inherit => {
                        Advice::LinuxWipeOnFork
                    }
                    _ => continue,
                };
                let start = arena.address(chunk.page as usize);
                // SAFETY: a chunk of this heap; the advice changes nothing in this process.
                unsafe { memory::advise(start, chunk.pages as usize * PAGE, advice) }
                    .map_err(|errno| crate::keeper::refusal("madvise", errno, 0))?;
            }
            Ok(())
        })
    }

    /// In the child: reserves the places of chunks that it did not inherit.
    pub(crate) fn reserve_holes(&self) -> Result<(), Reason> {
        self.arenas(|inner, arena| {
            let copied = inner.policy.fork() == ForkPolicy::Copy;
            for chunk in arena.chunks() {
                match chunk.keeper().inheritance() {
                    Inheritance::CopyOnWrite => continue,
                    Inheritance::Shared if copied => continue,
                    Inheritance::Shared | Inheritance::Nothing => {}
                }
                let place = Place::Over(arena.address(chunk.page as usize));
                // SAFETY: a place of this heap's, where nothing is.
                unsafe { memory::reserve(place, chunk.pages as usize * PAGE) }
                    .map_err(|errno| crate::keeper::refusal("mmap", errno, 0))?;
            }
            Ok(())
        })
    }

    /// In the child: gives it memory of its own at the same addresses. Returns the bytes copied.
    ///
    /// `fetch` copies from addresses of the parent's that the child does not see.
    pub(crate) fn rebuild_in_child(&self, fetch: Fetch<'_>) -> Result<usize, Reason> {
        let mut copied = 0;
        self.arenas(|inner, arena| {
            if inner.keeper.copies_on_write() {
                for chunk in arena.chunks() {
                    let start = arena.address(chunk.page as usize);
                    // SAFETY: a chunk that this keeper mapped.
                    unsafe {
                        inner
                            .keeper
                            .restore_in_child(start, chunk.pages as usize * PAGE)
                    }?;
                }
            } else {
                copied += replace_chunks(inner, arena, fetch)?;
            }
            Ok(())
        })?;
        self.each(reclaim_lost_caches);
        Ok(copied)
    }
}

impl Drop for LockedHeaps {
    fn drop(&mut self) {
        self.each(|inner| {
            // SAFETY: the list's lock guards `held`.
            unsafe { *inner.held.get() = None };
        });
    }
}

/// Copies bytes from an address of the parent's to one of the child's own.
pub(crate) type Fetch<'a> = &'a dyn Fn(usize, *mut u8, usize) -> Result<(), Reason>;

/// Whether a child sees nothing of the chunk, whatever is advised.
fn is_unseen(chunk: &Chunk) -> bool {
    chunk.keeper().inheritance() == Inheritance::Nothing
}

/// Maps new chunks beside the old ones, copies what is in use, and moves them over.
fn replace_chunks(inner: &Inner, arena: &mut Arena, fetch: Fetch<'_>) -> Result<usize, Reason> {
    let Some(end) = arena
        .chunks()
        .iter()
        .map(|c| (c.page + c.pages) as usize)
        .max()
    else {
        return Ok(0);
    };
    // A range of the same shape: what lies across two chunks is copied in one piece.
    let shadow = reserve_aligned(end * PAGE)
        .map_err(|errno| crate::keeper::refusal("mmap", errno, end * PAGE))?;
    for index in 0..arena.chunks().len() {
        let chunk = arena.chunks()[index];
        let place = Place::Over(shadow.wrapping_add(chunk.page as usize * PAGE));
        // SAFETY: inside the range reserved above.
        let (_, keeper) =
            unsafe { keeper::map_or_next(chunk.keeper(), place, chunk.pages as usize * PAGE) }?;
        arena.note_replacement(index, keeper);
    }
    for chunk in arena.chunks() {
        // Of the new chunk only what is made from here on exists.
        // SAFETY: a chunk, and this thread is the only one of the child.
        unsafe {
            let (first, pages) = (chunk.page as usize, chunk.pages as usize);
            inner.metadata.touched(first, pages)
        }
        .fill(0);
    }
    settle_runs(inner, arena, shadow)?;
    let mut copied = 0;
    if inner.policy.fork() != ForkPolicy::Copy {
        // It gets pages that are zero.
    } else if arena.chunks().iter().any(is_unseen) {
        copied += fetch_runs(inner, arena, shadow, fetch)?;
    } else {
        each_span(arena, &inner.metadata, |first, pages, class| match class {
            Some(class) => {
                each_block(first, class, |unit| {
                    // SAFETY: a unit of a live span.
                    if unsafe { inner.metadata.state(unit) } != FREE {
                        // SAFETY: the block lies in both ranges, which do not overlap.
                        copied +=
                            unsafe { copy(inner, shadow, unit * UNIT, SIZES[class] as usize) };
                    }
                });
            }
            // A run that another thread was giving up holds whatever that thread wrote since.
            // SAFETY: the first unit of a run.
            None if unsafe { inner.metadata.state(first * PAGE / UNIT) } != PAGES => {}
            // SAFETY: a run of pages in both ranges.
            None => copied += unsafe { copy_resident(inner, shadow, first, pages) },
        });
    }
    for chunk in arena.chunks() {
        let offset = chunk.page as usize * PAGE;
        // SAFETY: both ranges are this heap's; the old one is the parent's file, inherited, and
        // this thread is the only one of the child.
        unsafe {
            memory::move_over(
                shadow.wrapping_add(offset),
                chunk.pages as usize * PAGE,
                arena.address(chunk.page as usize),
            )
        }
        .map_err(|errno| crate::keeper::refusal("mremap", errno, 0))?;
    }
    // SAFETY: reserved above; only empty reservation is left in it.
    let _ = unsafe { memory::unmap(shadow, end * PAGE) };
    arena.replaced();
    Ok(copied)
}

/// Copies every run in use, those parts by way of the parent that this process does not see.
fn fetch_runs(
    inner: &Inner,
    arena: &Arena,
    shadow: *mut u8,
    fetch: Fetch<'_>,
) -> Result<usize, Reason> {
    let mut copied = 0;
    let mut result = Ok(());
    each_span(arena, &inner.metadata, |first, pages, class| {
        // SAFETY: the first unit of a run.
        let dead = class.is_none() && unsafe { inner.metadata.state(first * PAGE / UNIT) } != PAGES;
        if result.is_err() || dead {
            return;
        }
        for (keeper, page, pages) in arena.pieces(first, pages) {
            if keeper.inheritance() != Inheritance::Nothing {
                // SAFETY: pages of a run, in both ranges.
                copied += unsafe { copy_resident(inner, shadow, page, pages) };
                continue;
            }
            let (from, len) = (arena.address(page) as usize, pages * PAGE);
            result = fetch(from, shadow.wrapping_add(page * PAGE), len);
            if result.is_err() {
                return;
            }
            copied += len;
        }
        // Threads of the parent's go on: in what was free at the fork they may have written since.
        let Some(class) = class else { return };
        each_block(first, class, |unit| {
            // SAFETY: a unit of a live span, whose block lies in the shadow.
            unsafe {
                if inner.metadata.state(unit) == FREE {
                    wipe(shadow.add(unit * UNIT), SIZES[class] as usize);
                }
            }
        });
    });
    result.map(|()| copied)
}

/// Settles every run in use: the child has it, whether it holds anything by now or not.
fn settle_runs(inner: &Inner, arena: &Arena, shadow: *mut u8) -> Result<(), Reason> {
    let mut result = Ok(());
    each_span(arena, &inner.metadata, |first, pages, _| {
        if result.is_err() {
            return;
        }
        let mut all = true;
        for (keeper, page, pages) in arena.replacement_pieces(first, pages) {
            match keeper.settle(shadow.wrapping_add(page * PAGE), pages * PAGE) {
                Ok(settled) => all &= settled,
                Err(reason) => {
                    result = Err(reason);
                    return;
                }
            }
        }
        if all {
            // SAFETY: a run in use, and this thread is the only one of the child.
            unsafe { inner.metadata.touched(first, pages) }.fill(1);
        }
    });
    result
}

/// # Safety
/// The range must lie in the heap and in its shadow.
unsafe fn copy(inner: &Inner, shadow: *mut u8, offset: usize, len: usize) -> usize {
    // SAFETY: the caller's promise; the two do not overlap.
    unsafe { ptr::copy_nonoverlapping(inner.base.add(offset), shadow.add(offset), len) };
    len
}

/// Copies the pages that exist: touching others would make them, twice.
///
/// # Safety
/// The run must lie in the heap and in its shadow.
unsafe fn copy_resident(inner: &Inner, shadow: *mut u8, first: usize, pages: usize) -> usize {
    let start = first * PAGE;
    let mut copied = 0;
    // SAFETY: the caller's promise, for both.
    unsafe {
        resident::each_run(
            inner.base.wrapping_add(start),
            pages * PAGE,
            |offset, len| {
                copied += copy(inner, shadow, start + offset, len);
            },
        );
    }
    copied
}

/// Calls `visit` with first page, length and class (none for blocks of whole pages) of each run in use.
fn each_span(
    arena: &Arena,
    metadata: &Metadata,
    mut visit: impl FnMut(usize, usize, Option<usize>),
) {
    let mut page = 0;
    for chunk in arena.chunks() {
        // A run may reach over from the chunk before.
        page = page.max(chunk.page as usize);
        while page < (chunk.page + chunk.pages) as usize {
            if arena.is_free(page) {
                page += 1;
                continue;
            }
            // SAFETY: a page in use that no run before reaches over starts a run, whose span was
            // written under the arena's lock or its class's, and both are held.
            let span = unsafe { &*metadata.span(page) };
            let class = usize::from(span.class_plus_one).checked_sub(1);
            visit(page, span.pages as usize, class);
            page += (span.pages as usize).max(1);
        }
    }
}

fn each_block(first: usize, class: usize, mut visit: impl FnMut(usize)) {
    let units = SIZES[class] as usize / UNIT;
    for block in 0..usize::from(super::classes::SPAN_BLOCKS[class]) {
        visit(first * PAGE / UNIT + block * units);
    }
}

/// In the child: blocks in the caches of threads that it does not have are free again, and the
/// caches are to be used again.
fn reclaim_lost_caches(inner: &'static Inner) {
    let slot = thread_slot::get();
    let mine = if slot.addr() > NO_CACHE.addr() {
        slot.cast::<Cache>()
    } else {
        ptr::null_mut()
    };
    // SAFETY: the list's lock guards `held`; all locks are held by this thread, the child's only one.
    let Some(held) = (unsafe { &mut *inner.held.get() }) else {
        return;
    };
    let Held {
        classes,
        arena,
        caches,
    } = held;
    let mut lost = false;
    let mut at = core::mem::replace(&mut caches.live, ptr::null_mut());
    while !at.is_null() {
        // SAFETY: the list holds whole caches; those of other threads are nobody's now.
        unsafe {
            let next = (*at).next;
            let list = if at == mine {
                &mut caches.live
            } else {
                &mut caches.spare
            };
            if at != mine {
                (*at).forget();
                inner.owners.set_alive((*at).owner, false);
                lost = true;
            }
            (*at).next = *list;
            *list = at;
            at = next;
        }
    }
    if !lost {
        return;
    }
    classes.iter_mut().for_each(|list| list.clear());
    let mut dead_runs = DeadRuns::default();
    each_span(arena, &inner.metadata, |first, pages, class| match class {
        Some(class) => classes[class].relist(&inner.metadata, first, |unit| {
            // SAFETY: this thread's own cache.
            !mine.is_null() && unsafe { (*mine).holds(class, unit) }
        }),
        // Another thread was giving this run up when the fork came. It was wiped before it was marked
        // free, and is zero here: not copied, or copied on write as of the fork.
        // SAFETY: a unit in use.
        None if unsafe { inner.metadata.state(first * PAGE / UNIT) } != PAGES => {
            dead_runs.push(first, pages)
        }
        None => {}
    });
    dead_runs.each(|first, pages| arena.give(first, pages));
}

/// A few runs to be given back after the walk that found them; more than fit are lost to the child.
#[derive(Default)]
struct DeadRuns {
    runs: [(usize, usize); 16],
    len: usize,
}

impl DeadRuns {
    fn push(&mut self, first: usize, pages: usize) {
        if let Some(place) = self.runs.get_mut(self.len) {
            *place = (first, pages);
            self.len += 1;
        }
    }

    fn each(&self, mut act: impl FnMut(usize, usize)) {
        self.runs[..self.len]
            .iter()
            .for_each(|&(first, pages)| act(first, pages));
    }
}
