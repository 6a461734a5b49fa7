//! Wiping: zeros that the compiler may not leave out.

use core::arch::asm;

/// Zeroes `len` bytes from `start`.
///
/// # Safety
/// The bytes must be writable and nobody else's.
#[inline(always)]
pub unsafe fn wipe(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { start.write_bytes(0, len) };
    // SAFETY: no instruction at all; to the compiler it reads all memory, the zeros included.
    unsafe { asm!("/* {0} */", in(reg) start, options(nostack, preserves_flags)) };
}
