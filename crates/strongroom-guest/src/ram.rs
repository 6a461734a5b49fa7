//! Guest memory as `vm-memory` knows it: regions whose slices hold their guards.
//!
//! Whatever is written against `vm_memory::GuestMemory` works on [`GuestRam`] unchanged (rings of
//! virtio-queue, linux-loader, vhost-user backends). Only shared pages can be read, written or sliced.
//! A private page is an error, an [`Error`] inside `GuestMemoryError::IOError`, which [`cause`] finds; it
//! is never a SIGBUS. A slice holds its pages shared for as long as it lives, and so do the slices
//! that are cut from it: a device that keeps one keeps the pages from becoming private, and the
//! conversion says so.

use crate::region::{GuestRegion, touched};
use crate::{Error, Guard, PAGE, record};
use core::ops::Range;
use core::sync::atomic::Ordering;
use std::io;
use strongroom_core::page::{Refused, Why};
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::{
    AtomicAccess, Bytes, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestRegionCollection,
    GuestUsize, MemoryRegionAddress, ReadVolatile, VolatileSlice, WriteVolatile,
};

/// All of a guest's memory: [regions](GuestRegion), in the order of their addresses.
pub type GuestRam = GuestRegionCollection<GuestRegion>;

type Answer<T> = Result<T, GuestMemoryError>;

