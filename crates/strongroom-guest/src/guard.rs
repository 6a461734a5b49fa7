//! Guards: while one lives, its pages stay shared.

use crate::region::touched;
use crate::{Error, Futex, GuestRegion, record};
use core::ops::Range;
use std::rc::Rc;
use strongroom_core::page::{self, SlotGuard};

/// Shared pages that stay shared while it lives, in its thread. Clones hold the same pages, at next to no cost.
#[derive(Clone, Debug)]
pub struct Guard<'r>(Kind<'r>);

/// Shared pages that stay shared while it lives, wherever it goes: it is counted at the pages.
pub type CountedGuard<'r> = page::Guard<'r, Futex>;

#[derive(Clone, Debug)]
enum Kind<'r> {
    Slot(SlotGuard<'r>),
    /// Where the thread has no slot for it.
    Counted(Rc<CountedGuard<'r>>),
}

impl GuestRegion {
    /// Holds the pages that bytes lie in: they stay shared until the guard and its clones are dropped.
    ///
    /// Three plain stores, and a load a page; never waits. A thread has slots for a few guards at once. Beyond
    /// those, or without membarrier(2), it is a [counted](Self::counted_guard) one.
    ///
    /// # Errors
    /// The first page that is not shared, or past the end.
    #[inline]
    pub fn guard(&self, bytes: Range<usize>) -> Result<Guard<'_>, Error> {
        let pages = touched(&bytes);
        if let Some(own) = record::own()
            && let Some(guard) = self.states().guard_in(own, pages.clone())?
        {
            return Ok(Guard(Kind::Slot(guard)));
        }
        self.counted(pages)
    }

    /// The same for a guard that may go to another thread: one atomic operation a page to take it, and one to
    /// drop it.
    ///
    /// # Errors
    /// As [`guard`](Self::guard).
    pub fn counted_guard(&self, bytes: Range<usize>) -> Result<CountedGuard<'_>, Error> {
        Ok(self.states().guard(touched(&bytes))?)
    }

    #[cold]
    fn counted(&self, pages: Range<usize>) -> Result<Guard<'_>, Error> {
        let guard = self.states().guard(pages)?;
        Ok(Guard(Kind::Counted(Rc::new(guard))))
    }
}

impl Guard<'_> {
    /// Its pages, of the region that it was taken from.
    pub(crate) fn pages(&self, region: &GuestRegion) -> Range<usize> {
        match &self.0 {
            Kind::Slot(guard) => region.states().held_by(guard),
            Kind::Counted(guard) => guard.pages(),
        }
    }
}
