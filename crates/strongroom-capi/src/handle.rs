//! Values behind opaque pointers.

use crate::error::Failure;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc};
use strongroom::Reason;

/// Moves a value behind a pointer. Unlike `Box::new` it fails where the program's malloc does.
pub(crate) fn made<T>(value: T) -> Result<*mut T, Failure> {
    const { assert!(size_of::<T>() != 0) };
    // SAFETY: the layout has a size.
    let place = NonNull::new(unsafe { alloc(Layout::new::<T>()) }.cast::<T>())
        .ok_or(Failure::Reason(Reason::OutOfMemory))?;
    // SAFETY: new, aligned and large enough.
    unsafe { place.write(value) };
    Ok(place.as_ptr())
}

/// Drops the value.
///
/// # Safety
/// The pointer must be one of [`made`], not unmade yet, and nothing may use it afterwards.
pub(crate) unsafe fn unmake<T>(handle: *mut T) {
    // SAFETY: the caller's promise; `made` allocates as Box does.
    drop(unsafe { Box::from_raw(handle) });
}

/// What the pointer leads to.
///
/// # Errors
/// `what`, where it is null.
///
/// # Safety
/// Unless it is null, it must be one of [`made`], or a static, that lives as long as the reference is used.
pub(crate) unsafe fn get<'a, T>(handle: *const T, what: &'static str) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.ok_or(Failure::Argument(what))
}
