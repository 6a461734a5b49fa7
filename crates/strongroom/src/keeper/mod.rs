//! Keepers: the mechanisms that provide protections, one a file, strongest first.

mod driver;
mod locked;
mod secretmem;

use crate::policy::{ForkPolicy, Policy, Refused};
use crate::resident;
use core::fmt;
use std::sync::OnceLock;
use strongroom_core::{Protections, Reason, Receipt};
use strongroom_sys::maps::Mapping;
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{Errno, PAGE, limits};

/// What a child of fork can have of memory that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inheritance {
    /// Its own copy, by the kernel's copy-on-write.
    CopyOnWrite,
    /// The same pages, where they are not kept from it (`MADV_DONTFORK`).
    Shared,
    /// Nothing: only its parent can read them, and hands them over.
    Nothing,
}

/// A mechanism that provides protections.
pub trait Keeper: Sync {
    /// The name receipts and diagnostics print.
    fn name(&self) -> &'static str;

    /// The protections that memory from [`Keeper::map`] has.
    fn offers(&self) -> Protections;

    /// What lengths, and addresses, are multiples of. In bytes.
    fn unit(&self) -> usize {
        PAGE
    }

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

    /// What a child of fork can have of the memory.
    fn inheritance(&self) -> Inheritance;

    /// Whether a fork gives the child its own copy by the kernel's copy-on-write.
    fn copies_on_write(&self) -> bool {
        self.inheritance() == Inheritance::CopyOnWrite
    }

