//! Guest memory as `vm-memory` knows it: regions whose slices hold their guards.
//!
//! Whatever is written against `vm_memory::GuestMemory` works on [`GuestRam`] unchanged (rings of
//! virtio-queue, vhost-user backends), and against `GuestMemoryBackend` on what it dereferences to
//! (linux-loader). Only shared pages can be read, written or sliced.
//! A private page is an error, an [`Error`] inside `GuestMemoryError::IOError`, which [`cause`] finds; it
//! is never a SIGBUS. A slice holds its pages shared for as long as it lives, and so do the slices
//! that are cut from it: a device that keeps one keeps the pages from becoming private, and the
//! conversion says so.

use crate::{Error, Guard, GuestRegion};
use core::iter::FusedIterator;
use core::ops::Deref;
use std::io;
use std::sync::Arc;
use strongroom_core::page::{Refused, Why};
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestRegionCollection,
    GuestRegionCollectionError, Permissions, VolatileSlice,
};

pub use crate::slice::{FEW, Held, Slices};

/// All of a guest's memory: [regions](GuestRegion), in the order of their addresses.
///
/// It dereferences to `vm-memory`'s own collection of them, for what takes a `GuestMemoryBackend`.
#[derive(Clone, Debug)]
pub struct GuestRam {
    regions: GuestRegionCollection<GuestRegion>,
    /// Where they lie, at hand.
    places: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    start: u64,
    len: u64,
    region: Arc<GuestRegion>,
}

impl GuestRam {
    /// Regions in the order of their addresses.
    ///
    /// # Errors
    /// No regions; some that are not in order, or overlap.
    pub fn from_regions(regions: Vec<GuestRegion>) -> Result<Self, GuestRegionCollectionError> {
        Self::from_arc_regions(regions.into_iter().map(Arc::new).collect())
    }

    /// The same of regions that are others' as well.
    ///
    /// # Errors
    /// As [`from_regions`](Self::from_regions).
    pub fn from_arc_regions(
        regions: Vec<Arc<GuestRegion>>,
    ) -> Result<Self, GuestRegionCollectionError> {
        let place = |region: &Arc<GuestRegion>| Place {
            start: region.start(),
            len: region.len() as u64,
            region: Arc::clone(region),
        };
        Ok(Self {
            places: regions.iter().map(place).collect(),
            regions: GuestRegionCollection::from_arc_regions(regions)?,
        })
    }

    /// Where an address lies: the region, and how far from its beginning.
    #[inline]
    fn place(&self, address: u64) -> Option<(&Place, u64)> {
        // There are few: one, or two around a hole.
        self.places.iter().find_map(|place| {
            let at = address.wrapping_sub(place.start);
            (at < place.len).then_some((place, at))
        })
    }
}

impl Deref for GuestRam {
    type Target = GuestRegionCollection<GuestRegion>;

    fn deref(&self) -> &Self::Target {
        &self.regions
    }
}

impl GuestMemory for GuestRam {
    type PhysicalMemory = GuestRegionCollection<GuestRegion>;
    type Bitmap = Slices;

    fn check_range(&self, addr: GuestAddress, count: usize, _access: Permissions) -> bool {
        GuestMemoryBackend::check_range(&self.regions, addr, count)
    }

    #[inline]
    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        _access: Permissions,
    ) -> Answer<impl GuestMemorySliceIterator<'a, Held<'a>>> {
        Ok(Pieces {
            ram: self,
            at: addr.0,
            left: count,
        })
    }

    fn physical_memory(&self) -> Option<&Self::PhysicalMemory> {
        Some(&self.regions)
    }
}

/// The slices of an access, one a region.
///
/// What follows is written so that an access in one region is put together in registers: what is seldom needed
/// is a call, and takes and gives values, as what is passed by reference lives on the stack from then on.
struct Pieces<'a> {
    ram: &'a GuestRam,
    /// Where the next one begins.
    at: u64,
    /// Bytes that are left.
    left: usize,
}

/// Bytes that are held.
struct Piece<'a> {
    region: &'a GuestRegion,
    start: usize,
    len: usize,
    guard: Guard<'a>,
}

impl GuestRam {
    /// Holds as much of the bytes as lies in one region; `None` where it is not to be had.
    #[inline]
    fn hold(&self, at: u64, bytes: usize) -> Option<Piece<'_>> {
        let (place, start) = self.place(at)?;
        let region = &*place.region;
        let (start, len) = (start as usize, bytes.min((place.len - start) as usize));
        let guard = region.hold(start, start + len)?;
        Some(Piece {
            region,
            start,
            len,
            guard,
        })
    }

    /// The same once more. It says why.
    #[cold]
    #[inline(never)]
    fn hold_anew(&self, at: u64, bytes: usize) -> Answer<Piece<'_>> {
        let address = GuestAddress(at);
        let place = self.place(at);
        let (place, start) = place.ok_or(GuestMemoryError::InvalidGuestAddress(address))?;
        let region = &*place.region;
        let (start, len) = (start as usize, bytes.min((place.len - start) as usize));
        let guard = region.hold_anew(start..start + len)?;
        Ok(Piece {
            region,
            start,
            len,
            guard,
        })
    }
}

impl<'a> Pieces<'a> {
    /// The next one of an access that is not at its end. After an error it is.
    #[inline]
    fn piece(&mut self) -> Answer<Piece<'a>> {
        let held = self.ram.hold(self.at, self.left);
        let piece = match held {
            Some(piece) => Ok(piece),
            None => self.ram.hold_anew(self.at, self.left),
        };
        self.past(piece)
    }

    /// The same for one after the first, which few accesses have.
    #[inline]
    fn another(&mut self) -> Answer<Piece<'a>> {
        let piece = self.ram.hold_anew(self.at, self.left);
        self.past(piece)
    }

    /// Goes on behind it.
    #[inline]
    fn past(&mut self, piece: Answer<Piece<'a>>) -> Answer<Piece<'a>> {
        let left = core::mem::take(&mut self.left);
        let piece = piece?;
        if left > piece.len {
            let next = self.at.checked_add(piece.len as u64);
            self.at = next.ok_or(GuestMemoryError::GuestAddressOverflow)?;
            self.left = left - piece.len;
        }
        Ok(piece)
    }
}

impl<'a> Piece<'a> {
    #[inline]
    fn slice(self) -> VolatileSlice<'a, Held<'a>> {
        // SAFETY: the guard was taken of these bytes.
        unsafe { self.region.slice_of(self.start, self.len, self.guard) }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Answer<VolatileSlice<'a, Held<'a>>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        (self.left > 0).then(|| self.piece().map(Piece::slice))
    }
}

impl FusedIterator for Pieces<'_> {}

impl<'a> GuestMemorySliceIterator<'a, Held<'a>> for Pieces<'a> {
    #[inline]
    fn stop_on_error(mut self) -> Answer<impl Iterator<Item = VolatileSlice<'a, Held<'a>>>> {
        let first = match self.left {
            0 => None,
            _ => Some(self.piece()?),
        };
        Ok(Sound { first, rest: self })
    }
}

/// They, up to the first that is not to be had.
struct Sound<'a> {
    first: Option<Piece<'a>>,
    rest: Pieces<'a>,
}

impl<'a> Iterator for Sound<'a> {
    type Item = VolatileSlice<'a, Held<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let piece = match self.first.take() {
            None if self.rest.left > 0 => self.rest.another().ok(),
            first => first,
        };
        piece.map(Piece::slice)
    }
}

pub(crate) type Answer<T> = Result<T, GuestMemoryError>;

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
