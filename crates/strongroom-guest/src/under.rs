//! Slices under a guard that somebody has: whatever is done with them, no other guard is taken.

use crate::dirty::Dirty;
use crate::{CountedGuard, Error, Guard, GuestRegion, PAGE};
use core::ops::Range;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

/// A guard of either kind.
pub trait Holds: of::Pages {}

impl Holds for Guard<'_> {}
impl Holds for CountedGuard<'_> {}

/// Nobody else's type is a guard.
mod of {
    use super::{CountedGuard, Guard, GuestRegion, Range};

    pub trait Pages {
        /// The pages of a region that it holds, which is none of another region's.
        fn pages(&self, region: &GuestRegion) -> Range<usize>;
    }

    impl Pages for Guard<'_> {
        #[inline]
        fn pages(&self, region: &GuestRegion) -> Range<usize> {
            region.states().held_by(self)
        }
    }

    impl Pages for CountedGuard<'_> {
        #[inline]
        fn pages(&self, region: &GuestRegion) -> Range<usize> {
            region.states().counted_by(self)
        }
    }
}

impl GuestRegion {
    /// Bytes of pages that a guard holds. They may be touched for as long as the guard is borrowed, at the cost of any
    /// memory: no access takes a guard, and neither does what is cut from the slice. O(1).
    ///
    /// ```
    /// use strongroom_guest::{GuestRegion, PAGE, backing::Plain};
    /// use vm_memory::Bytes;
    ///
    /// let region = GuestRegion::new(0, Plain::new(4 * PAGE)?)?;
    /// let guard = region.guard(0..2 * PAGE)?;
    /// let buffer = region.slice_under(&guard, 100..5000)?;
    /// buffer.write_obj(7_u32, 0)?;
    /// buffer.subslice(8, 64)?.write_slice(&[1; 64], 0)?;
    /// assert!(region.slice_under(&guard, 0..3 * PAGE).is_err());
    /// drop(guard);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The guard outlives the slice and all that is cut from it:
    ///
    /// ```compile_fail,E0505
    /// use strongroom_guest::{GuestRegion, PAGE, backing::Plain};
    /// use vm_memory::Bytes;
    ///
    /// let region = GuestRegion::new(0, Plain::new(4 * PAGE)?)?;
    /// let guard = region.guard(0..2 * PAGE)?;
    /// let part = region.slice_under(&guard, 100..5000)?.subslice(8, 64)?;
    /// drop(guard);
    /// part.write_slice(&[1; 64], 0)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotHeld`] where a byte is of another page.
    #[inline]
    pub fn slice_under<'g>(
        &'g self,
        guard: &'g impl Holds,
        bytes: Range<usize>,
    ) -> Result<VolatileSlice<'g, Marks<'g>>, Error> {
        let Range { start, end } = bytes;
        let pages = guard.pages(self);
        if start > end || start < pages.start * PAGE || end > pages.end * PAGE {
            let length = end.saturating_sub(start);
            return Err(Error::NotHeld { start, length });
        }
        let marks = Marks {
            dirty: self.dirty(),
            start,
        };
        // SAFETY: the bytes lie in pages of this region that the guard holds, which keeps them mapped and shared. It
        // cannot be dropped, nor the region, while `'g` lasts, and no part of the slice outlives that: whatever `vm-memory`
        // cuts from it has its lifetime or a shorter one. Everything here is volatile access.
        Ok(unsafe { VolatileSlice::with_bitmap(self.host().add(start), end - start, marks, None) })
    }
}

/// What a slice under a guard carries: where its writes are marked. It holds nothing.
#[derive(Clone, Copy, Debug)]
pub struct Marks<'g> {
    /// None where no log is kept.
    dirty: Option<&'g Dirty>,
    /// The slice's first byte in the region.
    start: usize,
}

impl<'g> WithBitmapSlice<'_> for Marks<'g> {
    type S = Marks<'g>;
}

impl BitmapSlice for Marks<'_> {}

impl Bitmap for Marks<'_> {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(dirty) = self.dirty {
            dirty.mark(self.start.saturating_add(offset), len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.dirty
            .is_some_and(|dirty| dirty.is(self.start.saturating_add(offset) / PAGE))
    }

    #[inline]
    fn slice_at(&self, offset: usize) -> Self {
        Self {
            start: self.start.saturating_add(offset),
            ..*self
        }
    }
}
