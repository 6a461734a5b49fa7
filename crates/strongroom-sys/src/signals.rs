//! Signal masks and actions, by system call: no wrapper of libc's stands between.

use crate::{Errno, raw};
use core::arch::global_asm;

/// A signal set as the kernel sees it.
pub type Mask = u64;

const SIZE: usize = size_of::<Mask>();

/// Sets this thread's signal mask and returns the one before.
///
/// # Errors
/// None in practice.
pub fn set_mask(mask: Mask) -> Result<Mask, Errno> {
    let mut before: Mask = 0;
    let arguments = [
        libc::SIG_SETMASK as usize,
        &raw const mask as usize,
        &raw mut before as usize,
        SIZE,
        0,
        0,
    ];
    // SAFETY: both pointers lead to a Mask that outlives the call.
    raw::check(unsafe { raw::syscall(libc::SYS_rt_sigprocmask as usize, arguments) })?;
    Ok(before)
}

/// Unblocks one signal for this thread.
///
/// # Errors
/// None in practice.
pub fn unblock(signal: i32) -> Result<(), Errno> {
    let mask = only(signal);
    let arguments = [
        libc::SIG_UNBLOCK as usize,
        &raw const mask as usize,
        0,
        SIZE,
        0,
        0,
    ];
    // SAFETY: the pointer leads to a Mask that outlives the call; no old mask is asked for.
    raw::check(unsafe { raw::syscall(libc::SYS_rt_sigprocmask as usize, arguments) })?;
    Ok(())
}

/// Sends a signal to a thread of this process (tgkill(2)).
///
/// # Errors
/// ESRCH where it has ended, EAGAIN past RLIMIT_SIGPENDING.
pub fn send_to_thread(thread: i32, signal: i32) -> Result<(), Errno> {
    let process = crate::process::id();
    let arguments = [process as usize, thread as usize, signal as usize, 0, 0, 0];
    // SAFETY: no memory is involved; what the signal does is what its action says.
    raw::check(unsafe { raw::syscall(libc::SYS_tgkill as usize, arguments) })?;
    Ok(())
}

/// The set that holds one signal.
pub const fn only(signal: i32) -> Mask {
    1 << (signal - 1)
}

/// struct sigaction as the kernel sees it (include/linux/signal_types.h).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Action {
    /// The handler's address, or SIG_DFL or SIG_IGN.
    pub handler: usize,
    /// SA_ flags.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: usize,
    /// What is blocked while it runs.
    pub mask: Mask,
}

global_asm!(
    ".pushsection .text.strongroom_restore,\"ax\",@progbits",
    ".hidden strongroom_restore",
    ".globl strongroom_restore",
    ".type strongroom_restore, @function",
    ".balign 16",
    "strongroom_restore:",
    "mov eax, {sigreturn}",
    "syscall",
    "ud2",
    ".balign 16, 0xcc",
    ".size strongroom_restore, . - strongroom_restore",
    ".popsection",
    sigreturn = const libc::SYS_rt_sigreturn,
);

unsafe extern "C" {
    fn strongroom_restore();
}

/// Address and length of the code through which handlers return.
pub(crate) fn return_path() -> (usize, usize) {
    (strongroom_restore as *const () as usize, 16)
}

impl Action {
    /// An action that calls `handler(signal, info, context)`, everything else blocked meanwhile.
    pub fn new(handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)) -> Self {
        const SA_RESTORER: u64 = 0x0400_0000;
        Self {
            handler: handler as *const () as usize,
            flags: libc::SA_SIGINFO as u64 | SA_RESTORER,
            restorer: strongroom_restore as *const () as usize,
            mask: !0,
        }
    }
}

/// rt_sigaction(2): sets the action where one is given; returns the one before.
///
/// # Errors
/// EINVAL for a signal that takes no handler.
///
/// # Safety
/// The action's handler must be one that may run at any instant in any thread.
pub unsafe fn set_action(signal: i32, action: Option<&Action>) -> Result<Action, Errno> {
    let mut before = Action {
        handler: 0,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    let new = action.map_or(core::ptr::null(), core::ptr::from_ref);
    let arguments = [
        signal as usize,
        new as usize,
        &raw mut before as usize,
        SIZE,
        0,
        0,
    ];
    // SAFETY: `new` is null or a valid Action, `before` is one; the handler is the caller's promise.
    raw::check(unsafe { raw::syscall(libc::SYS_rt_sigaction as usize, arguments) })?;
    Ok(before)
}
