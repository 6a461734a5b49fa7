//! The keeper of the kernel driver's memory: never in the direct map, in one address space alone.

use super::{Inheritance, Keeper, over_lock_limit, refusal};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use strongroom_core::driver::{Abi, HUGE_PAGE, Mode, Properties};
use strongroom_core::{Level, Protections, Reason};
use strongroom_sys::maps::Mapping;
use strongroom_sys::memory::Place;
use strongroom_sys::{Errno, PAGE, driver, limits};

/// /dev/strongroom, in one of its modes.
pub(super) struct Driver {
    name: &'static str,
    mode: Mode,
}

const HIDDEN: Mode = Mode::of_level(Level::Hidden);
const CLOSED: Mode = Mode::of_level(Level::Closed);

pub(super) static DRIVER: Driver = Driver {
    name: "driver",
    mode: HIDDEN,
};
pub(super) static UNCACHED: Driver = Driver {
    name: "driver-uncached",
    mode: CLOSED,
};
pub(super) static HUGE: Driver = Driver {
    name: "driver-huge",
    mode: HIDDEN.union(Mode::HUGE),
};
pub(super) static UNCACHED_HUGE: Driver = Driver {
    name: "driver-uncached-huge",
    mode: CLOSED.union(Mode::HUGE),
};

impl Keeper for Driver {
    fn name(&self) -> &'static str {
        self.name
    }

    fn offers(&self) -> Protections {
        let hidden = Level::Hidden.protections();
        if self.mode.contains(Mode::UNCACHED) {
            hidden | Protections::UNCACHED
        } else {
            hidden
        }
    }

    fn unit(&self) -> usize {
        if self.mode.contains(Mode::HUGE) {
            HUGE_PAGE as usize
        } else {
            PAGE
        }
    }

    unsafe fn map(&self, place: Place, len: usize) -> Result<*mut u8, Reason> {
        // Whoever takes the descriptor meanwhile has nothing of it: the object is this address space's.
        let object = open()?;
        let offer = offer_of(&object)?;
        let served = Mode::from_bits_truncate(offer.modes).contains(self.mode);
        if !served || !len.is_multiple_of(self.unit()) {
            return Err(Reason::KeeperLacks { keeper: self.name });
        }
        driver::set_mode(&object, len, self.mode)
            .map_err(|errno| refusal("ioctl(/dev/strongroom)", errno, len))?;
        // SAFETY: the caller's promise about `place`.
        unsafe { driver::map(&object, place, len) }.map_err(|errno| unmapped(errno, len))
    }

    /// What mmap granted is there.
    fn settle(&self, _start: *mut u8, _len: usize) -> Result<bool, Reason> {
        Ok(false)
    }

    fn inheritance(&self) -> Inheritance {
        Inheritance::Nothing
    }

    fn made(&self, mapping: &Mapping<'_>) -> bool {
        mapping.is_driver()
    }

    unsafe fn restore_in_child(&self, _start: *mut u8, _len: usize) -> Result<(), Reason> {
        Ok(())
    }
}

fn open() -> Result<OwnedFd, Reason> {
    limits::with_one_more_descriptor(driver::open).map_err(|errno| match errno {
        // Also where the root directory changed since, or /dev is another one.
        Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::NOTDIR => Reason::NoDriver,
        Errno::ACCESS | Errno::PERM => Reason::DriverNotPermitted,
        errno => refusal("open(/dev/strongroom)", errno, 0),
    })
}

/// What the driver says that it can do.
///
/// # Errors
/// Why it cannot be used here.
pub fn offer() -> Result<Abi, Reason> {
    offer_of(&open()?)
}

/// Asked once a process: it stays what it is while the module is loaded, and no answer that it gives
/// later makes memory less secret that is mapped.
fn offer_of(object: &OwnedFd) -> Result<Abi, Reason> {
    static ANSWER: OnceLock<Abi> = OnceLock::new();
    let abi = match ANSWER.get() {
        Some(abi) => *abi,
        None => {
            let abi = driver::abi(object).map_err(|errno| match errno {
                Errno::INVAL | Errno::NOTTY => Reason::DriverDiffers,
                errno => refusal("ioctl(/dev/strongroom)", errno, 0),
            })?;
            *ANSWER.get_or_init(|| abi)
        }
    };
    let properties = Properties::from_bits_truncate(abi.properties);
    if properties.contains(Properties::DEV_MEM_CLOSED) {
        Ok(abi)
    } else {
        Err(Reason::DriverExposed)
    }
}

/// What mmap of the device says: driver/ABI.md.
fn unmapped(errno: Errno, len: usize) -> Reason {
    let need = len as u64;
    match errno {
        Errno::AGAIN => over_lock_limit(len),
        Errno::DQUOT => Reason::PoolLimit { need },
        Errno::NXIO => Reason::NoDriver,
        Errno::NOMEM => match refusal("mmap", errno, len) {
            Reason::OutOfMemory => Reason::PoolFull { need },
            reason => reason,
        },
        errno => refusal("mmap(/dev/strongroom)", errno, len),
    }
}
