//! Where tables come from: a pool of guest pages, and what all contexts have in common.

use super::entry::{MOST_PHYSICAL_BITS, Size};
use super::uses::Uses;
use super::walk::{Fault, Translation, translate};
use super::{Context, ContextId, Error, Sharing};
use crate::ram::Held;
use crate::{GuestRegion, PAGE};
use core::ops::Range;
use core::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use strongroom_core::pool::RunPool;
use vm_memory::{Bytes, GuestMemoryError, MemoryRegionAddress, VolatileSlice};

/// What the guest's processor can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// How many bits a physical address has: CPUID 8000_0008h EAX, from 32 to 52.
    pub physical_bits: u8,
    /// The largest page that one entry maps: [`Size::Huge`] where CPUID 8000_0001h EDX has bit 26.
    pub largest: Size,
    /// KVM walks the tables instead of the processor, and remembers what it found
    /// ([`shadowed`](super::shadowed)). It does not see what the monitor writes: once a context may have
    /// run, nothing of it can be taken away, and its tables are never used again.
    pub shadowed: bool,
}

impl Default for Features {
    /// What every 64-bit processor has, with nested paging.
    fn default() -> Self {
        Self {
            physical_bits: 36,
            largest: Size::Large,
            shadowed: false,
        }
    }
}

/// The pool of tables of a guest's contexts, and which physical pages they map.
///
/// ```
/// use strongroom_guest::backing::Plain;
/// use strongroom_guest::page_table::{Access, Error, Features, Sharing, Tables};
/// use strongroom_guest::GuestRegion;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let region = GuestRegion::new(0, Plain::new(4 << 20)?)?;
/// let mut metadata = [0; Tables::metadata_words(1 << 20)];
/// let tables = Tables::new(&region, 0..1 << 20, Features::default(), &mut metadata)?;
/// let mut one = tables.context()?;
/// one.map(0x40_0000, 0x20_0000..0x20_4000, Access::USER, Sharing::Exclusive)?;
/// let mut other = tables.context()?;
/// let refused = other.map(0, 0x20_1000..0x20_2000, Access::USER, Sharing::Common);
/// assert!(matches!(refused, Err(Error::Exclusive { .. })));
/// assert_eq!(tables.translate(one.root(), 0x40_1234)?.physical, 0x20_1234);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tables<'g> {
    region: &'g GuestRegion,
    /// The pool, in bytes of the region.
    bytes: Range<usize>,
    features: Features,
    shared: Mutex<Shared<'g>>,
}

/// What contexts have in common.
#[derive(Debug)]
pub(super) struct Shared<'g> {
    pub(super) pool: RunPool<'g>,
    pub(super) uses: Uses,
    contexts: u64,
}

/// A table that may be written to.
pub(super) type Page<'g> = VolatileSlice<'g, Held<'g>>;

impl<'g> Tables<'g> {
    /// Words of metadata that a pool of so many bytes needs.
    pub const fn metadata_words(bytes: usize) -> usize {
        RunPool::metadata_words(bytes / PAGE)
    }

    /// A pool of the pages at `bytes` of a region, which are nobody else's from here on. What is in
    /// them does not matter. `metadata` is zero, and as long as
    /// [`metadata_words`](Self::metadata_words) says.
    ///
    /// # Errors
    /// Misaligned bytes, none, bytes past the region's end, physical bits that no processor has, and
    /// metadata that is too short.
    pub fn new(
        region: &'g GuestRegion,
        bytes: Range<usize>,
        features: Features,
        metadata: &'g mut [u64],
    ) -> Result<Self, Error> {
        for edge in [bytes.start, bytes.end] {
            if !edge.is_multiple_of(PAGE) {
                return Err(Error::Misaligned(edge as u64));
            }
        }
        let beyond = |start, length| Error::Beyond { start, length };
        let length = bytes.len();
        if !(32..=MOST_PHYSICAL_BITS).contains(&features.physical_bits) {
            return Err(beyond(0, 1_u64 << features.physical_bits.min(63)));
        }
        let start = region.start() + bytes.start as u64;
        let ends_inside = start
            .checked_add(length as u64)
            .is_some_and(|end| end <= 1 << features.physical_bits);
        if bytes.is_empty() || bytes.end > region.len() || !ends_inside {
            return Err(beyond(start, length as u64));
        }
        let pages = length / PAGE;
        let mut pool = RunPool::new(pages, metadata);
        if !pool.give(0, pages) {
            let (needed, free) = (pages, 0);
            return Err(Error::Exhausted { needed, free });
        }
        Ok(Self {
            region,
            bytes,
            features,
            shared: Mutex::new(Shared {
                pool,
                uses: Uses::default(),
                contexts: 0,
            }),
        })
    }

    /// A context that maps nothing. One page.
    ///
    /// # Errors
    /// The pool is exhausted, or a page of it cannot be written.
    pub fn context<'t>(&'t self) -> Result<Context<'t, 'g>, Error> {
        Context::new(self)
    }

    /// Pages of the pool that are free.
    pub fn free(&self) -> usize {
        self.shared().pool.free_pages()
    }

    /// The context that has a physical page alone.
    pub fn owner(&self, physical: u64) -> Option<ContextId> {
        self.shared().uses.owner(physical)
    }

    /// Translates a virtual address by what stands in guest memory, as the processor does.
    ///
    /// # Errors
    /// Where the processor faults, or a table lies outside the region or is private.
    pub fn translate(
        &self,
        root: u64,
        address: u64,
    ) -> Result<Translation, Fault<GuestMemoryError>> {
        let bits = self.features.physical_bits;
        translate(root, address, bits, |at| self.load(at))
    }

    /// An entry in guest memory.
    pub(super) fn load(&self, physical: u64) -> Result<u64, GuestMemoryError> {
        let offset = physical.wrapping_sub(self.region.start());
        self.region
            .load(MemoryRegionAddress(offset), Ordering::Acquire)
    }

    pub(super) fn features(&self) -> Features {
        self.features
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared<'g>> {
        // Nothing under the lock panics half way; if it did, all that is lost is pages.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The physical address of a page of the pool.
    pub(super) fn physical(&self, page: usize) -> u64 {
        self.region.start() + (self.bytes.start + page * PAGE) as u64
    }

    /// A page of the pool, to write to.
    pub(super) fn page(&self, page: usize) -> Result<Page<'g>, Error> {
        let start = self.bytes.start + page * PAGE;
        Ok(self.region.slice(start..start + PAGE)?)
    }

    /// Whether physical memory may be mapped once more.
    pub(super) fn check(
        &self,
        shared: &Shared<'_>,
        memory: &Range<u64>,
        sharing: Sharing,
    ) -> Result<(), Error> {
        let pool = self.physical(0)..self.physical(self.bytes.len() / PAGE);
        if memory.start < pool.end && pool.start < memory.end {
            return Err(Error::TablePage(memory.start.max(pool.start)));
        }
        shared.uses.check(memory, sharing)
    }
}

impl Shared<'_> {
    pub(super) fn next_id(&mut self) -> ContextId {
        self.contexts += 1;
        ContextId(self.contexts)
    }
}
