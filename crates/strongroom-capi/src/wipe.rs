//! Wiping what was never secret memory.

use core::ffi::c_void;

/// Zeroes `len` bytes from `start`, also where nothing reads them afterwards; nothing for null.
///
/// Thread safe; the bytes are one thread's at a time.
///
/// # Safety
/// The bytes must be writable and the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_wipe(start: *mut c_void, len: usize) {
    if !start.is_null() {
        // SAFETY: the caller's promise.
        unsafe { strongroom::wipe(start.cast(), len) };
    }
}
