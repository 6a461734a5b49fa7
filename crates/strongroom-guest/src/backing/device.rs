//! The kernel driver's objects, for the backings that are made of them.

use crate::Error;
use rustix::fd::OwnedFd;
use strongroom_core::driver::{Mode, Properties};
use strongroom_core::{Level, Protections, Receipt};
use strongroom_sys::driver;

/// An object of `len` bytes, with a mode and not mapped yet.
///
/// # Errors
/// A length that is not whole pages; ENOENT and EACCES without the driver; a kernel that lets root read the pool
/// by /dev/mem.
pub(super) fn object(backing: &'static str, len: usize, level: Level) -> Result<OwnedFd, Error> {
    super::whole_pages(len)?;
    let object = driver::open().map_err(Error::of("open(/dev/strongroom)"))?;
    let abi = driver::abi(&object).map_err(Error::of("ioctl(/dev/strongroom)"))?;
    let properties = Properties::from_bits_truncate(abi.properties);
    if !properties.contains(Properties::DEV_MEM_CLOSED) {
        return Err(Error::NotOffered {
            backing,
            what: "memory that /dev/mem does not show, on this kernel",
        });
    }
    driver::set_mode(&object, len, Mode::of_level(level))
        .map_err(Error::of("ioctl(/dev/strongroom)"))?;
    Ok(object)
}

/// What the driver keeps its memory from, private or not: other processes, root, and the kernel itself.
pub(super) fn receipt(keeper: &'static str) -> Receipt {
    let held = Protections::NO_SWAP
        | Protections::NO_CORE_DUMP
        | Protections::NO_FORK_SHARE
        | Protections::NO_FD_SPILL
        | Protections::NO_PEEK
        | Protections::NO_PIN
        | Protections::NO_DIRECT_MAP;
    super::receipt(keeper, held)
}
