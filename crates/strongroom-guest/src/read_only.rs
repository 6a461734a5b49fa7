//! Pages that the guest writes and nobody else does, for good (E11).

use crate::{Error, GuestRegion, PAGE};
use core::ops::Range;
use strongroom_core::page::{Refused, Why};

/// Shared pages that this process and every one that is given their file can only read, and never write again.
///
/// They are pinned for as long as their region: no guard is given out for them, as a guard is a right to write, and
/// they cannot become private.
#[derive(Clone, Copy, Debug)]
pub struct ReadOnly<'r> {
    region: &'r GuestRegion,
    start: usize,
    len: usize,
}

impl<'r> ReadOnly<'r> {
    pub(crate) fn new(region: &'r GuestRegion, bytes: Range<usize>) -> Self {
        let (start, len) = (bytes.start, bytes.len());
        Self { region, start, len }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none. There always are.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where they are mapped, read only.
    pub fn address(&self) -> *const u8 {
        self.region.host().wrapping_add(self.start).cast_const()
    }

    /// Copies bytes from an offset. The guest may be writing them: each is what was there at some moment.
    ///
    /// # Errors
    /// [`Why::OutOfRange`] where there are not so many.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        let end = offset.checked_add(into.len());
        if end.is_none_or(|end| end > self.len) {
            let why = Why::OutOfRange {
                pages: self.len / PAGE,
            };
            return Err(Refused {
                page: offset / PAGE,
                why,
            }
            .into());
        }
        let from = self.region.host().wrapping_add(self.start + offset);
        // SAFETY: bytes of the region's view, which lives as long as the region; these stay shared and mapped.
        // `into` is nobody else's. What the guest changes meanwhile is raw memory, and copied once.
        unsafe { core::ptr::copy(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }
}
