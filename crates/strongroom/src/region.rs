//! Regions: whole pages kept by one keeper, with a guard page on either side.

use crate::keeper::{self, Keeper, refusal};
use crate::ledger::{self, Entry, Holder};
use crate::policy::{Policy, Refused};
use crate::wipe::wipe;
use core::fmt;
use core::ops::{Deref, DerefMut, Range};
use strongroom_core::{Protections, Reason, Receipt};
use strongroom_sys::PAGE;
use strongroom_sys::memory::{self, Place};

/// Whole pages of secret memory, zero at first, wiped and unmapped when dropped.
///
/// ```
/// use strongroom::{Level, Policy, Region};
///
/// let mut region = Region::new(100, Policy::prefer(Level::Hidden))?;
/// region[..4].copy_from_slice(b"seed");
/// assert_eq!(region.len(), 4096);
/// println!("{}", region.receipt());
/// # Ok::<(), strongroom::Refused>(())
/// ```
pub struct Region {
    start: *mut u8,
    len: usize,
    /// The mapping with its guards.
    outer: Range<usize>,
    receipt: Receipt,
    keeper: &'static dyn Keeper,
}

// SAFETY: a region is the only owner of its mapping, which belongs to no thread.
unsafe impl Send for Region {}
// SAFETY: shared access is reading only.
unsafe impl Sync for Region {}

impl Region {
    /// A region of at least `len` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// Where the memory cannot be had at the level that the policy requires.
    pub fn new(len: usize, policy: Policy) -> Result<Self, Refused> {
        keeper::choose(&policy)?;
        let make = |place, len| {
            // SAFETY: the caller's place is its own.
            unsafe { keeper::map_by(&policy, place, len) }
        };
        Self::place(len, PAGE, &policy, make)
    }

    /// A region of at least `len` bytes in pages of 2 MiB, to which it is rounded up and aligned: one
    /// entry of the page tables each, so that a walk through large secrets costs less. Of the kernel
    /// driver's memory alone.
    ///
    /// # Errors
    /// As [`Region::new`], and where the driver is not there or its pool has no such page.
    pub fn huge(len: usize, policy: Policy) -> Result<Self, Refused> {
        let (keeper, receipt) = keeper::choose_huge(&policy)?;
        let make = |place, len| {
            // SAFETY: the caller's place is its own.
            match unsafe { keeper.map(place, len) } {
                Ok(start) => Ok((start, keeper, receipt)),
                Err(reason) => Err(Refused {
                    level: policy.required(),
                    reason,
                }),
            }
        };
        Self::place(len, keeper.unit(), &policy, make)
    }

    /// Has `make` map whole units of `unit` bytes, aligned to it, between two guards.
    fn place(
        len: usize,
        unit: usize,
        policy: &Policy,
        make: impl FnOnce(Place, usize) -> Result<(*mut u8, &'static dyn Keeper, Receipt), Refused>,
    ) -> Result<Self, Refused> {
        let refused = |reason| Refused {
            level: policy.required(),
            reason,
        };
        let len = len
            .max(1)
            .checked_next_multiple_of(unit)
            .filter(|len| *len <= isize::MAX as usize - 2 * unit)
            .ok_or(refused(Reason::OutOfMemory))?;
        crate::fork::watch();
        let mut ledger = ledger::open();
        ledger.make_room(3).map_err(refused)?;
        // SAFETY: a new mapping replaces nothing.
        let outer = unsafe { memory::reserve(Place::Anywhere, len + 2 * unit) }
            .map_err(|errno| refused(refusal("mmap", errno, len)))?;
        let first = (outer as usize + PAGE).next_multiple_of(unit);
        let start = outer.wrapping_add(first - outer as usize);
        let mapped = make(Place::Over(start), len).and_then(|mapped| {
            let (start, keeper, _) = mapped;
            keeper.settle(start, len).map_err(refused)?;
            let entry = Entry {
                start: start as usize,
                end: start as usize + len,
                access: memory::READ | memory::WRITE,
                holder: Holder::Keeper(keeper),
                child: policy.fork().into(),
            };
            ledger.insert(entry).map_err(refused)?;
            Ok(mapped)
        });
        match mapped {
            Ok((start, keeper, receipt)) => Ok(Self {
                start,
                len,
                outer: outer as usize..outer as usize + len + 2 * unit,
                receipt: receipt.hold(Protections::BOUNDED),
                keeper,
            }),
            Err(refused) => {
                // After another failure than a limit's, somebody else's mapping may be in the range by
                // now (see heap/arena.rs): the addresses are given up, not unmapped.
                if keeper::leaves_place_alone(refused.reason) {
                    // SAFETY: made above, and nobody else knows it.
                    let _ = unsafe { memory::unmap(outer, len + 2 * unit) };
                }
                Err(refused)
            }
        }
    }

    /// The name of the keeper at work.
    pub fn keeper(&self) -> &'static str {
        self.keeper.name()
    }

    /// What the memory is held under.
    pub fn receipt(&self) -> Receipt {
        self.receipt
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, initialised (zeroed by the kernel) and ours until drop.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let range = self.start as usize..self.start as usize + self.len;
        // Held to the end: a fork in between would copy a range that is gone.
        let mut ledger = ledger::open();
        // SAFETY: ours, and nobody borrows it any more.
        unsafe {
            // The kernel zeroes the pages of others as they go.
            if self.keeper.copies_on_write() {
                wipe(self.start, self.len);
            }
            let _ = memory::unmap(self.outer.start as *mut u8, self.outer.len());
        }
        // The entry covers exactly this range, so nothing is split and no room is needed.
        let _ = ledger.cut(&range);
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
