//! Regions: whole pages kept by one keeper, with a guard page on either side.

use crate::keeper::{self, refusal};
use crate::ledger::{self, Entry, Holder};
use crate::policy::{Policy, Refused};
use crate::wipe::wipe;
use core::fmt;
use core::ops::{Deref, DerefMut};
use strongroom_core::{Protections, Reason, Receipt};
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{PAGE, page_ceil};

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
    receipt: Receipt,
    /// The kernel zeroes a secret file's pages when it dies; others are wiped here.
    wiped_by_kernel: bool,
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
        let refused = |reason| Refused {
            level: policy.required(),
            reason,
        };
        let (keeper, receipt) = keeper::choose(&policy)?;
        let len = page_ceil(len.max(1))
            .filter(|len| *len <= isize::MAX as usize - 2 * PAGE)
            .ok_or(refused(Reason::OutOfMemory))?;
        crate::fork::watch();
        let mut ledger = ledger::open();
        ledger.make_room(3).map_err(refused)?;
        // SAFETY: a new mapping replaces nothing.
        let outer = unsafe { memory::reserve(Place::Anywhere, len + 2 * PAGE) }
            .map_err(|errno| refused(refusal("mmap", errno, len)))?;
        let start = outer.wrapping_add(PAGE);
        // SAFETY: inside the reservation made above.
        let mapped = unsafe { keeper.map(Place::Over(start), len) }
            .and_then(|start| keeper.settle(start, len));
        let noted = mapped.and_then(|_| {
            ledger.insert(Entry {
                start: start as usize,
                end: start as usize + len,
                access: memory::READ | memory::WRITE,
                holder: if keeper.copies_on_write() {
                    Holder::Locked
                } else {
                    Holder::Secretmem
                },
                child: policy.fork().into(),
            })
        });
        if let Err(reason) = noted {
            // After another failure than the limit's, somebody else's mapping may be in the range by
            // now (see heap/arena.rs): the addresses are given up, not unmapped.
            if matches!(reason, Reason::LockLimit { .. }) {
                // SAFETY: made above, and nobody else knows it.
                let _ = unsafe { memory::unmap(outer, len + 2 * PAGE) };
            }
            return Err(refused(reason));
        }
        Ok(Self {
            start,
            len,
            receipt: receipt.hold(Protections::BOUNDED),
            wiped_by_kernel: !keeper.copies_on_write(),
        })
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
            if !self.wiped_by_kernel {
                wipe(self.start, self.len);
            }
            let _ = memory::unmap(self.start.sub(PAGE), self.len + 2 * PAGE);
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
