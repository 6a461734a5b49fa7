//! Making memory that exists already secret, in place.

use crate::error::{self, Failure};
use crate::policy::{self, strongroom_policy};
use core::ffi::{c_int, c_void};
use core::ops::Range;
use strongroom::conceal::{Outcome, conceal};
use strongroom::{heap, keeper};
use strongroom_sys::{page_ceil, page_floor};

/// `strongroom_concealed`: what became of a range, in bytes of whole pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(non_camel_case_types, reason = "its name in C")]
pub struct strongroom_concealed {
    /// Secret now, or before.
    pub secret: usize,
    /// Locked and no more: stacks, shared and executable mappings.
    pub locked: usize,
}

/// The whole pages that a range touches, as mlock(2) has it.
fn pages(start: usize, len: usize) -> Option<Range<usize>> {
    let end = page_ceil(start.checked_add(len)?)?;
    (start != 0 && len != 0).then_some(page_floor(start)..end)
}

/// Makes the whole pages that hold the range secret, at the same addresses. What became of them goes to
/// `outcome`, unless that is null, also where some could only be locked; other failures leave it.
///
/// Thread safe.
///
/// # Safety
/// The memory must be the caller's: no other thread may be unmapping it, no device may hold it pinned, and it
/// is of no heap and no region. `policy` must be null or lead to a policy, `outcome` null or a place for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_conceal(
    address: *mut c_void,
    len: usize,
    policy: *const strongroom_policy,
    outcome: *mut strongroom_concealed,
) -> c_int {
    // SAFETY: the caller's promise.
    let concealed = unsafe { policy::read(policy) }.and_then(|policy| {
        let range = pages(address as usize, len).ok_or(Failure::Argument(
            "the range is NULL, empty, or longer than there are addresses; give the memory's own",
        ))?;
        // Each of the heap's pages is kept already, and its own to change.
        let heap = heap::global();
        let last = range.end.wrapping_sub(1);
        if heap.contains(range.start as *const u8) || heap.contains(last as *const u8) {
            return Err(Failure::Argument(
                "the range is the process-wide heap's; it is secret already",
            ));
        }
        let (keeper, _) = keeper::choose(&policy)?;
        // SAFETY: the caller's promise.
        let Outcome { secret, locked } = unsafe { conceal(range, keeper, policy.fork().into()) }?;
        if !outcome.is_null() {
            // SAFETY: the caller's promise.
            unsafe { outcome.write(strongroom_concealed { secret, locked }) };
        }
        if locked > 0 {
            return Err(Failure::LockedOnly);
        }
        Ok(())
    });
    error::code(concealed)
}
