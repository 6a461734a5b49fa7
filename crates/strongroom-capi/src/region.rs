//! Regions: whole pages kept by one keeper, with a guard page on either side.

use crate::error::{self, Failure};
use crate::handle;
use crate::policy::{self, strongroom_policy};
use crate::receipt::{Document, Text};
use core::ffi::{c_char, c_void};
use core::ptr;
use strongroom::{Policy, Refused, Region};

/// `strongroom_region`, opaque in C.
#[allow(non_camel_case_types, reason = "its name in C")]
pub struct strongroom_region {
    region: Region,
    /// Asked once: what C writes there at any time is no reference's of Rust's.
    start: *mut u8,
    len: usize,
}

const NO_REGION: &str = "the region is NULL; strongroom_region_new failed, or was not called";

/// # Safety
/// As [`policy::read`].
unsafe fn make(
    policy: *const strongroom_policy,
    len: usize,
    new: impl FnOnce(usize, Policy) -> Result<Region, Refused>,
) -> *mut strongroom_region {
    // SAFETY: the caller's promise.
    let made = unsafe { policy::read(policy) }.and_then(|policy| {
        if len == 0 {
            return Err(Failure::Argument(
                "the length is 0; ask for at least one byte",
            ));
        }
        let mut region = new(len, policy)?;
        let (start, len) = (region.as_mut_ptr(), region.len());
        handle::made(strongroom_region { region, start, len })
    });
    made.unwrap_or_else(|failure| {
        error::note(failure);
        ptr::null_mut()
    })
}

/// A region of at least `len` bytes, rounded up to whole pages, zero at first; null where it cannot be had.
///
/// Thread safe.
///
/// # Safety
/// `policy` must be null or lead to a policy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_region_new(
    policy: *const strongroom_policy,
    len: usize,
) -> *mut strongroom_region {
    // SAFETY: the caller's promise.
    unsafe { make(policy, len, Region::new) }
}

/// A region in pages of 2 MiB, of the kernel driver's memory alone; null where it cannot be had.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_region_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_region_new_huge(
    policy: *const strongroom_policy,
    len: usize,
) -> *mut strongroom_region {
    // SAFETY: the caller's promise.
    unsafe { make(policy, len, Region::huge) }
}

/// Asks a region something; `otherwise` where it is null, which is noted.
///
/// # Safety
/// `region` must be null or a region that is not freed.
unsafe fn ask<T>(
    region: *const strongroom_region,
    otherwise: T,
    what: impl FnOnce(&strongroom_region) -> T,
) -> T {
    // SAFETY: the caller's promise.
    match unsafe { handle::get(region, NO_REGION) } {
        Ok(region) => what(region),
        Err(failure) => {
            error::note(failure);
            otherwise
        }
    }
}

/// Where the region's memory starts; null for a null region.
///
/// Thread safe.
///
/// # Safety
/// `region` must be null or a region that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_region_address(
    region: *const strongroom_region,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { ask(region, ptr::null_mut(), |region| region.start.cast()) }
}

/// How long the region is, in bytes; 0 for a null region.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_region_address`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_region_length(region: *const strongroom_region) -> usize {
    // SAFETY: the caller's promise.
    unsafe { ask(region, 0, |region| region.len) }
}

/// The protections that the region is held under, as a set; 0 for a null region.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_region_address`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_region_held(region: *const strongroom_region) -> u32 {
    let held = |region: &strongroom_region| region.region.receipt().held().bits();
    // SAFETY: the caller's promise.
    unsafe { ask(region, 0, held) }
}

/// The region's receipt as JSON, into `buffer` as snprintf(3) would put it. Returns its length in bytes,
/// without the terminating zero; 0 for a null region, with nothing written.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_region_address`]; `len` bytes from `buffer` must be writable, unless it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_region_receipt(
    region: *const strongroom_region,
    buffer: *mut c_char,
    len: usize,
) -> usize {
    let write = |region: &strongroom_region| {
        let keeper = region.region.keeper();
        let document = Document {
            schema: 1,
            keeper,
            kept: &[(keeper, region.len)],
            receipt: region.region.receipt(),
            bytes: region.len,
            chunks: 1,
        };
        // SAFETY: the caller's promise.
        document.write(unsafe { Text::new(buffer, len) })
    };
    // SAFETY: the caller's promise.
    unsafe { ask(region, 0, write) }
}

/// Wipes the region and gives it back; nothing for a null region. errno stays as it is.
///
/// Thread safe, but only once for a region, and while nothing uses it.
///
/// # Safety
/// `region` must be null or a region that is not freed, and nothing may use it, or its memory, afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_region_free(region: *mut strongroom_region) {
    if !region.is_null() {
        let errno = error::errno();
        // SAFETY: the caller's promise.
        unsafe { handle::unmake(region) };
        error::set_errno(errno);
    }
}
