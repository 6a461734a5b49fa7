//! A region as vm-memory knows it: each access guards the pages that it touches, and no others.

use crate::GuestRegion;
use crate::ram::Answer;
use crate::slice::{Held, Slices};
use core::ops::Range;
use core::sync::atomic::Ordering;
use vm_memory::{
    AtomicAccess, Bytes, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestUsize,
    MemoryRegionAddress, ReadVolatile, VolatileSlice, WriteVolatile,
};

impl GuestRegion {
    /// One access, under a guard of its own.
    #[inline]
    fn access<T>(
        &self,
        bytes: Range<usize>,
        access: impl FnOnce(&mut VolatileSlice<'_>) -> Result<T, vm_memory::VolatileMemoryError>,
    ) -> Answer<T> {
        let Range { start, end } = bytes;
        let _guard = self.held(start, end)?;
        // SAFETY: the bytes lie within the backing, as they could be held, whose mapping lives as long as `self`
        // is borrowed, and the guard keeps them mapped and shared. The slice cannot leave the closure, and the
        // guard outlives that.
        let mut slice = unsafe { VolatileSlice::new(self.host().add(start), end - start) };
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

impl GuestMemoryRegion for GuestRegion {
    type B = Slices;

    fn len(&self) -> GuestUsize {
        GuestRegion::len(self) as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.start())
    }

    fn bitmap(&self) -> Held<'_> {
        Held::nothing(self)
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
