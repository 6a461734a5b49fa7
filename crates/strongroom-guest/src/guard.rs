//! Guards: while one lives, its pages stay shared.

use crate::region::touched;
use crate::{Error, Futex, GuestRegion, record};
use core::ops::Range;
use strongroom_core::page::{self, SlotGuard};

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
}
