//! Keepers: the mechanisms that provide protections, one a file, strongest first.

mod locked;
mod secretmem;

use crate::policy::{Policy, Refused};
use core::fmt;
use std::sync::OnceLock;
use strongroom_core::{Level, Protections, Reason, Receipt};
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{Errno, PAGE, limits};

/// A mechanism that provides protections.
pub trait Keeper: Sync {
    /// The name receipts and diagnostics print.
    fn name(&self) -> &'static str;

    /// The protections that memory from [`Keeper::map`] has.
    fn offers(&self) -> Protections;

    /// Maps `len` bytes (whole pages) of zeroed memory under this keeper's protections,
    /// charged against RLIMIT_MEMLOCK and absent from children that the library does not see.
    ///
    /// # Errors
    /// The reason; nothing is mapped then, and with [`Place::Over`] the range is as it was
    /// or reserved and empty.
    ///
    /// # Safety
    /// With [`Place::Over`], the range must be the caller's to replace.
    unsafe fn map(&self, place: Place, len: usize) -> Result<*mut u8, Reason>;

    /// Has pages of memory from [`Keeper::map`] be there, where the kernel charges them only when they
    /// are touched and kills who touches one past the limit. Whoever hands pages out calls it first.
    /// Returns whether they are there now; false where there was no need.
    ///
    /// # Errors
    /// The limit; what pages there are stay zero.
    fn settle(&self, start: *mut u8, len: usize) -> Result<bool, Reason>;

    /// Whether a fork gives the child its own copy by the kernel's copy-on-write.
    fn copies_on_write(&self) -> bool;

    /// Restores in a forked child what the kernel did not carry over.
    ///
    /// # Errors
    /// The reason, where it cannot.
    ///
    /// # Safety
    /// The range must be one that [`Keeper::map`] made.
    unsafe fn restore_in_child(&self, start: *mut u8, len: usize) -> Result<(), Reason>;
}

impl fmt::Debug for dyn Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keeper({})", self.name())
    }
}

pub use secretmem::charged_on_touch;

/// memfd_secret(2): out of the direct map.
pub const SECRETMEM: &dyn Keeper = &secretmem::Secretmem;
/// mlock(2): a bit more secret than normally.
pub const LOCKED: &dyn Keeper = &locked::Locked;

/// Every keeper, strongest first.
pub const KEEPERS: [&dyn Keeper; 2] = [SECRETMEM, LOCKED];

/// Whether the keeper works here: maps a page, writes it, reads it, unmaps it. Done once a
/// process; the answer is kept.
///
/// # Errors
/// Why it does not.
pub fn probe(keeper: &'static dyn Keeper) -> Result<(), Reason> {
    static ANSWERS: [OnceLock<Result<(), Reason>>; KEEPERS.len()] =
        [const { OnceLock::new() }; KEEPERS.len()];
    let answer = KEEPERS
        .iter()
        .position(|k| k.name() == keeper.name())
        .map(|index| *ANSWERS[index].get_or_init(|| try_out(keeper)));
    answer.unwrap_or_else(|| try_out(keeper))
}

fn try_out(keeper: &dyn Keeper) -> Result<(), Reason> {
    // SAFETY: a new mapping of one page, written and read inside its bounds, then unmapped.
    unsafe {
        let page = keeper.map(Place::Anywhere, PAGE)?;
        page.write_volatile(0x5a);
        let works = page.read_volatile() == 0x5a && page.add(1).read_volatile() == 0;
        let unmapped = memory::unmap(page, PAGE);
        match (works, unmapped) {
            (true, Ok(())) => Ok(()),
            (_, Err(errno)) => Err(refusal("munmap", errno, PAGE)),
            (false, _) => Err(Reason::KeeperLacks {
                keeper: keeper.name(),
            }),
        }
    }
}

