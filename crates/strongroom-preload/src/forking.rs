//! Forks that pass pthread_atfork by: `_Fork`, `clone`, bare system calls.

use crate::real::{Real, returned, set_errno};
use core::ffi::{c_int, c_long, c_void};
use core::mem::transmute;
use strongroom::fork;
use strongroom_sys::{Errno, raw};

/// _Fork(3), glibc 2.34: fork without handlers.
#[unsafe(no_mangle)]
pub extern "C" fn _Fork() -> libc::pid_t {
    static REAL: Real = Real::new(c"_Fork");
    let real = REAL.address();
    if real.is_null() {
        set_errno(Errno::NOSYS);
        return -1;
    }
    let result = fork::follow(|| {
        // SAFETY: libc's function of that name and type.
        let child = unsafe { transmute::<*mut c_void, extern "C" fn() -> libc::pid_t>(real)() };
        if child >= 0 {
            return child as isize;
        }
        // SAFETY: libc's errno of this thread.
        -(unsafe { *libc::__errno_location() } as isize)
    });
    returned(result) as libc::pid_t
}

type CloneFunction = extern "C" fn(*mut c_void) -> c_int;
type Clone = unsafe extern "C" fn(
    CloneFunction,
    *mut c_void,
    c_int,
    *mut c_void,
    *mut c_void,
    *mut c_void,
    *mut c_void,
) -> c_int;

/// What a cloned child does first.
struct Task {
    function: CloneFunction,
    argument: *mut c_void,
}

extern "C" fn run_task(task: *mut c_void) -> c_int {
    fork::after_in_child();
    // SAFETY: points into the copy that the child has of its parent's stack frame.
    let Task { function, argument } = unsafe { task.cast::<Task>().read() };
    function(argument)
}

/// clone(2), the libc function. Its variable arguments are pointers, and reading more of them than
/// were passed reads registers and stack that nothing is done with (System V ABI, 3.2.3).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clone(
    function: CloneFunction,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent_tid: *mut c_void,
    tls: *mut c_void,
    child_tid: *mut c_void,
) -> c_int {
    static REAL: Real = Real::new(c"clone");
    let real = REAL.address();
    if real.is_null() {
        set_errno(Errno::NOSYS);
        return -1;
    }
    // SAFETY: libc's function of that name and type, with the program's own arguments; the task
    // outlives the call, and the child has its own copy of it.
    unsafe {
        let real: Clone = transmute(real);
        if flags & libc::CLONE_VM != 0 {
            return real(function, stack, flags, argument, parent_tid, tls, child_tid);
        }
        let mut task = Task { function, argument };
        fork::before_libc_forks();
        let child = real(
            run_task,
            stack,
            flags,
            (&raw mut task).cast(),
            parent_tid,
            tls,
            child_tid,
        );
        let errno = *libc::__errno_location();
        fork::after_in_parent();
        *libc::__errno_location() = errno;
        child
    }
}

/// Forks by a bare system call.
pub(crate) fn follow(number: c_long, arguments: [usize; 6]) -> c_long {
    // SAFETY: the program's own fork.
    let result = fork::follow(|| unsafe { raw::syscall(number as usize, arguments) });
    returned(result) as c_long
}
