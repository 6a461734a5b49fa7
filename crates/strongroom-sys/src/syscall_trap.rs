//! Syscall User Dispatch (prctl(2), Linux 5.11): the calling thread's own system
//! calls raise SIGSYS, so that a call made deep inside libc can be replaced.

use crate::signals::{self, Action};
use crate::{Errno, raw};
use core::sync::atomic::{AtomicU8, Ordering};

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

/// What [`try_out`]'s handler answers; no process has this number.
const CAUGHT: isize = 0x5afe_0000;

/// Tries the trap out: traps one harmless system call and has the handler answer it.
///
/// # Errors
/// EBUSY where this process has more than one thread, which would meet the handler too;
/// those of [`arm`]; ENOSYS where it arms and does not trap.
pub fn try_out() -> Result<(), Errno> {
    // proc(5): the link count of the task directory is its threads and two.
    if rustix::fs::stat(c"/proc/self/task")?.st_nlink != 3 {
        return Err(Errno::BUSY);
    }
    // No other handler may run while system calls trap, and a blocked SIGSYS would kill.
    let mask = signals::set_mask(!signals::only(libc::SIGSYS))?;
    // SAFETY: the handler changes one register of what it interrupts, and only for this trap.
    let tried = unsafe { signals::set_action(libc::SIGSYS, Some(&Action::new(answer))) }.and_then(
        |before| {
            let caught = trap_one_call();
            // SAFETY: it was the action before.
            unsafe { signals::set_action(libc::SIGSYS, Some(&before)) }?;
            caught
        },
    );
    signals::set_mask(mask)?;
    tried
}

fn trap_one_call() -> Result<(), Errno> {
    let selector = AtomicU8::new(ALLOW);
    // SAFETY: the selector outlives the trap, which is disarmed below; the caller set the handler.
    unsafe { arm(&raw const selector) }?;
    selector.store(BLOCK, Ordering::SeqCst);
    // SAFETY: getppid touches no memory.
    let result = unsafe { raw::syscall(libc::SYS_getppid as usize, [0; 6]) };
    selector.store(ALLOW, Ordering::SeqCst);
    disarm()?;
    if result == CAUGHT {
        Ok(())
    } else {
        Err(Errno::NOSYS)
    }
}

extern "C" fn answer(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands the handler a valid siginfo and ucontext, ours until it returns.
    unsafe {
        if (*info).si_code == SYS_USER_DISPATCH {
            let context = &mut *context.cast::<libc::ucontext_t>();
            context.uc_mcontext.gregs[libc::REG_RAX as usize] = CAUGHT as i64;
        }
    }
}
