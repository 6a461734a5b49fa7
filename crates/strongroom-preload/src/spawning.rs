//! posix_spawn, system and popen: the programs that they start are protected too, or do not start.

use crate::executing::each_candidate;
use crate::inheritance::{Strings, complete_own_environment, judge, with_environment};
use crate::real::{Real, set_errno};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr;
use strongroom::launch::program::{self, Program, Unprotectable};
use strongroom_sys::Errno;

type Spawn = unsafe extern "C" fn(
    *mut libc::pid_t,
    *const c_char,
    *const c_void,
    *const c_void,
    Strings,
    Strings,
) -> c_int;

/// # Safety
/// As posix_spawn(3).
unsafe fn spawn(
    real: &Real,
    verdict: Result<Program, Unprotectable>,
    (pid, path, actions, attributes): (
        *mut libc::pid_t,
        *const c_char,
        *const c_void,
        *const c_void,
    ),
    arguments: Strings,
    given: Strings,
) -> c_int {
    let real = real.address();
    if real.is_null() {
        return libc::ENOSYS;
    }
    // SAFETY: the caller's promise: a string.
    let name = unsafe { CStr::from_ptr(path) };
    match judge(verdict, name) {
        Err(errno) => errno.raw_os_error(),
        // SAFETY: libc's function of that name and type; the caller's promise.
        Ok(python) => unsafe {
            let real: Spawn = transmute(real);
            with_environment(given, python, |environment| {
                real(pid, path, actions, attributes, arguments, environment)
            })
        },
    }
}

/// posix_spawn(3).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawn(
    pid: *mut libc::pid_t,
    path: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    static REAL: Real = Real::new(c"posix_spawn");
    // SAFETY: the caller's promise.
    unsafe {
        let verdict = program::inspect(CStr::from_ptr(path));
        spawn(
            &REAL,
            verdict,
            (pid, path, actions, attributes),
            arguments,
            environment,
        )
    }
}

/// posix_spawnp(3).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawnp(
    pid: *mut libc::pid_t,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    static REAL: Real = Real::new(c"posix_spawnp");
    // SAFETY: the caller's promise.
    unsafe {
        let name = CStr::from_ptr(file);
        let verdict = if name.to_bytes().contains(&b'/') {
            program::inspect(name)
        } else {
            // What cannot be started is passed over, as the search itself does.
            each_candidate(name, |path| match program::inspect(path) {
                Err(reason) if reason.cause.stops_exec() => None,
                verdict => Some(verdict),
            })
            .unwrap_or(Err(Unprotectable {
                cause: program::Cause::NotFound,
                interpreter: None,
            }))
        };
        spawn(
            &REAL,
            verdict,
            (pid, file, actions, attributes),
            arguments,
            environment,
        )
    }
}

/// system(3).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn system(command: *const c_char) -> c_int {
    static REAL: Real = Real::new(c"system");
    let real = REAL.address();
    if real.is_null() {
        set_errno(Errno::NOSYS);
        return -1;
    }
    complete_own_environment();
    // SAFETY: libc's function of that name and type; the caller's promise.
    unsafe { transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> c_int>(real)(command) }
}

/// popen(3).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn popen(command: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    static REAL: Real = Real::new(c"popen");
    let real = REAL.address();
    if real.is_null() {
        set_errno(Errno::NOSYS);
        return ptr::null_mut();
    }
    complete_own_environment();
    // SAFETY: libc's function of that name and type; the caller's promise.
    unsafe {
        let real: unsafe extern "C" fn(*const c_char, *const c_char) -> *mut libc::FILE =
            transmute(real);
        real(command, mode)
    }
}
