//! Handing over: a child is given by its parent what it cannot see of it.
//!
//! The kernel driver's memory is in one address space and in no other. So while a fork goes on, parent
//! and child share a window of memfd_secret memory, as secret as what passes through it. The child names
//! a range, the parent copies it into the window, and the child copies it on to memory of its own.

use crate::keeper::{SECRETMEM, refusal};
use crate::wipe::wipe;
use core::ops::Range;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use strongroom_core::Reason;
use strongroom_sys::memory::{self, Advice, Place};
use strongroom_sys::{Errno, PAGE, process, wait};

/// A page that parent and child share while the child makes its copy.
#[repr(C)]
pub(super) struct Progress {
    /// 0 while the child works by itself, or one of the states below.
    pub(super) state: AtomicU32,
    /// Why the child failed.
    pub(super) errno: AtomicI32,
    /// What the child asks for: an address of the parent's.
    from: AtomicUsize,
    /// How much, in bytes.
    len: AtomicUsize,
}

/// It has its memory.
pub(super) const DONE: u32 = 1;
/// It cannot have it, and is gone.
pub(super) const FAILED: u32 = 2;
/// It waits for what it asked for.
pub(super) const ASKED: u32 = 3;
/// What it asked for is in the window.
const GIVEN: u32 = 4;
/// What it asked for is zero.
const ZERO: u32 = 5;
/// What it asked for is not to be handed over.
const REFUSED: u32 = 6;

/// How often whoever waits looks whether the other side is still there.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// How long a child waits that cannot see whether its parent is there.
const LONGEST: u32 = 600;

/// Sizes of the window that are tried, in bytes: larger ones take fewer turns.
const SIZES: [usize; 3] = [64 << 10, 16 << 10, PAGE];

/// Memory that both sides see. One a process, made at its first fork that needs it.
#[derive(Clone, Copy)]
pub(super) struct Window {
    start: *mut u8,
    len: usize,
}

// SAFETY: a mapping belongs to no thread; one thread at a time forks.
unsafe impl Send for Window {}

static WINDOW: Mutex<Option<Window>> = Mutex::new(None);

impl Window {
    /// This process's, not yet inherited.
    ///
    /// # Errors
    /// Why there is no memfd_secret memory for it.
    pub(super) fn get() -> Result<Self, Reason> {
        let mut known = WINDOW.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = *known {
            return Ok(window);
        }
        let mut result = Err(Reason::OutOfMemory);
        for len in SIZES {
            result = Self::make(len);
            if !matches!(result, Err(Reason::LockLimit { .. })) {
                break;
            }
        }
        *known = result.ok();
        result
    }

    fn make(len: usize) -> Result<Self, Reason> {
        // SAFETY: a new mapping replaces nothing.
        let start = unsafe { SECRETMEM.map(Place::Anywhere, len) }?;
        if let Err(reason) = SECRETMEM.settle(start, len) {
            // SAFETY: mapped above, and nobody has seen it.
            let _ = unsafe { memory::unmap(start, len) };
            return Err(reason);
        }
        Ok(Self { start, len })
    }

    /// Lets the next child inherit it, or, after the fork, none.
    pub(super) fn share(self, inherit: bool) -> Result<(), Reason> {
        let advice = if inherit {
            Advice::LinuxDoFork
        } else {
            Advice::LinuxDontFork
        };
        // SAFETY: this process's window; the advice changes nothing in it.
        unsafe { memory::advise(self.start, self.len, advice) }
            .map_err(|errno| refusal("madvise", errno, self.len))
    }

    /// In the parent, when the child has all.
    pub(super) fn wipe(self) {
        // SAFETY: this process's window, which no child sees any more, or none that reads it.
        unsafe { wipe(self.start, self.len) };
    }

    /// In the child, when it has all: the window is its parent's.
    pub(super) fn leave(self) {
        *WINDOW.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // SAFETY: inherited, and no longer used.
        let _ = unsafe { memory::unmap(self.start, self.len) };
    }
}

/// The child's side.
pub(super) struct Asking<'a> {
    pub(super) progress: &'a Progress,
    pub(super) window: Option<Window>,
    /// The parent's number, as the parent knows it.
    pub(super) parent: i32,
}

impl Asking<'_> {
    /// Copies `len` bytes from an address of the parent's to one of this process's own, which is zero.
    ///
    /// # Errors
    /// Where the parent is gone, or will not.
    ///
    /// # Safety
    /// That much must be writable there, and nobody else's.
    pub(super) unsafe fn fetch(&self, from: usize, to: *mut u8, len: usize) -> Result<(), Reason> {
        let window = self.window.ok_or(Reason::NotArranged)?;
        for offset in (0..len).step_by(window.len) {
            let part = window.len.min(len - offset);
            if self.ask(from + offset, part)? {
                // SAFETY: the caller's promise; the window is that long, and the parent leaves it
                // alone until it is asked again.
                unsafe { core::ptr::copy_nonoverlapping(window.start, to.add(offset), part) };
            }
        }
        Ok(())
    }

    /// Whether there is anything but zeros.
    fn ask(&self, from: usize, len: usize) -> Result<bool, Reason> {
        let progress = self.progress;
        progress.from.store(from, Ordering::Relaxed);
        progress.len.store(len, Ordering::Relaxed);
        progress.state.store(ASKED, Ordering::Release);
        let _ = wait::wake_all(&progress.state);
        // A process that was cloned for another parent, or into another namespace, does not know it.
        let watched = process::parent_id() == self.parent;
        let mut waited = 0;
        loop {
            match progress.state.load(Ordering::Acquire) {
                GIVEN => return Ok(true),
                ZERO => return Ok(false),
                ASKED => {}
                _ => return Err(Reason::NotArranged),
            }
            if wait::wait(&progress.state, ASKED, PATIENCE) == Err(Errno::TIMEDOUT) {
                waited += 1;
                let gone = if watched {
                    process::parent_id() != self.parent
                } else {
                    waited > LONGEST
                };
                if gone {
                    return Err(Reason::NotArranged);
                }
            }
        }
    }
}

/// The parent's side: answers what the child asked for. `allowed` says whether a range may be handed
/// over, and calls what it is given while it can be read.
pub(super) fn answer(
    progress: &Progress,
    window: Window,
    allowed: impl FnOnce(&Range<usize>, &mut dyn FnMut()) -> bool,
) {
    let from = progress.from.load(Ordering::Relaxed);
    let len = progress.len.load(Ordering::Relaxed);
    let mut answer = REFUSED;
    if let Some(end) = from.checked_add(len).filter(|_| len <= window.len) {
        let mut give = || {
            // SAFETY: `allowed` says that the range can be read; the window is that long. The child
            // waits, so the window is this process's.
            let zero = unsafe {
                core::ptr::copy_nonoverlapping(from as *const u8, window.start, len);
                core::slice::from_raw_parts(window.start, len)
                    .iter()
                    .all(|&byte| byte == 0)
            };
            answer = if zero { ZERO } else { GIVEN };
        };
        if !allowed(&(from..end), &mut give) {
            answer = REFUSED;
        }
    }
    progress.state.store(answer, Ordering::Release);
    let _ = wait::wake_all(&progress.state);
}
