//! Address space for heaps.

use strongroom_sys::Errno;
use strongroom_sys::memory::{self, Advice, Place};

/// Reserves address space that no core dump writes out: a debugger's would be as long as it is.
///
/// # Safety
/// As [`memory::reserve`].
pub(super) unsafe fn reserve(place: Place, len: usize) -> Result<*mut u8, Errno> {
    // SAFETY: the caller's promise.
    let start = unsafe { memory::reserve(place, len) }?;
    // SAFETY: reserved above. Where it is refused, a core dump is longer and holds no secret.
    let _ = unsafe { memory::advise(start, len, Advice::LinuxDontDump) };
    Ok(start)
}
