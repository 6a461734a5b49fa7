//! The processor's caches: flushing a line, and how long one takes to load.

use core::arch::x86_64::{__rdtscp, _mm_clflush, _mm_lfence, _mm_mfence, _rdtsc};

/// clflush: the line is in no cache afterwards.
///
/// # Safety
/// The address must be readable.
#[inline]
pub unsafe fn flush(line: *const u8) {
    // SAFETY: the caller's promise; every x86-64 processor has these instructions.
    unsafe {
        _mm_clflush(line);
        _mm_mfence();
    }
}

/// Loads a byte and returns how many ticks of the time stamp counter that took, with what it
/// takes to look at the counter.
///
/// # Safety
/// The address must be readable, and the processor must have rdtscp (all since 2008).
#[inline(never)]
pub unsafe fn reload_time(line: *const u8) -> u64 {
    let mut processor = 0;
    // SAFETY: the caller's promise.
    unsafe {
        _mm_mfence();
        _mm_lfence();
        let before = _rdtsc();
        _mm_lfence();
        let _ = line.read_volatile();
        let after = __rdtscp(&raw mut processor);
        _mm_lfence();
        after.wrapping_sub(before)
    }
}
