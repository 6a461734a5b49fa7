//! Guards: while one lives, its pages stay shared.

use crate::region::touched;
use crate::{Error, Futex, GuestRegion, PAGE, record};
use core::ops::Range;
use strongroom_core::page::{self, Refused, SlotGuard, Why};

/// Shared pages that stay shared while it lives, in its thread. Clones hold the same pages, at next to no cost.
pub type Guard<'r> = SlotGuard<'r>;

/// Shared pages that stay shared while it lives, wherever it goes: it is counted at the pages.
pub type CountedGuard<'r> = page::Guard<'r, Futex>;

impl GuestRegion {
    /// Holds the pages that bytes lie in: they stay shared until the guard and its clones are dropped.
    ///
    /// Three plain stores, and a load a page; never waits.
    ///
    /// # Errors
    /// The first page that is not shared, or past the end.
    #[inline]
    pub fn guard(&self, bytes: Range<usize>) -> Result<Guard<'_>, Error> {
        Ok(record::guard(&self.states(), touched(&bytes))?)
    }

    /// The same for a guard that may go to another thread: one atomic operation a page to take it, and one to
    /// drop it.
    ///
    /// # Errors
    /// As [`guard`](Self::guard).
    pub fn counted_guard(&self, bytes: Range<usize>) -> Result<CountedGuard<'_>, Error> {
        Ok(self.states().guard(touched(&bytes))?)
    }

    /// A guard on the pages of bytes.
    #[inline]
    pub(crate) fn held(&self, start: usize, end: usize) -> Result<Guard<'_>, Error> {
        match self.hold(start, end) {
            Some(guard) => Ok(guard),
            None => self.hold_anew(start..end),
        }
    }

    /// The same; `None` where they are not to be had. It is small where it is called, and its answer fits
    /// into a register, so that an access around it can be put together without a detour over the stack.
    #[inline(never)]
    pub(crate) fn hold(&self, start: usize, end: usize) -> Option<Guard<'_>> {
        if start > end || end > self.len() {
            return None;
        }
        record::guard(&self.states(), touched(&(start..end))).ok()
    }

    /// The same once more. It says why.
    #[cold]
    #[inline(never)]
    pub(crate) fn hold_anew(&self, bytes: Range<usize>) -> Result<Guard<'_>, Error> {
        if bytes.start > bytes.end || bytes.end > self.len() {
            let pages = self.len() / PAGE;
            let page = bytes.end / PAGE;
            let why = Why::OutOfRange { pages };
            return Err(Error::Refused(Refused { page, why }));
        }
        self.guard(bytes)
    }
}
