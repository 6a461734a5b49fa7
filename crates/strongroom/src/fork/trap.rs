//! Catching the system call that forks, inside libc, by Syscall User Dispatch.
//!
//! While the trap is armed, each system call of the forking thread raises SIGSYS. The
//! handler makes the call in its place: for a fork, by way of [`super::forked`]. The
//! trap and the SIGSYS action last from the handler before the fork to the one after.

use super::snapshot::forked;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use libc::{REG_R8, REG_R9, REG_R10, REG_RAX, REG_RDI, REG_RDX, REG_RIP, REG_RSI, REG_RSP};
use strongroom_sys::signals::{self, Action, Mask};
use strongroom_sys::syscall_trap::{self, ALLOW, BLOCK, SYS_USER_DISPATCH};
use strongroom_sys::{Errno, raw};

/// One thread at a time forks; the handlers' lock sees to it.
static SELECTOR: AtomicU8 = AtomicU8::new(ALLOW);
static ARMED: AtomicBool = AtomicBool::new(false);
/// Whether the fork was made, successfully or not.
static CAUGHT: AtomicBool = AtomicBool::new(false);
static CHAIN: AtomicUsize = AtomicUsize::new(0);
static CHAIN_FLAGS: AtomicUsize = AtomicUsize::new(0);

const SIGSYS: Mask = signals::only(libc::SIGSYS);

/// An armed trap: what to put back.
pub(super) struct Trap {
    action: Action,
}

/// Arms the trap for this thread, whose signals must all be blocked but SIGSYS.
///
/// # Errors
/// Where the kernel has no such trap; nothing is changed then.
pub(super) fn arm() -> Result<Trap, Errno> {
    // SAFETY: the handler allocates nothing and copes with SIGSYS of other origin.
    let action = unsafe { signals::set_action(libc::SIGSYS, Some(&Action::new(on_sigsys))) }?;
    CHAIN.store(action.handler, Ordering::Relaxed);
    CHAIN_FLAGS.store(action.flags as usize, Ordering::Relaxed);
    CAUGHT.store(false, Ordering::Relaxed);
    SELECTOR.store(ALLOW, Ordering::Relaxed);
    // SAFETY: the selector is static, and the handler was set above.
    if let Err(errno) = unsafe { syscall_trap::arm(&raw const SELECTOR) } {
        // SAFETY: it was the action before.
        let _ = unsafe { signals::set_action(libc::SIGSYS, Some(&action)) };
        return Err(errno);
    }
    ARMED.store(true, Ordering::Relaxed);
    SELECTOR.store(BLOCK, Ordering::Release);
    Ok(Trap { action })
}

impl Trap {
    /// Puts back what [`arm`] changed, in the parent or in the child. Returns whether the fork
    /// went through the trap.
    pub(super) fn disarm(self) -> bool {
        SELECTOR.store(ALLOW, Ordering::Release);
        if ARMED.swap(false, Ordering::Relaxed) {
            let _ = syscall_trap::disarm();
        }
        // SAFETY: it was the action before.
        let _ = unsafe { signals::set_action(libc::SIGSYS, Some(&self.action)) };
        CAUGHT.load(Ordering::Relaxed)
    }
}

extern "C" fn on_sigsys(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands the handler a valid siginfo.
    let ours = unsafe { (*info).si_code } == SYS_USER_DISPATCH;
    if !ours {
        return chain(signal, info, context);
    }
    SELECTOR.store(ALLOW, Ordering::Release);
    // SAFETY: the kernel hands the handler a valid ucontext, ours to change until it returns.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    act(context);
    if ARMED.load(Ordering::Relaxed) {
        SELECTOR.store(BLOCK, Ordering::Release);
    }
}

/// Makes the trapped call, and has its result in rax when the handler returns.
fn act(context: &mut libc::ucontext_t) {
    let mask = mask_of(context);
    let registers = &mut context.uc_mcontext.gregs;
    let register = |name: i32| registers[name as usize] as usize;
    let number = register(REG_RAX);
    let mut arguments = [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9].map(register);
    let result = match number as libc::c_long {
        libc::SYS_fork => fork(number, arguments),
        libc::SYS_clone if arguments[0] as i32 & libc::CLONE_VM == 0 => {
            // The child goes on in this handler, so it keeps this stack until it returns.
            let stack = core::mem::replace(&mut arguments[1], 0);
            let child = fork(number, arguments);
            if child == 0 && stack != 0 {
                registers[REG_RSP as usize] = stack as i64;
            }
            child
        }
        libc::SYS_clone3 if clone3_flags(&arguments) & libc::CLONE_VM as u64 == 0 => {
            clone3(number, arguments, &mut registers[REG_RSP as usize])
        }
        // A call that makes a thread, or shares our memory, cannot be made from this stack: it runs
        // by itself, untrapped, and so does all that follows.
        libc::SYS_clone | libc::SYS_clone3 | libc::SYS_vfork => {
            disarm_in_handler();
            registers[REG_RIP as usize] -= 2; // the length of `syscall`
            return;
        }
        libc::SYS_rt_sigprocmask => set_mask(mask, &arguments),
        // SAFETY: the program's own call, with its own arguments.
        _ => unsafe { raw::syscall(number, arguments) },
    };
    registers[REG_RAX as usize] = result as i64;
}

