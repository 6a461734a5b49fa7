//! The fork itself: what happens around the system call, on both sides.

use super::handover::{self, ASKED, Asking, DONE, FAILED, PATIENCE, Progress, Window};
use crate::heap::forked::{Fetch, LockedHeaps};
use crate::keeper::{self, Inheritance, refusal};
use crate::ledger::{self, Child, Entry, Holder, Ledger};
use crate::line;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::MutexGuard;
use strongroom_core::Reason;
use strongroom_sys::memory::{self, Advice, Place, READ, WRITE};
use strongroom_sys::{Errno, PAGE, process, wait};

/// Forks that this process made with secret memory to copy, and the bytes copied into it
/// when it was itself such a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Children that got their own secret memory.
    pub forks: u64,
    /// Bytes that this process got from its parent.
    pub inherited: u64,
}

static FORKS: AtomicU64 = AtomicU64::new(0);
static INHERITED: AtomicU64 = AtomicU64::new(0);

/// The counts so far.
pub fn tally() -> Tally {
    Tally {
        forks: FORKS.load(Ordering::Relaxed),
        inherited: INHERITED.load(Ordering::Relaxed),
    }
}

/// All that a fork holds still.
pub(super) struct Still {
    // Dropped in this order: the ledger's lock was taken last.
    ledger: MutexGuard<'static, Ledger>,
    heaps: LockedHeaps,
}

impl Still {
    pub(super) fn lock() -> Self {
        let heaps = LockedHeaps::lock();
        Self {
            ledger: ledger::open(),
            heaps,
        }
    }

    /// Brings the ledger up to date with what libc unmapped behind its back. Without /proc, in a
    /// bare chroot, it stays as it is: a range that is gone then fails the fork.
    fn reconcile(&mut self) {
        let _ = self.ledger.reconcile();
    }

    pub(super) fn denied(&self) -> bool {
        self.heaps.any_denies() || self.ledger.entries().iter().any(|e| e.child == Child::Deny)
    }

    /// Whether anything is kept that no child inherits by itself.
    pub(super) fn has_secrets(&self) -> bool {
        let secret = |entry: &Entry| {
            let inheritance = entry.holder.inheritance();
            inheritance.is_some_and(|inheritance| inheritance != Inheritance::CopyOnWrite)
        };
        self.heaps.any_secret() || self.ledger.entries().iter().any(secret)
    }

    /// Whether a child is to have contents that it cannot see.
    fn hands_over(&self) -> bool {
        self.heaps.any_to_hand_over() || self.ledger.entries().iter().any(is_handed_over)
    }

    /// Calls `act` while the range can be read, if it is one that is to be handed over.
    fn hand_over(&self, range: &Range<usize>, act: &mut dyn FnMut()) -> bool {
        let entries = self.ledger.touching(range);
        let own = |entry: &Entry| {
            is_handed_over(entry) && entry.start <= range.start && range.end <= entry.end
        };
        if !entries.iter().any(own) && !self.heaps.hand_over(range) {
            return false;
        }
        let closed = || entries.iter().filter(|entry| entry.access & READ == 0);
        for entry in closed() {
            // SAFETY: a range of the ledger, opened for reading for this moment.
            if unsafe { memory::protect(entry.start as *mut u8, entry.len(), READ) }.is_err() {
                return false;
            }
        }
        act();
        for entry in closed() {
            // SAFETY: as above; as its user set it.
            let _ = unsafe { memory::protect(entry.start as *mut u8, entry.len(), entry.access) };
        }
        true
    }

    /// Lets the child inherit what it will copy from, or, after the fork, no longer.
    fn share_with_child(&self, inherit: bool) -> Result<(), Reason> {
        self.heaps.share_with_child(inherit)?;
        for entry in self.ledger.entries() {
            let Some(inheritance) = entry.holder.inheritance() else {
                continue;
            };
            let advice = match (inheritance, entry.child) {
                (Inheritance::Shared, Child::Copy) if inherit => Advice::LinuxDoFork,
                (Inheritance::Shared, Child::Copy) => Advice::LinuxDontFork,
                // Locked memory keeps the advice for good: nobody else sets it on such a range.
                (Inheritance::CopyOnWrite, Child::Zeros) if inherit => Advice::LinuxWipeOnFork,
                (Inheritance::CopyOnWrite, Child::Nothing) if inherit => Advice::LinuxDontFork,
                _ => continue,
            };
            // SAFETY: a range of the ledger; the advice changes nothing in this process.
            unsafe { memory::advise(entry.start as *mut u8, entry.len(), advice) }
                .map_err(|errno| refusal("madvise", errno, 0))?;
        }
        Ok(())
    }

    /// In the child, where there is nothing but what it inherited.
    pub(super) fn rebuild_by_itself(&mut self) -> Result<usize, Reason> {
        self.rebuild_in_child(&|_, _, _| Err(Reason::NotArranged))
    }

