//! What the C shim offers, in user space.

use std::ffi::c_void;

#[unsafe(no_mangle)]
extern "C" fn sr_alloc(bytes: usize) -> *mut c_void {
    // SAFETY: any size may be asked for.
    unsafe { libc::calloc(bytes.max(1), 1) }
}

/// # Safety
/// `memory` is of `sr_alloc`, or null.
#[unsafe(no_mangle)]
unsafe extern "C" fn sr_free(memory: *mut c_void) {
    // SAFETY: the caller's word.
    unsafe { libc::free(memory) }
}

// The room's own functions call none of these; the crate's interface for C does.

#[unsafe(no_mangle)]
extern "C" fn sr_wipe(_pfn: u64, _pages: usize) {
    std::process::abort();
}

#[unsafe(no_mangle)]
extern "C" fn sr_room_lock() {
    std::process::abort();
}

#[unsafe(no_mangle)]
extern "C" fn sr_room_unlock() {
    std::process::abort();
}

#[unsafe(no_mangle)]
extern "C" fn sr_next_mapping(
    _mappings: *const c_void,
    _cursor: *const c_void,
    _first: *mut u64,
    _end: *mut u64,
) -> *const c_void {
    std::process::abort();
}
