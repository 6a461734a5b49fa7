//! The keeper of locked memory: ordinary pages that are never swapped or dumped.

use super::{Inheritance, Keeper, refusal};
use strongroom_core::{Protections, Reason};
use strongroom_sys::Errno;
use strongroom_sys::maps::Mapping;
use strongroom_sys::memory::{self, Advice, Place};

/// mlock2(2) on anonymous memory.
pub(super) struct Locked;

impl Keeper for Locked {
    fn name(&self) -> &'static str {
        "locked"
    }

    fn offers(&self) -> Protections {
        strongroom_core::Level::Locked.protections()
    }

    unsafe fn map(&self, place: Place, len: usize) -> Result<*mut u8, Reason> {
        // SAFETY: the caller's promise about `place`.
        let start = unsafe { memory::map_private(place, len) }
            .map_err(|errno| refusal("mmap", errno, len))?;
        // SAFETY: the mapping was made above and nobody else knows it.
        let kept = unsafe { lock(start, len) }.and_then(|()| {
            // SAFETY: as above.
            unsafe { memory::advise(start, len, Advice::LinuxDontDump) }
                .map_err(|errno| refusal("madvise", errno, len))
        });
        if let Err(reason) = kept {
            // SAFETY: as above.
            unsafe { super::take_back(place, start, len) };
            return Err(reason);
        }
        Ok(start)
    }

    /// Charged when it is mapped.
    fn settle(&self, _start: *mut u8, _len: usize) -> Result<bool, Reason> {
        Ok(false)
    }

    fn inheritance(&self) -> Inheritance {
        Inheritance::CopyOnWrite
    }

    fn made(&self, mapping: &Mapping<'_>) -> bool {
        !mapping.shared
    }

    unsafe fn restore_in_child(&self, start: *mut u8, len: usize) -> Result<(), Reason> {
        // mlock(2): locks are not inherited by a child of fork.
        // SAFETY: the caller's promise.
        unsafe { lock(start, len) }
    }
}

/// Locks without touching: what is touched later is locked then, and nothing swaps before.
///
/// # Safety
/// The range must be the caller's.
unsafe fn lock(start: *mut u8, len: usize) -> Result<(), Reason> {
    // SAFETY: the caller's promise.
    unsafe { memory::lock_on_fault(start, len) }.map_err(|errno| match errno {
        // mlock(2): EPERM is a limit of 0, ENOMEM the limit passed, EAGAIN pages that could not be locked.
        Errno::PERM | Errno::NOMEM => refusal("mlock", Errno::AGAIN, len),
        errno => refusal("mlock", errno, len),
    })
}