    /// In the child. Returns the bytes copied.
    fn rebuild_in_child(&mut self, fetch: Fetch<'_>) -> Result<usize, Reason> {
        // What is not inherited leaves holes. Reserved, they are not where the kernel puts a mapping
        // that is to be moved there in the end.
        self.heaps.reserve_holes()?;
        for entry in self.ledger.entries().iter().filter(|entry| is_hole(entry)) {
            // SAFETY: nothing of this process's is in a range that it did not inherit.
            unsafe { memory::reserve(Place::Over(entry.start as *mut u8), entry.len()) }
                .map_err(|errno| refusal("mmap", errno, entry.len()))?;
        }
        let of_heap = |e: &&Entry| matches!(e.holder, Holder::Heap(_));
        for entry in self.ledger.entries().iter().filter(of_heap) {
            // SAFETY: pages of a heap, inherited, to be copied from.
            let _ = unsafe { memory::protect(entry.start as *mut u8, entry.len(), READ) };
        }
        let mut copied = self.heaps.rebuild_in_child(fetch)?;
        for index in 0..self.ledger.entries().len() {
            let entry = self.ledger.entries()[index];
            copied += match (entry.holder.inheritance(), entry.child) {
                (None, _) => {
                    // SAFETY: pages of a heap, new ones of this process.
                    unsafe { set_access(&entry, entry.start as *mut u8) }?;
                    0
                }
                (_, Child::Nothing) => 0,
                (Some(Inheritance::CopyOnWrite), _) => {
                    // SAFETY: a range of the ledger that this keeper holds.
                    unsafe {
                        let keeper = entry.holder.keeper();
                        keeper.restore_in_child(entry.start as *mut u8, entry.len())
                    }?;
                    0
                }
                (Some(_), _) => {
                    let (copied, keeper) = replace(&entry, fetch)?;
                    // The range is the entry's own: nothing is split, and the table stays as long.
                    self.ledger.update(&(entry.start..entry.end), |entry| {
                        entry.holder = Holder::Keeper(keeper);
                    })?;
                    copied
                }
            };
        }
        Ok(copied)
    }
}

/// Whether the child is to have the range's contents and does not see them.
fn is_handed_over(entry: &Entry) -> bool {
    entry.holder.inheritance() == Some(Inheritance::Nothing) && entry.child == Child::Copy
}

/// Whether the child has nothing where it is to have pages.
fn is_hole(entry: &Entry) -> bool {
    match entry.holder.inheritance() {
        Some(Inheritance::Shared) => entry.child == Child::Zeros,
        Some(Inheritance::Nothing) => matches!(entry.child, Child::Zeros | Child::Copy),
        Some(Inheritance::CopyOnWrite) | None => false,
    }
}

/// Gives the child a range of its own where it has a hole or its parent's; where it is to be a copy,
/// with the contents. Returns how much was copied, and who keeps the new range.
fn replace(
    entry: &Entry,
    fetch: Fetch<'_>,
) -> Result<(usize, &'static dyn keeper::Keeper), Reason> {
    let (start, len) = (entry.start as *mut u8, entry.len());
    let keeper = entry.holder.keeper();
    // SAFETY: a new mapping replaces nothing; the ledger's range is inherited, or a hole that was
    // reserved, in this process, whose only thread this is.
    unsafe {
        if is_hole(entry) {
            let (_, keeper) = keeper::map_or_next(keeper, Place::Over(start), len)?;
            keeper.settle(start, len)?;
            let mut copied = 0;
            if entry.child == Child::Copy {
                fetch(entry.start, start, len)?;
                copied = len;
            }
            set_access(entry, start)?;
            return Ok((copied, keeper));
        }
        let (new, new_keeper) = keeper::map_or_next(keeper, Place::Anywhere, len)?;
        new_keeper.settle(new, len)?;
        if entry.access & READ == 0 {
            memory::protect(start, len, READ).map_err(|errno| refusal("mprotect", errno, len))?;
        }
        let mut copied = 0;
        keeper.each_run(start, len, |offset, len| {
            core::ptr::copy_nonoverlapping(start.add(offset), new.add(offset), len);
            copied += len;
        });
        set_access(entry, new)?;
        memory::move_over(new, len, start).map_err(|errno| refusal("mremap", errno, len))?;
        Ok((copied, new_keeper))
    }
}

