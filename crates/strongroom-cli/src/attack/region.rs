//! A victim whose memory is the library's: regions, with a guard page on either side.

use std::cell::RefCell;
use strongroom::{Level, Policy, Reason, Refused, Region};
use strongroom_probe::attack::{Owner, Visitor};
use strongroom_probe::victim::Store;
use strongroom_sys::Errno;

/// What the attackers know of it.
pub(super) const VISITOR: Visitor = Visitor {
    name: "strongroom-region",
    argument: "region",
    owner: Owner::Process,
    level: Some("hidden"),
};

const POLICY: Policy = Policy::require(Level::Hidden);

/// Regions that are in use, to be dropped by their address.
#[derive(Default)]
pub(super) struct Regions {
    regions: RefCell<Vec<Region>>,
}

impl Store for Regions {
    fn allocate(&self, len: usize) -> Result<*mut u8, Errno> {
        let mut region = Region::new(len, POLICY).map_err(|refused| errno(&refused))?;
        let start = region.as_mut_ptr();
        self.regions.borrow_mut().push(region);
        Ok(start)
    }

    unsafe fn release(&self, block: *mut u8, _len: usize) {
        let mut regions = self.regions.borrow_mut();
        if let Some(at) = regions.iter().position(|region| region.as_ptr() == block) {
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
        Reason::NotPermitted => Errno::PERM,
        Reason::LockLimit { .. } => Errno::AGAIN,
        Reason::TooManyFiles => Errno::MFILE,
        Reason::Kernel { errno, .. } => Errno::from_raw_os_error(errno),
        _ => Errno::NOMEM,
    }
}
