//! The pages of one object: runs of neighbours in the pool, in the object's order.

use crate::array::Array;
use crate::errno::Errno;
use crate::shim::{sr_alloc, sr_free};
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first one's number in the object.
    pub page: usize,
    /// The first one's page frame number.
    pub pfn: u64,
    /// How many.
    pub pages: usize,
}

impl Run {
    /// The number after the last one's in the object.
    pub fn end(&self) -> usize {
        self.page.saturating_add(self.pages)
    }

    /// The part of it from `first` up to `end`, numbers in the object.
    fn part(&self, first: usize, end: usize) -> Option<Run> {
        let from = first.max(self.page);
        let to = end.min(self.end());
        (from < to).then(|| Run {
            page: from,
            pfn: self.pfn.saturating_add((from - self.page) as u64),
            pages: to - from,
        })
    }
}

/// All runs of an object. They never change, so that faults look them up without a lock; which of them are
/// still held, the mappings say ([`crate::coverage`]).
#[derive(Debug, Default)]
pub struct Runs {
    runs: Array<Run>,
    /// Pages that were not given back yet.
    held: AtomicUsize,
}

impl Runs {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            runs: Array::new(),
            held: AtomicUsize::new(0),
        }
    }

    /// The object's pages so far.
    pub fn pages(&self) -> usize {
        self.runs.last().map_or(0, Run::end)
    }

    /// Appends pages; neighbours of the last run join it. O(1) amortized.
    ///
    /// # Errors
    /// `Nomem`.
    pub fn append(&mut self, pfn: u64, pages: usize) -> Result<(), Errno> {
        let page = self.pages();
        match self.runs.last_mut() {
            Some(last) if last.pfn.saturating_add(last.pages as u64) == pfn => {
                last.pages = last.pages.saturating_add(pages);
            }
            _ => self.runs.push(Run { page, pfn, pages })?,
        }
        self.held.fetch_add(pages, Ordering::Relaxed);
        Ok(())
    }

    /// The run that holds a page of the object. O(log runs).
    pub fn at(&self, page: usize) -> Option<Run> {
        let after = self.runs.partition_point(|run| run.page <= page);
        let run = self.runs.get(after.checked_sub(1)?)?;
        (page < run.end()).then_some(*run)
    }

    /// The runs' parts between two pages of the object, in order. O(log runs) and what it gives.
    pub fn between(&self, first: usize, end: usize) -> impl Iterator<Item = Run> + '_ {
        let from = self.runs.partition_point(|run| run.end() <= first);
        self.runs
            .iter()
            .skip(from)
            .map_while(move |run| run.part(first, end))
    }

    /// Pages not given back yet.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts pages as given back; how many are left.
    pub fn let_go(&self, pages: usize) -> usize {
        self.held
            .fetch_sub(pages, Ordering::Relaxed)
            .saturating_sub(pages)
    }
}

/// Runs at a place of their own, which stays where it is: faults look there while the object changes.
#[derive(Debug)]
pub struct Placed(NonNull<Runs>);

// SAFETY: it owns the runs, as a Box does.
unsafe impl Send for Placed {}

impl Placed {
    /// Puts them there.
    ///
    /// # Errors
    /// `Nomem`, with the runs.
    pub fn new(runs: Runs) -> Result<Self, (Errno, Runs)> {
        // SAFETY: any size may be asked for.
        let memory = unsafe { sr_alloc(size_of::<Runs>()) }.cast::<Runs>();
        let Some(place) = NonNull::new(memory) else {
            return Err((Errno::Nomem, runs));
        };
        // SAFETY: it is as large as asked, aligned for a u64 and so for Runs, and ours.
        unsafe { place.write(runs) };
        Ok(Self(place))
    }

    /// Where they are, until this is dropped.
    pub fn as_ptr(&self) -> *const Runs {
        self.0.as_ptr()
    }
}

impl Deref for Placed {
    type Target = Runs;

    fn deref(&self) -> &Runs {
        // SAFETY: `new` put them there, and nobody has a mutable reference to them.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // SAFETY: `new` wrote them into memory of `sr_alloc`; both go once.
        unsafe {
            self.0.drop_in_place();
            sr_free(self.0.as_ptr().cast());
        }
    }
}
