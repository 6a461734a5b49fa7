//! The fork itself: what happens around the system call, on both sides.

use crate::heap::forked::LockedHeaps;
use crate::keeper::{self, refusal};
use crate::ledger::{self, Child, Entry, Holder, Ledger};
use crate::line;
use crate::resident;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
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

/// A page that parent and child share while the child makes its copy.
#[repr(C)]
struct Progress {
    /// 0 while the child copies, [`DONE`] or [`FAILED`] after.
    state: AtomicU32,
    /// Why it failed.
    errno: AtomicI32,
}

const DONE: u32 = 1;
const FAILED: u32 = 2;

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

    /// Whether anything is kept in secret files, which no child inherits by itself.
    pub(super) fn has_secret_files(&self) -> bool {
        self.heaps.any_secret_file()
            || self
                .ledger
                .entries()
                .iter()
                .any(|e| e.holder == Holder::Secretmem)
    }

    /// Lets the child inherit what it will copy from, or, after the fork, no longer.
    fn share_with_child(&self, inherit: bool) -> Result<(), Reason> {
        self.heaps.share_with_child(inherit)?;
        for entry in self.ledger.entries() {
            let advice = match (entry.holder, entry.child) {
                (Holder::Secretmem, Child::Copy) if inherit => Advice::LinuxDoFork,
                (Holder::Secretmem, Child::Copy) => Advice::LinuxDontFork,
                // Locked memory keeps the advice for good: nobody else sets it on such a range.
                (Holder::Locked, Child::Zeros) if inherit => Advice::LinuxWipeOnFork,
                (Holder::Locked, Child::Nothing) if inherit => Advice::LinuxDontFork,
                _ => continue,
            };
            // SAFETY: a range of the ledger; the advice changes nothing in this process.
            unsafe { memory::advise(entry.start as *mut u8, entry.len(), advice) }
                .map_err(|errno| refusal("madvise", errno, 0))?;
        }
        Ok(())
    }

    /// In the child. Returns the bytes copied.
    pub(super) fn rebuild_in_child(&self) -> Result<usize, Reason> {
        // What is not inherited leaves holes. Reserved, they are not where the kernel puts a mapping
        // that is to be moved there in the end.
        self.heaps.reserve_holes()?;
        let zeros = |e: &&Entry| e.holder == Holder::Secretmem && e.child == Child::Zeros;
        for entry in self.ledger.entries().iter().filter(zeros) {
            // SAFETY: nothing of this process's is in a range that it did not inherit.
            unsafe { memory::reserve(Place::Over(entry.start as *mut u8), entry.len()) }
                .map_err(|errno| refusal("mmap", errno, entry.len()))?;
        }
        let closed = |e: &&Entry| e.holder == Holder::Heap;
        for entry in self.ledger.entries().iter().filter(closed) {
            // SAFETY: pages of a heap, inherited, to be copied from.
            let _ = unsafe { memory::protect(entry.start as *mut u8, entry.len(), READ) };
        }
        let mut copied = self.heaps.rebuild_in_child()?;
        for entry in self.ledger.entries() {
            copied += match (entry.holder, entry.child) {
                (Holder::Heap, _) => {
                    // SAFETY: pages of a heap, new ones of this process.
                    unsafe { set_access(entry, entry.start as *mut u8) }?;
                    0
                }
                (_, Child::Nothing) => 0,
                (Holder::Secretmem, child) => replace(entry, child == Child::Copy)?,
                (Holder::Locked, _) => {
                    // SAFETY: a range of the ledger that the locked keeper holds.
                    unsafe {
                        keeper::LOCKED.restore_in_child(entry.start as *mut u8, entry.len())
                    }?;
                    0
                }
            };
        }
        Ok(copied)
    }
}

/// Replaces an inherited secret range by one of the child's own; with `copy`, with its contents.
fn replace(entry: &Entry, copy: bool) -> Result<usize, Reason> {
    let (start, len) = (entry.start as *mut u8, entry.len());
    // SAFETY: a new mapping replaces nothing; the ledger's range is inherited or, without
    // `copy`, absent from this process, whose only thread this is.
    unsafe {
        if !copy {
            // Nothing was inherited here; reserved, the hole is not where the new mapping is made
            // before it is moved into place.
            memory::reserve(Place::Over(start), len)
                .map_err(|errno| refusal("mmap", errno, len))?;
            keeper::SECRETMEM.map(Place::Over(start), len)?;
            keeper::SECRETMEM.settle(start, len)?;
            set_access(entry, start)?;
            return Ok(0);
        }
        let new = keeper::SECRETMEM.map(Place::Anywhere, len)?;
        keeper::SECRETMEM.settle(new, len)?;
        if entry.access & READ == 0 {
            memory::protect(start, len, READ).map_err(|errno| refusal("mprotect", errno, len))?;
        }
        let mut copied = 0;
        resident::each_run(start, len, |offset, len| {
            core::ptr::copy_nonoverlapping(start.add(offset), new.add(offset), len);
            copied += len;
        });
        set_access(entry, new)?;
        memory::move_over(new, len, start).map_err(|errno| refusal("mremap", errno, len))?;
        Ok(copied)
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
    if still.share_with_child(true).is_err() {
        let _ = still.share_with_child(false);
        unmap();
        return refuse(Errno::NOMEM);
    }
    let child = call();
    if child == 0 {
        match still.rebuild_in_child() {
            Ok(copied) => {
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
    let _ = still.share_with_child(false);
    drop(still);
    let result = if child > 0 {
        await_child(progress, child as i32)
    } else {
        Ok(())
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

/// The child has no memory to go on with: it tells its parent and ends.
fn fail_in_child(progress: &Progress, reason: Reason) -> ! {
    let errno = match reason {
        Reason::LockLimit { .. } | Reason::TooManyFiles => Errno::AGAIN,
        _ => Errno::NOMEM,
    };
    let what = format_args!("fork fails: the child cannot have its own secret memory");
    line::complain_of(what, reason);
    progress
        .errno
        .store(errno.raw_os_error(), Ordering::Relaxed);
    progress.state.store(FAILED, Ordering::Release);
    let _ = wait::wake_all(&progress.state);
    process::exit_now(125)
}

/// Waits until the child has its memory; an error says that it failed to get it.
fn await_child(progress: &Progress, child: i32) -> Result<(), Errno> {
    loop {
        match progress.state.load(Ordering::Acquire) {
            DONE => return Ok(()),
            FAILED => {
                return Err(Errno::from_raw_os_error(
                    progress.errno.load(Ordering::Relaxed),
                ));
            }
            _ => {}
        }
        // A child that was killed meanwhile says nothing more; its parent gets to reap it.
        let waited = wait::wait(&progress.state, 0, Duration::from_millis(100));
        let gone = waited == Err(Errno::TIMEDOUT) && process::has_ended(child).unwrap_or(true);
        if gone && progress.state.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
    }
}