    /// Whether a mapping of this process can be what [`Keeper::map`] made.
    fn made(&self, mapping: &Mapping<'_>) -> bool;

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

impl PartialEq for dyn Keeper {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Keeper {}

impl dyn Keeper {
    /// Calls `visit` with offset and length, in bytes, of each run of pages in `len` bytes (whole
    /// pages) from `start` that may hold something: the others are zero.
    ///
    /// # Safety
    /// The range must be mapped, the caller's, and be this keeper's or of one that stood in for it
    /// ([`map_or_next`]).
    pub unsafe fn each_run(
        &self,
        start: *const u8,
        len: usize,
        mut visit: impl FnMut(usize, usize),
    ) {
        // Where the kernel splits an entry of 2 MiB of such memory it drops it (mm/huge_memory.c,
        // __split_huge_pmd_locked): a page without an entry is not one without contents.
        if self.inheritance() == Inheritance::Nothing {
            visit(0, len);
        } else {
            // SAFETY: the caller's promise.
            unsafe { resident::each_run(start, len, visit) };
        }
    }
}

pub use driver::offer as driver_offer;
pub use secretmem::charged_on_touch;

/// The kernel driver's memory: never in the direct map.
pub const DRIVER: &dyn Keeper = &driver::DRIVER;
/// The same, and no processor caches it.
pub const DRIVER_UNCACHED: &dyn Keeper = &driver::UNCACHED;
/// The kernel driver's memory in 2 MiB pages. It maps whole ones, to addresses that are multiples.
pub(crate) const DRIVER_HUGE: &dyn Keeper = &driver::HUGE;
/// The same, uncached.
pub(crate) const DRIVER_UNCACHED_HUGE: &dyn Keeper = &driver::UNCACHED_HUGE;

/// memfd_secret(2): out of the direct map.
pub const SECRETMEM: &dyn Keeper = &secretmem::Secretmem;
/// mlock(2): a bit more secret than normally.
pub const LOCKED: &dyn Keeper = &locked::Locked;

/// Every keeper, strongest first.
pub const KEEPERS: [&dyn Keeper; 4] = [DRIVER_UNCACHED, DRIVER, SECRETMEM, LOCKED];

/// Whether the keeper works here: maps a page, writes it, reads it, unmaps it. Done once a
/// process; the answer is kept.
///
/// # Errors
/// Why it does not.
pub fn probe(keeper: &'static dyn Keeper) -> Result<(), Reason> {
    static ANSWERS: [OnceLock<Result<(), Reason>>; KEEPERS.len()] =
        [const { OnceLock::new() }; KEEPERS.len()];
    let answer = KEEPERS.iter().position(|k| *k == keeper);
    let Some(answer) = answer.and_then(|index| ANSWERS.get(index)) else {
        return try_out(keeper);
    };
    if let Some(known) = answer.get() {
        return *known;
    }
    let result = try_out(keeper);
    // A pool that is full now need not stay so.
    if !matches!(
        result,
        Err(Reason::PoolFull { .. } | Reason::PoolLimit { .. })
    ) {
        let _ = answer.set(result);
    }
    result
}

/// Whether the keeper works here for memory of which a forked child sees what the policy says.
///
/// # Errors
/// Why it does not.
fn serves(keeper: &'static dyn Keeper, policy: &Policy) -> Result<(), Reason> {
    probe(keeper)?;
    // What is handed over goes through memory that both see, which must be as secret.
    if keeper.inheritance() == Inheritance::Nothing && policy.fork() == ForkPolicy::Copy {
        probe(SECRETMEM)?;
    }
    Ok(())
}

fn try_out(keeper: &dyn Keeper) -> Result<(), Reason> {
    // SAFETY: a new mapping, written and read inside its bounds, then unmapped.
    unsafe {
        let page = keeper.map(Place::Anywhere, keeper.unit())?;
        page.write_volatile(0x5a);
        let works = page.read_volatile() == 0x5a && page.add(1).read_volatile() == 0;
        let unmapped = memory::unmap(page, keeper.unit());
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
    choose_with(policy, |keeper| serves(keeper, policy))
        .map(|(keeper, receipt, ())| (keeper, receipt))
}

/// As [`choose`], of the keepers that `attempt` succeeds with.
fn choose_with<T>(
    policy: &Policy,
    mut attempt: impl FnMut(&'static dyn Keeper) -> Result<T, Reason>,
) -> Result<(&'static dyn Keeper, Receipt, T), Refused> {
    let asked = policy.asked();
    // Few machines have the driver: that it is not there explains what it alone would have offered.
    let mut without_driver = Protections::empty();
    let mut first: Option<(Protections, Reason)> = None;
    for keeper in KEEPERS {
        let sufficient = keeper.offers().contains(policy.demanded());
        // A keeper below the preferred level is only a fallback; one above it is dearer than asked.
        let excessive = policy.besides().is_empty() && !asked.contains(keeper.offers());
        if !sufficient || excessive {
            continue;
        }
        match attempt(keeper) {
            Ok(result) => {
                let lacking = asked.difference(keeper.offers());
                let lack = Reason::KeeperLacks {
                    keeper: keeper.name(),
                };
                let (others, reason) = first.unwrap_or((Protections::empty(), lack));
                let receipt = Receipt::new(asked)
                    .lack(lacking, lack)
                    .lack(lacking.intersection(without_driver), Reason::NoDriver)
                    .lack(lacking.intersection(others), reason)
                    .hold(keeper.offers());
                return Ok((keeper, receipt, result));
            }
            Err(Reason::NoDriver) => without_driver |= keeper.offers(),
            Err(reason) => first = first.or(Some((keeper.offers(), reason))),
        }
    }
    let no_driver = (!without_driver.is_empty()).then_some(Reason::NoDriver);
    let reason = first.map(|(_, reason)| reason).or(no_driver);
    Err(Refused {
        level: policy.required(),
        reason: reason.unwrap_or(Reason::NotArranged),
    })
}

/// Maps memory by a keeper or, where the driver gives no more, by the next that offers
/// as much. Returns which of them it was.
///
/// # Errors
/// The first keeper's reason; nothing is mapped then.
///
/// # Safety
/// As [`Keeper::map`].
pub unsafe fn map_or_next(
    keeper: &'static dyn Keeper,
    place: Place,
    len: usize,
) -> Result<(*mut u8, &'static dyn Keeper), Reason> {
    // SAFETY: the caller's promise.
    let reason = match unsafe { keeper.map(place, len) } {
        Ok(start) => return Ok((start, keeper)),
        Err(reason) => reason,
    };
    if !others_may_have_it(keeper, reason) {
        return Err(reason);
    }
    let next = next(keeper).ok_or(reason)?;
    // SAFETY: as above.
    let start = unsafe { next.map(place, len) }.map_err(|_| reason)?;
    Ok((start, next))
}

/// The keeper that stands in for the driver: it offers as much, and works here.
fn next(keeper: &'static dyn Keeper) -> Option<&'static dyn Keeper> {
    KEEPERS
        .into_iter()
        .skip_while(|other| *other != keeper)
        .skip(1)
        .find(|next| next.offers().contains(keeper.offers()) && probe(*next).is_ok())
}

/// Maps memory by the strongest keeper that the policy asks for and that has it.
///
/// # Errors
/// As [`choose`]; nothing is mapped then.
///
/// # Safety
/// As [`Keeper::map`].
pub(crate) unsafe fn map_by(
    policy: &Policy,
    place: Place,
    len: usize,
) -> Result<(*mut u8, &'static dyn Keeper, Receipt), Refused> {
    let (keeper, receipt, mapped) = choose_with(policy, |keeper| {
        serves(keeper, policy)?;
        // SAFETY: the caller's promise.
        match unsafe { keeper.map(place, len) } {
            Err(reason) if others_may_have_it(keeper, reason) => Err(reason),
            result => Ok(result),
        }
    })?;
    match mapped {
        Ok(start) => Ok((start, keeper, receipt)),
        Err(reason) => Err(Refused {
            level: policy.required(),
            reason,
        }),
    }
}

/// The keeper of 2 MiB pages that has what the policy demands, with the receipt of its memory.
///
/// # Errors
/// Where there is none.
pub(crate) fn choose_huge(policy: &Policy) -> Result<(&'static dyn Keeper, Receipt), Refused> {
    let refused = |reason| Refused {
        level: policy.required(),
        reason,
    };
    let keeper = if policy.asked().contains(Protections::UNCACHED) {
        DRIVER_UNCACHED_HUGE
    } else {
        DRIVER_HUGE
    };
    let lack = Reason::KeeperLacks {
        keeper: keeper.name(),
    };
    if !keeper.offers().contains(policy.demanded()) {
        return Err(refused(lack));
    }
    if policy.fork() == ForkPolicy::Copy {
        probe(SECRETMEM).map_err(refused)?;
    }
    let receipt = Receipt::new(policy.asked())
        .lack(policy.asked().difference(keeper.offers()), lack)
        .hold(keeper.offers());
    Ok((keeper, receipt))
}

/// Whether what the driver refused may be had of another keeper.
fn others_may_have_it(keeper: &dyn Keeper, reason: Reason) -> bool {
    let for_all = matches!(
        reason,
        Reason::LockLimit { .. }
            | Reason::OutOfMemory
            | Reason::TooManyFiles
            | Reason::TooManyMappings { .. }
    );
    keeper.inheritance() == Inheritance::Nothing && !for_all
}

/// Whether a keeper that fails for this has not touched the place where it was to map: a limit is
/// met before.
pub(crate) fn leaves_place_alone(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::LockLimit { .. }
            | Reason::PoolFull { .. }
            | Reason::PoolLimit { .. }
            | Reason::NoDriver
            | Reason::DriverNotPermitted
    )
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
    use strongroom_core::Level;

    #[test]
    fn the_receipt_holds_what_the_keeper_offers() {
        let (keeper, receipt) = choose(&Policy::prefer(Level::Hidden)).unwrap();
        assert_eq!(receipt.held(), keeper.offers());
        assert!(receipt.held().contains(Level::Locked.protections()));
        assert_eq!(receipt.complete(), keeper != LOCKED);
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

    #[test]
    fn what_is_asked_besides_a_level_is_held_or_refused() {
        let policy = Policy::require(Level::Hidden).and(Protections::UNCACHED);
        match (probe(DRIVER_UNCACHED), choose(&policy)) {
            (Ok(()), chosen) => {
                let (keeper, receipt) = chosen.unwrap();
                assert_eq!(keeper, DRIVER_UNCACHED);
                assert!(receipt.complete() && receipt.held().contains(Protections::UNCACHED));
                let (keeper, _) = choose(&Policy::require(Level::Hidden)).unwrap();
                assert_eq!(keeper, DRIVER, "uncached memory is dearer than asked");
            }
            (Err(reason), chosen) => assert_eq!(chosen.unwrap_err().reason, reason),
        }
    }

    #[test]
    fn without_the_driver_its_absence_explains_nothing_else() {
        if probe(DRIVER) != Err(Reason::NoDriver) {
            return;
        }
        match choose(&Policy::require(Level::Hidden)) {
            Ok((keeper, _)) => assert_eq!(keeper, SECRETMEM),
            Err(refused) => assert_ne!(refused.reason, Reason::NoDriver),
        }
    }
}
