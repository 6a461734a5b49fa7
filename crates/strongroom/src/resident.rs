//! Which pages of a range were ever touched: the others are zero, and touching a secret page for
//! the first time costs some 15 µs.

use strongroom_sys::PAGE;
use strongroom_sys::memory;

/// How many pages are asked about at once.
const BATCH: usize = 512;

/// Calls `visit` with offset and length, in bytes, of each run of present pages in `len` bytes
/// (whole pages) from `start`. Where the kernel does not tell, all count as present.
///
/// # Safety
/// The range must be mapped and the caller's.
pub unsafe fn each_run(start: *const u8, len: usize, mut visit: impl FnMut(usize, usize)) {
    let mut present = [0u8; BATCH];
    for from in (0..len).step_by(BATCH * PAGE) {
        let batch = &mut present[..((len - from) / PAGE).min(BATCH)];
        // SAFETY: the caller's promise.
        if unsafe { memory::residency(start.wrapping_add(from), batch) }.is_err() {
            batch.fill(1);
        }
        let mut at = from;
        for run in batch.chunk_by(|a, b| a & 1 == b & 1) {
            let len = run.len() * PAGE;
            if run[0] & 1 == 1 {
                visit(at, len);
            }
            at += len;
        }
    }
}
