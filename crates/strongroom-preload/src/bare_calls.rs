//! syscall(2) and prctl(2): bare system calls of every family that is wrapped.

use crate::real::pass;
use crate::{advising, ending, executing, forking, locking, mapping};
use core::ffi::{c_char, c_int, c_long, c_ulong, c_void};

/// syscall(2). OpenSSL's secure heap locks by it, for one. The C function is variadic; taking
/// seven words reads registers and one stack slot, whatever was passed (System V ABI, 3.2.3).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let arguments = [a, b, c, d, e, f];
    let plain = || pass(number, arguments) as c_long;
    match number {
        libc::SYS_fork => forking::follow(number, arguments),
        // With a stack of its own the child could not return from here.
        libc::SYS_clone if a as c_int & libc::CLONE_VM == 0 && b == 0 => {
            forking::follow(number, arguments)
        }
        libc::SYS_prctl => prctl(
            a as c_int,
            b as c_ulong,
            c as c_ulong,
            d as c_ulong,
            e as c_ulong,
        ) as c_long,
        libc::SYS_execve => {
            // SAFETY: the program's own arguments.
            (unsafe { executing::execve(a as *const c_char, b as _, c as _) }) as c_long
        }
        libc::SYS_exit_group => {
            ending::write_receipt();
            plain()
        }
        libc::SYS_mmap..=libc::SYS_munmap
        | libc::SYS_mremap
        | libc::SYS_madvise
        | libc::SYS_mlock..=libc::SYS_munlockall
        | libc::SYS_mlock2 => {
            by_number(number, arguments).map_or_else(plain, |result| result as c_long)
        }
        _ => plain(),
    }
}

/// prctl(2): a program may not make itself dumpable again; it is told that it did.
#[unsafe(no_mangle)]
pub extern "C" fn prctl(option: c_int, b: c_ulong, c: c_ulong, d: c_ulong, e: c_ulong) -> c_int {
    let keep_hidden = crate::start::started().is_some_and(|s| !s.config.dumpable);
    if option == libc::PR_SET_DUMPABLE && b == 1 && keep_hidden {
        return 0;
    }
    let arguments = [
        option as usize,
        b as usize,
        c as usize,
        d as usize,
        e as usize,
        0,
    ];
    pass(libc::SYS_prctl, arguments) as c_int
}

/// The wrapped call of that number, where there is one.
fn by_number(number: libc::c_long, a: [usize; 6]) -> Option<isize> {
    let (start, len) = (a[0] as *mut c_void, a[1]);
    // SAFETY: the program's own call, with its own arguments.
    Some(unsafe {
        match number {
            libc::SYS_mmap => mapping::mmap(
                start,
                len,
                a[2] as c_int,
                a[3] as c_int,
                a[4] as c_int,
                a[5] as libc::off_t,
            ) as isize,
            libc::SYS_munmap => mapping::munmap(start, len) as isize,
            libc::SYS_mprotect => mapping::mprotect(start, len, a[2] as c_int) as isize,
            libc::SYS_madvise => advising::madvise(start, len, a[2] as c_int) as isize,
            libc::SYS_mremap => {
                mapping::mremap(start, len, a[2], a[3] as c_int, a[4] as *mut c_void) as isize
            }
            libc::SYS_mlock => locking::mlock(start, len) as isize,
            libc::SYS_mlock2 => locking::mlock2(start, len, a[2] as u32) as isize,
            libc::SYS_munlock => locking::munlock(start, len) as isize,
            libc::SYS_mlockall => locking::mlockall(a[0] as c_int) as isize,
            libc::SYS_munlockall => locking::munlockall() as isize,
            _ => return None,
        }
    })
}