/// What strongroom said, where an error of `vm-memory` comes from here.
pub fn cause(error: &GuestMemoryError) -> Option<&Error> {
    match error {
        GuestMemoryError::IOError(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

impl From<Error> for GuestMemoryError {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(Refused {
                why: Why::OutOfRange { .. },
                ..
            }) => Self::InvalidBackendAddress,
            error => Self::IOError(io::Error::new(io::ErrorKind::PermissionDenied, error)),
        }
    }
}

impl GuestRegion {
    /// Bytes that may be touched for as long as the slice, or one cut from it, lives.
    ///
    /// One atomic operation a page; never waits. Slices that are cut from it share its guard, without any.
    /// They hold their own pages only where those are up to [`FEW`].
    ///
    /// # Errors
    /// The first page that is not shared, or past the end.
    #[inline]
    pub fn slice(&self, bytes: Range<usize>) -> Result<VolatileSlice<'_, Held<'_>>, Error> {
        let guard = self.guarded(&bytes)?;
        let (start, length) = (bytes.start, bytes.len());
        let held = Held {
            region: Some(self),
            guard: Some(guard),
            start,
        };
        // SAFETY: the bytes lie within the backing, whose mapping lives as long as `self` is
        // borrowed, and the guard keeps them mapped and shared; everything here is volatile access.
        Ok(unsafe { VolatileSlice::with_bitmap(self.host().add(start), length, held, None) })
    }

    /// A guard on the pages of bytes that there are.
    #[inline]
    fn guarded(&self, bytes: &Range<usize>) -> Result<Guard<'_>, Error> {
        if bytes.start > bytes.end || bytes.end > self.len() {
            return Err(self.outside(bytes));
        }
        self.guard(bytes.clone())
    }

    #[cold]
    fn outside(&self, bytes: &Range<usize>) -> Error {
        let pages = self.len() / PAGE;
        let page = bytes.end / PAGE;
        let why = Why::OutOfRange { pages };
        Error::Refused(Refused { page, why })
    }

    /// One access, under a guard of its own.
    #[inline]
    fn access<T>(
        &self,
        bytes: Range<usize>,
        access: impl FnOnce(&mut VolatileSlice<'_>) -> Result<T, vm_memory::VolatileMemoryError>,
    ) -> Answer<T> {
        let _guard = self.guarded(&bytes)?;
        // SAFETY: as in `slice`; the slice cannot leave the closure, and the guard outlives that.
        let mut slice = unsafe { VolatileSlice::new(self.host().add(bytes.start), bytes.len()) };
        Ok(access(&mut slice)?)
    }

    /// The same for one that writes.
    #[inline]
    fn change<T>(
        &self,
        bytes: Range<usize>,
        access: impl FnOnce(&mut VolatileSlice<'_>) -> Result<T, vm_memory::VolatileMemoryError>,
    ) -> Answer<T> {
        let (start, len) = (bytes.start, bytes.len());
        self.access(bytes, |slice| {
            let changed = access(slice);
            // Also where it failed, as a part may be written.
            self.mark_dirty(start, len);
            changed
        })
    }

    /// What an access of `len` bytes may reach: less than that at the end, and an error past it.
    #[inline]
    fn reach(&self, at: MemoryRegionAddress, len: usize) -> Answer<Range<usize>> {
        let start = usize::try_from(at.0).unwrap_or(usize::MAX);
        if start >= self.len() && len > 0 {
            return Err(GuestMemoryError::InvalidBackendAddress);
        }
        let end = start.saturating_add(len).min(self.len());
        Ok(start.min(end)..end)
    }
}

/// The bytes of an access of exactly `len`.
#[inline]
fn exactly(at: MemoryRegionAddress, len: usize) -> Range<usize> {
    let start = usize::try_from(at.0).unwrap_or(usize::MAX);
    start..start.saturating_add(len)
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
    let all = region.states().held_by(guard);
    let first = start / PAGE;
    if first <= all.start || all.end.saturating_sub(first) > FEW {
        return guard.clone();
    }
    few(region, guard, first.min(all.end)..all.end)
}

/// A guard of the pages of a short slice.
#[cold]
fn few<'r>(region: &'r GuestRegion, guard: &Guard<'r>, pages: Range<usize>) -> Guard<'r> {
    // Where they take no new guard, as they are on their way, it holds them all.
    record::guard(&region.states(), pages).unwrap_or_else(|_| guard.clone())
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

impl GuestMemoryRegion for GuestRegion {
    type B = Slices;

    fn len(&self) -> GuestUsize {
        GuestRegion::len(self) as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.start())
    }

    fn bitmap(&self) -> Held<'_> {
        // Knows what is dirty, and holds nothing.
        Held {
            region: Some(self),
            guard: None,
            start: 0,
        }
    }

    #[inline]
    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Answer<VolatileSlice<'_, Held<'_>>> {
        Ok(self.slice(exactly(offset, count))?)
    }
}

/// Each access guards the pages that it touches, and no others.
impl Bytes<MemoryRegionAddress> for GuestRegion {
    type E = GuestMemoryError;

    #[inline]
    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Answer<usize> {
        self.change(self.reach(addr, buf.len())?, |to| to.write(buf, 0))
    }

    #[inline]
    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Answer<usize> {
        self.access(self.reach(addr, buf.len())?, |from| from.read(buf, 0))
    }

    #[inline]
    fn write_slice(&self, buf: &[u8], addr: MemoryRegionAddress) -> Answer<()> {
        self.change(exactly(addr, buf.len()), |to| to.write_slice(buf, 0))
    }

    #[inline]
    fn read_slice(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Answer<()> {
        self.access(exactly(addr, buf.len()), |from| from.read_slice(buf, 0))
    }

    fn read_volatile_from<F: ReadVolatile>(
        &self,
        addr: MemoryRegionAddress,
        src: &mut F,
        count: usize,
    ) -> Answer<usize> {
        self.change(self.reach(addr, count)?, |to| {
            to.read_volatile_from(0, src, count)
        })
    }

    fn read_exact_volatile_from<F: ReadVolatile>(
        &self,
        addr: MemoryRegionAddress,
        src: &mut F,
        count: usize,
    ) -> Answer<()> {
        self.change(exactly(addr, count), |to| {
            to.read_exact_volatile_from(0, src, count)
        })
    }

    fn write_volatile_to<F: WriteVolatile>(
        &self,
        addr: MemoryRegionAddress,
        dst: &mut F,
        count: usize,
    ) -> Answer<usize> {
        self.access(self.reach(addr, count)?, |from| {
            from.write_volatile_to(0, dst, count)
        })
    }

    fn write_all_volatile_to<F: WriteVolatile>(
        &self,
        addr: MemoryRegionAddress,
        dst: &mut F,
        count: usize,
    ) -> Answer<()> {
        self.access(exactly(addr, count), |from| {
            from.write_all_volatile_to(0, dst, count)
        })
    }

    #[inline]
    fn store<T: AtomicAccess>(
        &self,
        val: T,
        addr: MemoryRegionAddress,
        order: Ordering,
    ) -> Answer<()> {
        self.change(exactly(addr, size_of::<T>()), |to| to.store(val, 0, order))
    }

    #[inline]
    fn load<T: AtomicAccess>(&self, addr: MemoryRegionAddress, order: Ordering) -> Answer<T> {
        self.access(exactly(addr, size_of::<T>()), |from| from.load(0, order))
    }
}
