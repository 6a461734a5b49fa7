//! Syscall User Dispatch (prctl(2), Linux 5.11): the calling thread's own system
//! calls raise SIGSYS, so that a call made deep inside libc can be replaced.

use crate::{Errno, raw};
use core::sync::atomic::AtomicU8;

const PR_SET_SYSCALL_USER_DISPATCH: usize = 59;
const ON: usize = 1;
const OFF: usize = 0;

/// The selector's value under which system calls pass.
pub const ALLOW: u8 = 0;
/// The selector's value under which they raise SIGSYS.
pub const BLOCK: u8 = 1;

/// `si_code` of a SIGSYS raised by this trap (include/uapi/asm-generic/siginfo.h).
pub const SYS_USER_DISPATCH: i32 = 2;

/// Arms the trap for this thread: while `selector` is [`BLOCK`], each system call raises SIGSYS,
/// but for the return from a handler set with [`crate::signals::Action::new`].
///
/// A forked child starts without it (kernel/fork.c clears it).
///
/// # Errors
/// EINVAL before Linux 5.11, ENOSYS or EPERM where emulated or filtered.
///
/// # Safety
/// `selector` must stay mapped until [`disarm`], and a handler for SIGSYS that copes must be set.
pub unsafe fn arm(selector: *const AtomicU8) -> Result<(), Errno> {
    let (pass, len) = crate::signals::return_path();
    let arguments = [
        PR_SET_SYSCALL_USER_DISPATCH,
        ON,
        pass,
        len,
        selector as usize,
        0,
    ];
    // SAFETY: the kernel reads the selector at each system call; it stays mapped.
    raw::check(unsafe { raw::syscall(libc::SYS_prctl as usize, arguments) })?;
    Ok(())
}

/// Disarms it.
///
/// # Errors
/// None in practice; the selector must be [`ALLOW`] or this call traps itself.
pub fn disarm() -> Result<(), Errno> {
    let arguments = [PR_SET_SYSCALL_USER_DISPATCH, OFF, 0, 0, 0, 0];
    // SAFETY: touches no memory.
    raw::check(unsafe { raw::syscall(libc::SYS_prctl as usize, arguments) })?;
    Ok(())
}