/// Gives a new mapping the access that the entry's user set.
///
/// # Safety
/// `new` must be a mapping of the entry's length that nobody else uses.
unsafe fn set_access(entry: &Entry, new: *mut u8) -> Result<(), Reason> {
    if entry.access == READ | WRITE {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe { memory::protect(new, entry.len(), entry.access) }
        .map_err(|errno| refusal("mprotect", errno, entry.len()))
}

/// Forks by `call` so that the child has its own secret memory before either side goes on.
///
/// `call` makes the system call, or a libc function that makes it and touches no heap, and
/// returns as the call does: the child's id, 0 in the child, a negated errno. All signals
/// must be blocked. Returns the same; -EPERM where a policy denies forks, -EAGAIN or
/// -ENOMEM where the child could not get its memory (and is gone).
pub fn forked(call: impl FnOnce() -> isize) -> isize {
    let refuse = |errno: Errno| -(errno.raw_os_error() as isize);
    let mut still = Still::lock();
    if still.denied() {
        process::complain(b"strongroom: fork is denied (--fork deny)\n");
        return refuse(Errno::PERM);
    }
    let Ok(page) = memory::map_shared_page() else {
        return refuse(Errno::NOMEM);
    };
    // SAFETY: a fresh zeroed page, unmapped below by each side for itself.
    let progress = unsafe { &*page.cast::<Progress>() };
    let unmap = || {
        // SAFETY: each side's own mapping, which it no longer uses.
        let _ = unsafe { memory::unmap(page, PAGE) };
    };
    still.reconcile();
    let window = match still.hands_over().then(Window::get).transpose() {
        Ok(window) => window,
        Err(reason) => {
            unmap();
            complain(reason);
            return refuse(errno_of(reason));
        }
    };
    let share = |still: &Still, inherit| {
        still.share_with_child(inherit)?;
        window.map_or(Ok(()), |window| window.share(inherit))
    };
    if share(&still, true).is_err() {
        let _ = share(&still, false);
        unmap();
        return refuse(Errno::NOMEM);
    }
    let parent = process::id();
    let child = call();
    if child == 0 {
        let asking = Asking {
            progress,
            window,
            parent,
        };
        // SAFETY: the rebuilding has mapped what it fetches for.
        let fetch = |from, to, len| unsafe { asking.fetch(from, to, len) };
        match still.rebuild_in_child(&fetch) {
            Ok(copied) => {
                if let Some(window) = window {
                    window.leave();
                }
                FORKS.store(0, Ordering::Relaxed);
                INHERITED.store(copied as u64, Ordering::Relaxed);
                progress.state.store(DONE, Ordering::Release);
                let _ = wait::wake_all(&progress.state);
                unmap();
            }
            Err(reason) => fail_in_child(progress, reason),
        }
        return 0;
    }
    // A failure to exclude the ranges again only means that a fork by other means inherits them.
    let _ = share(&still, false);
    let result = match window {
        _ if child <= 0 => Ok(()),
        // What is handed over must stay where it is until the child has it.
        Some(window) => {
            let result = await_child(progress, child as i32, || {
                let allowed =
                    |range: &Range<usize>, act: &mut dyn FnMut()| still.hand_over(range, act);
                handover::answer(progress, window, allowed);
            });
            window.wipe();
            result
        }
        None => {
            drop(still);
            await_child(progress, child as i32, || {})
        }
    };
    unmap();
    match result {
        Ok(()) => {
            if child > 0 {
                FORKS.fetch_add(1, Ordering::Relaxed);
            }
            child
        }
        Err(errno) => {
            process::reap(child as i32);
            refuse(errno)
        }
    }
}

fn complain(reason: Reason) {
    let what = format_args!("fork fails: the child cannot have its own secret memory");
    line::complain_of(what, reason);
}

/// As fork(2) says it.
fn errno_of(reason: Reason) -> Errno {
    match reason {
        Reason::LockLimit { .. } | Reason::TooManyFiles | Reason::PoolLimit { .. } => Errno::AGAIN,
        _ => Errno::NOMEM,
    }
}

/// The child has no memory to go on with: it tells its parent and ends.
fn fail_in_child(progress: &Progress, reason: Reason) -> ! {
    complain(reason);
    progress
        .errno
        .store(errno_of(reason).raw_os_error(), Ordering::Relaxed);
    progress.state.store(FAILED, Ordering::Release);
    let _ = wait::wake_all(&progress.state);
    process::exit_now(125)
}

/// Waits until the child has its memory, and answers what it asks for; an error says that it failed
/// to get it.
fn await_child(progress: &Progress, child: i32, answer: impl Fn()) -> Result<(), Errno> {
    loop {
        let state = progress.state.load(Ordering::Acquire);
        match state {
            DONE => return Ok(()),
            FAILED => {
                return Err(Errno::from_raw_os_error(
                    progress.errno.load(Ordering::Relaxed),
                ));
            }
            ASKED => {
                answer();
                continue;
            }
            _ => {}
        }
        // A child that was killed meanwhile says nothing more; its parent gets to reap it.
        let waited = wait::wait(&progress.state, state, PATIENCE);
        let gone = waited == Err(Errno::TIMEDOUT) && process::has_ended(child).unwrap_or(true);
        if gone && progress.state.load(Ordering::Acquire) == state {
            return Ok(());
        }
    }
}
