//! Victims whose memory is the library's: regions, with a guard page on either side.

use crate::args::VictimArg;
use std::cell::RefCell;
use std::path::Path;
use strongroom::{Level, Policy, Protections, Reason, Refused, Region};
use strongroom_core::driver;
use strongroom_probe::attack::{Owner, Visitor};
use strongroom_probe::victim::Store;
use strongroom_sys::{Errno, page_ceil};

const fn visitor(name: &'static str, argument: &'static str) -> Visitor {
    Visitor {
        name,
        argument,
        owner: Owner::Process,
        level: Some("hidden"),
    }
}

/// In what the machine has.
const HIDDEN: Visitor = visitor("strongroom-region", "region");
/// In the kernel driver's memory, in each of its ways.
const BY_DRIVER: [Visitor; 3] = [
    visitor("strongroom-driver", "driver"),
    visitor("strongroom-uncached", "driver-uncached"),
    visitor("strongroom-huge", "driver-huge"),
];

/// What the attackers know of those that there are here.
pub(super) fn visitors() -> impl Iterator<Item = Visitor> {
    let driver = Path::new(driver::DEVICE).exists();
    let by_driver = BY_DRIVER.into_iter().filter(move |_| driver);
    std::iter::once(HIDDEN).chain(by_driver)
}

/// Regions that are in use, to be dropped by their address.
pub(super) struct Regions {
    policy: Policy,
    huge: bool,
    /// The keeper that it must be; any, where that is left to the policy.
    keeper: Option<&'static str>,
    regions: RefCell<Vec<Region>>,
}

impl Regions {
    pub(super) fn of(victim: VictimArg) -> Self {
        let hidden = Policy::require(Level::Hidden);
        let (policy, huge, keeper) = match victim {
            VictimArg::Driver => (hidden, false, Some("driver")),
            VictimArg::DriverUncached => (
                hidden.and(Protections::UNCACHED),
                false,
                Some("driver-uncached"),
            ),
            VictimArg::DriverHuge => (hidden, true, Some("driver-huge")),
            _ => (hidden, false, None),
        };
        Self {
            policy,
            huge,
            keeper,
            regions: RefCell::default(),
        }
    }
}

impl Store for Regions {
    fn allocate(&self, len: usize) -> Result<*mut u8, Errno> {
        let make = if self.huge { Region::huge } else { Region::new };
        let mut region = make(len, self.policy).map_err(|refused| errno(&refused))?;
        if self.keeper.is_some_and(|keeper| keeper != region.keeper()) {
            return Err(Errno::NODEV);
        }
        // The last pages: what follows is the guard, however much larger the region is.
        let pages = page_ceil(len.max(1)).ok_or(Errno::NOMEM)?;
        let first = region.len().checked_sub(pages).ok_or(Errno::NOMEM)?;
        let block = region.as_mut_ptr().wrapping_add(first);
        self.regions.borrow_mut().push(region);
        Ok(block)
    }

    unsafe fn release(&self, block: *mut u8, _len: usize) {
        let mut regions = self.regions.borrow_mut();
        if let Some(at) = regions
            .iter()
            .position(|region| region.as_ptr_range().contains(&block.cast_const()))
        {
            drop(regions.swap_remove(at));
        }
    }

    // A value is dropped once.
    fn frees_twice(&self) -> bool {
        false
    }

    fn receipt(&self) -> Option<String> {
        let receipt = self.regions.borrow().first()?.receipt();
        serde_json::to_string(&receipt).ok()
    }
}

/// As the kernel would have said it.
fn errno(refused: &Refused) -> Errno {
    match refused.reason {
        Reason::NoSecretMemory => Errno::NOSYS,
        Reason::NotPermitted | Reason::DriverNotPermitted => Errno::PERM,
        Reason::NoDriver => Errno::NODEV,
        Reason::DriverDiffers | Reason::DriverExposed => Errno::OPNOTSUPP,
        Reason::PoolLimit { .. } => Errno::DQUOT,
        Reason::LockLimit { .. } => Errno::AGAIN,
        Reason::TooManyFiles => Errno::MFILE,
        Reason::Kernel { errno, .. } => Errno::from_raw_os_error(errno),
        _ => Errno::NOMEM,
    }
}
