//! Slices of a region: each holds its pages for as long as it lives.

use crate::{Error, Guard, GuestRegion, PAGE, record};
use core::ops::Range;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

impl GuestRegion {
    /// Bytes that may be touched for as long as the slice, or one cut from it, lives.
    ///
    /// Never waits. Slices that are cut from it share its guard. They hold their own pages only where those are
    /// up to [`FEW`].
    ///
    /// # Errors
    /// The first page that is not shared, or past the end.
    #[inline]
    pub fn slice(&self, bytes: Range<usize>) -> Result<VolatileSlice<'_, Held<'_>>, Error> {
        let Range { start, end } = bytes;
        let guard = self.held(start, end)?;
        // SAFETY: the guard is of these bytes.
        Ok(unsafe { self.slice_of(start, end - start, guard) })
    }

    /// The slice of bytes that a guard holds.
    ///
    /// # Safety
    /// The guard must have been taken of these bytes of this region.
    #[inline]
    pub(crate) unsafe fn slice_of<'r>(
        &'r self,
        start: usize,
        len: usize,
        guard: Guard<'r>,
    ) -> VolatileSlice<'r, Held<'r>> {
        let held = Held {
            region: Some(self),
            guard: Some(guard),
            start,
        };
        // SAFETY: the bytes lie within the backing, as they could be held, whose mapping lives as long as
        // `self` is borrowed, and the guard keeps them mapped and shared; everything here is volatile access.
        unsafe { VolatileSlice::with_bitmap(self.host().add(start), len, held, None) }
    }
}

/// Of a slice of more pages than this, a part holds all pages.
pub const FEW: usize = 2;

/// What a slice holds: the pages that its bytes lie in.
///
/// `vm-memory` carries it along as the slice's bitmap, whose lifetime is the slice's. It cuts a slice from a
/// slice at every access, which must cost next to nothing: the guard is shared, and counted without
/// atomic operations, as slices stay in their thread.
#[derive(Debug, Default)]
pub struct Held<'r> {
    region: Option<&'r GuestRegion>,
    /// None for what holds nothing.
    guard: Option<Guard<'r>>,
    /// The slice's first byte in the region.
    start: usize,
}

impl<'r> Held<'r> {
    /// Of a whole region: knows what is dirty, and holds nothing.
    pub(crate) fn nothing(region: &'r GuestRegion) -> Self {
        Self {
            region: Some(region),
            guard: None,
            start: 0,
        }
    }

    #[inline]
    fn from(&self, offset: usize) -> Self {
        let start = self.start.saturating_add(offset);
        let guard = match (&self.guard, self.region) {
            (Some(guard), Some(region)) if offset > 0 => Some(part(region, guard, start)),
            (guard, _) => guard.clone(),
        };
        Self {
            region: self.region,
            guard,
            start,
        }
    }
}

/// What a slice that begins at a byte of a guard's pages holds.
#[inline]
fn part<'r>(region: &'r GuestRegion, guard: &Guard<'r>, start: usize) -> Guard<'r> {
    if region.states().held_from(guard, start / PAGE) > FEW {
        return guard.clone();
    }
    few(region, guard, start / PAGE)
}

/// The same where these are few pages.
#[inline(never)]
fn few<'r>(region: &'r GuestRegion, guard: &Guard<'r>, first: usize) -> Guard<'r> {
    let states = region.states();
    let all = states.held_by(guard);
    if first <= all.start {
        return guard.clone();
    }
    let pages = first.min(all.end)..all.end;
    // Where they take no new guard, as they are on their way, it holds them all.
    record::guard(&states, pages).unwrap_or_else(|_| guard.clone())
}

impl Clone for Held<'_> {
    fn clone(&self) -> Self {
        self.from(0)
    }
}

impl<'r> WithBitmapSlice<'_> for Held<'r> {
    type S = Held<'r>;
}

impl BitmapSlice for Held<'_> {}

impl Bitmap for Held<'_> {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(region) = self.region {
            region.mark_dirty(self.start.saturating_add(offset), len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.region
            .is_some_and(|region| region.is_dirty(self.start.saturating_add(offset)))
    }

    #[inline]
    fn slice_at(&self, offset: usize) -> Self {
        self.from(offset)
    }
}

/// Names the slices of a region to `vm-memory`.
#[derive(Debug)]
pub struct Slices;

impl<'r> WithBitmapSlice<'r> for Slices {
    type S = Held<'r>;
}

impl Bitmap for Slices {
    fn mark_dirty(&self, _offset: usize, _len: usize) {}

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, _offset: usize) -> Held<'_> {
        Held::default()
    }
}
