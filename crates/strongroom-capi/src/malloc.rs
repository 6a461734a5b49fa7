//! The process-wide heap, as malloc(3) and its kin.

use crate::error::{self, Failure};
use crate::heap::{self, allocate, allocate_array, null, strongroom_heap};
use crate::policy::{self, strongroom_policy};
use core::ffi::{c_int, c_void};
use core::ptr;
use strongroom::heap::global;

/// Starts the process-wide heap under a policy. Where it runs already under the same one, nothing changes;
/// under another one that is an error. After one that failed, each fails for the same reason.
///
/// Thread safe.
///
/// # Safety
/// `policy` must be null or lead to a policy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_start(policy: *const strongroom_policy) -> c_int {
    // SAFETY: the caller's promise.
    let started = unsafe { policy::read(policy) }.and_then(|policy| {
        global().start(policy)?;
        // Whoever was first has its policy.
        if global().policy() == Some(policy) {
            Ok(())
        } else {
            Err(Failure::Started)
        }
    });
    error::code(started)
}

/// The process-wide heap, for the functions that take one. It is never null, and starts nothing.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_process_heap() -> *mut strongroom_heap {
    ptr::from_ref(global()).cast_mut()
}

/// A zeroed block of at least `size` bytes, aligned to 16; null where memory is refused.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_malloc(size: usize) -> *mut c_void {
    // Every block is aligned to 16.
    allocate(global(), size, 1).unwrap_or_else(null)
}

/// A zeroed block for `count` things of `size` bytes; null where that overflows or memory is refused.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_calloc(count: usize, size: usize) -> *mut c_void {
    allocate_array(global(), count, size).unwrap_or_else(null)
}

/// A block with another size, at the same address or at another; null, with the block as it was, where
/// memory is refused.
///
/// Thread safe; a block is one thread's at a time.
///
/// # Safety
/// `block` must be null or a block in use of the process-wide heap, and is not used any more where another
/// one is returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_realloc(block: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { heap::resize(global(), block, size) }.unwrap_or_else(null)
}

/// As [`strongroom_malloc`], aligned to `alignment` bytes, a power of two.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    allocate(global(), size, alignment).unwrap_or_else(null)
}

/// Wipes a block and takes it back; nothing for null. errno stays as it is.
///
/// What is no block in use of the process-wide heap ends the process with a message.
///
/// Thread safe; a block is one thread's at a time.
///
/// # Safety
/// `block` must be null or a block in use of the process-wide heap, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_free(block: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { heap::free(global(), block) }
}

/// How many bytes a block holds; 0 for null.
///
/// What is no block in use of the process-wide heap ends the process with a message.
///
/// Thread safe.
///
/// # Safety
/// `block` must be null or a block in use of the process-wide heap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_usable_size(block: *mut c_void) -> usize {
    // SAFETY: the caller's promise.
    unsafe { heap::usable_size(global(), block) }
}