/// The strongest keeper that the policy asks for and the machine has, with the receipt of
/// memory kept by it.
///
/// # Errors
/// The first keeper's reason where none that works reaches the required level.
pub fn choose(policy: &Policy) -> Result<(&'static dyn Keeper, Receipt), Refused> {
    let asked = policy.preferred().protections();
    let required = policy.required().protections();
    let mut first_reason = None;
    for keeper in KEEPERS {
        let sufficient = keeper.offers().contains(required);
        // A keeper below the preferred level is only a fallback; one above it is dearer than asked.
        let excessive = policy.preferred() == Level::Locked && keeper.name() != LOCKED.name();
        if !sufficient || excessive {
            continue;
        }
        match probe(keeper) {
            Ok(()) => {
                let lacking = asked.difference(keeper.offers());
                let reason = first_reason.unwrap_or(Reason::KeeperLacks {
                    keeper: keeper.name(),
                });
                let receipt = Receipt::new(asked)
                    .lack(lacking, reason)
                    .hold(keeper.offers());
                return Ok((keeper, receipt));
            }
            Err(reason) => first_reason = first_reason.or(Some(reason)),
        }
    }
    Err(Refused {
        level: policy.required(),
        reason: first_reason.unwrap_or(Reason::NotArranged),
    })
}

/// Undoes a mapping that could not be protected: unmaps it, or leaves its range reserved again.
///
/// # Safety
/// The range must have been mapped at `place` by the caller and be unknown to anyone else.
unsafe fn take_back(place: Place, start: *mut u8, len: usize) {
    // Where even this fails the pages stay mapped and unused: a leak, and nothing secret in it.
    // SAFETY: the caller's promise.
    let _ = unsafe {
        match place {
            Place::Anywhere => memory::unmap(start, len),
            Place::Over(_) => memory::reserve(place, len).map(drop),
        }
    };
}

/// What an errno of the calls that map secret memory means. `need` in bytes.
pub(crate) fn refusal(call: &'static str, errno: Errno, need: usize) -> Reason {
    match errno {
        Errno::NOSYS => Reason::NoSecretMemory,
        Errno::PERM | Errno::ACCESS => Reason::NotPermitted,
        Errno::MFILE | Errno::NFILE => Reason::TooManyFiles,
        Errno::AGAIN => over_lock_limit(need),
        // mmap and mlock answer ENOMEM for three different things; tell them apart.
        Errno::NOMEM if call == "mlock" && lock_limit().is_some() => over_lock_limit(need),
        Errno::NOMEM => match (
            mapping_count(),
            limits::number_in(c"/proc/sys/vm/max_map_count"),
        ) {
            (Some(count), Ok(limit)) if count + 8 >= limit => Reason::TooManyMappings { limit },
            _ => Reason::OutOfMemory,
        },
        errno => Reason::Kernel {
            call,
            errno: errno.raw_os_error(),
        },
    }
}

fn lock_limit() -> Option<u64> {
    limits::get(limits::Resource::Memlock).current
}

fn over_lock_limit(need: usize) -> Reason {
    Reason::LockLimit {
        need: need as u64,
        limit: lock_limit().unwrap_or(u64::MAX),
    }
}

fn mapping_count() -> Option<u64> {
    let mut count = 0;
    strongroom_sys::maps::each(|_| {
        count += 1;
        true
    })
    .ok()?;
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receipt_holds_what_the_keeper_offers() {
        let (keeper, receipt) = choose(&Policy::prefer(Level::Hidden)).unwrap();
        assert_eq!(receipt.held(), keeper.offers());
        assert!(receipt.held().contains(Level::Locked.protections()));
        assert_eq!(receipt.complete(), keeper.name() == SECRETMEM.name());
    }

    #[test]
    fn locked_is_not_made_dearer_than_asked() {
        let (keeper, receipt) = choose(&Policy::require(Level::Locked)).unwrap();
        assert_eq!(keeper.name(), LOCKED.name());
        assert_eq!(receipt.level(), Some(Level::Locked));
    }

    #[test]
    fn a_level_that_no_keeper_reaches_is_refused() {
        let refused = choose(&Policy::require(Level::Closed)).unwrap_err();
        assert_eq!(refused.level, Level::Closed);
    }
}