fn disarm_in_handler() {
    if ARMED.swap(false, Ordering::Relaxed) {
        let _ = syscall_trap::disarm();
    }
}

fn fork(number: usize, arguments: [usize; 6]) -> isize {
    CAUGHT.store(true, Ordering::Relaxed);
    // SAFETY: the program's own fork; its child continues on a copy of this stack.
    let result = forked(|| unsafe { raw::syscall(number, arguments) });
    if result == 0 {
        // The kernel gives a child no trap.
        ARMED.store(false, Ordering::Relaxed);
    } else {
        disarm_in_handler();
    }
    result
}

fn clone3_flags(arguments: &[usize; 6]) -> u64 {
    // SAFETY: struct clone_args starts with its flags; the program's own argument. A null or short
    // one goes to the kernel, which says what is wrong with it.
    if arguments[0] == 0 || arguments[1] < 64 {
        return libc::CLONE_VM as u64;
    }
    // SAFETY: as above.
    unsafe { *(arguments[0] as *const u64) }
}

fn clone3(number: usize, mut arguments: [usize; 6], rsp: &mut i64) -> isize {
    // struct clone_args, include/uapi/linux/sched.h: 11 u64 so far, stack and stack_size at 5 and 6.
    let mut copy = [0u64; 16];
    let len = arguments[1].min(size_of_val(&copy));
    // SAFETY: the program's own structure of that size.
    unsafe {
        core::ptr::copy_nonoverlapping(arguments[0] as *const u8, copy.as_mut_ptr().cast(), len);
    }
    let (stack, stack_size) = (copy[5], copy[6]);
    (copy[5], copy[6]) = (0, 0);
    (arguments[0], arguments[1]) = (copy.as_ptr() as usize, len);
    let child = fork(number, arguments);
    if child == 0 && stack != 0 {
        *rsp = (stack + stack_size) as i64;
    }
    child
}

/// The mask in a signal frame: the kernel's 64 bits.
fn mask_of(context: &mut libc::ucontext_t) -> *mut Mask {
    (&raw mut context.uc_sigmask).cast()
}

/// rt_sigprocmask for the thread as it will be after the handler. SIGSYS stays open: a trap
/// while it is blocked would kill the process.
fn set_mask(frame: *mut Mask, arguments: &[usize; 6]) -> isize {
    let [how, new, old, size, ..] = *arguments;
    if size != size_of::<Mask>() {
        return -(Errno::INVAL.raw_os_error() as isize);
    }
    // SAFETY: the frame is this handler's own; `new` and `old` are the program's own arguments.
    unsafe {
        let before = *frame;
        if new != 0 {
            let set = *(new as *const Mask);
            *frame = match how as i32 {
                libc::SIG_BLOCK => before | set,
                libc::SIG_UNBLOCK => before & !set,
                libc::SIG_SETMASK => set,
                _ => return -(Errno::INVAL.raw_os_error() as isize),
            } & !SIGSYS;
        }
        if old != 0 {
            *(old as *mut Mask) = before;
        }
    }
    0
}

/// A SIGSYS that is not the trap's (a seccomp filter's, in another thread) goes where it went before.
fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    match CHAIN.load(Ordering::Relaxed) {
        libc::SIG_IGN => {}
        libc::SIG_DFL => {
            process_killed_by(signal);
        }
        handler => {
            // SAFETY: the program's own handler, which it set with these flags.
            unsafe {
                if CHAIN_FLAGS.load(Ordering::Relaxed) & libc::SA_SIGINFO as usize != 0 {
                    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                        core::mem::transmute(handler);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(i32) = core::mem::transmute(handler);
                    handler(signal);
                }
            }
        }
    }
}

fn process_killed_by(signal: i32) {
    let default = Action {
        handler: libc::SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    // SAFETY: the default action; then the signal again, which now ends the process.
    unsafe {
        let _ = signals::set_action(signal, Some(&default));
        let _ = signals::set_mask(!signals::only(signal));
        libc::raise(signal);
    }
}
