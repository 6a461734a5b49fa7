//! exec: the program that comes next is protected too, or does not start.
//!
//! Any of this may run in a vfork child, on its parent's memory: nothing here takes
//! a lock or allocates, and what it needs lies on the stack.

use crate::inheritance::{Strings, environment, judge, with_environment};
use crate::real::{returned, set_errno};
use core::arch::naked_asm;
use core::ffi::{CStr, c_char, c_int};
use core::ptr;
use std::os::fd::BorrowedFd;
use strongroom::launch::program;
use strongroom_sys::{Errno, raw};

/// How many arguments a script for /bin/sh may have here.
const FEW: usize = 512;

/// execve, with errno as its error.
///
/// # Safety
/// As execve(2).
unsafe fn execute(path: *const c_char, arguments: Strings, given: Strings) -> Errno {
    if path.is_null() {
        return Errno::FAULT;
    }
    // SAFETY: the caller's promise: a string.
    let name = unsafe { CStr::from_ptr(path) };
    let python = match judge(program::inspect(name), name) {
        Ok(python) => python,
        Err(errno) => return errno,
    };
    // SAFETY: the caller's promise; where the call returns, it failed.
    unsafe {
        with_environment(given, python, |environment| {
            let arguments = [
                path as usize,
                arguments as usize,
                environment as usize,
                0,
                0,
                0,
            ];
            let result = raw::syscall(libc::SYS_execve as usize, arguments);
            raw::check(result).err().unwrap_or(Errno::IO)
        })
    }
}

fn failed(errno: Errno) -> c_int {
    set_errno(errno);
    -1
}

/// execve(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execve(
    path: *const c_char,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    // SAFETY: the caller's promise.
    failed(unsafe { execute(path, arguments, environment) })
}

/// execv(3).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execv(path: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the caller's promise.
    failed(unsafe { execute(path, arguments, environment()) })
}

/// execvp(3).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvp(file: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the caller's promise.
    failed(unsafe { search(file, arguments, environment()) })
}

/// execvpe(3).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvpe(
    file: *const c_char,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    // SAFETY: the caller's promise.
    failed(unsafe { search(file, arguments, environment) })
}

/// Calls `act` with each place where PATH says that `file` may be, until it returns something.
pub(crate) fn each_candidate<R>(file: &CStr, mut act: impl FnMut(&CStr) -> Option<R>) -> Option<R> {
    // SAFETY: getenv has no preconditions but that nobody changes the environment meanwhile.
    let path = unsafe { libc::getenv(c"PATH".as_ptr()) };
    let path = if path.is_null() {
        c"/bin:/usr/bin"
    } else {
        // SAFETY: a string of the environment.
        unsafe { CStr::from_ptr(path) }
    };
    let mut full = [0u8; libc::PATH_MAX as usize];
    for directory in path.to_bytes().split(|&b| b == b':') {
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        let len = directory.len() + slash.len() + file.count_bytes() + 1;
        let Some(room) = full.get_mut(..len) else {
            continue;
        };
        let (head, tail) = room.split_at_mut(directory.len() + slash.len());
        head[..directory.len()].copy_from_slice(directory);
        head[directory.len()..].copy_from_slice(slash);
        tail.copy_from_slice(file.to_bytes_with_nul());
        if let Some(result) = CStr::from_bytes_with_nul(room).ok().and_then(&mut act) {
            return Some(result);
        }
    }
    None
}

/// # Safety
/// As execvpe(3).
unsafe fn search(file: *const c_char, arguments: Strings, environment: Strings) -> Errno {
    if file.is_null() {
        return Errno::FAULT;
    }
    // SAFETY: the caller's promise: a string.
    let name = unsafe { CStr::from_ptr(file) };
    if name.is_empty() {
        return Errno::NOENT;
    }
    let attempt = |path: &CStr| {
        // SAFETY: the caller's promise.
        match unsafe { execute(path.as_ptr(), arguments, environment) } {
            // SAFETY: as above.
            Errno::NOEXEC => unsafe { run_by_shell(path, arguments, environment) },
            errno => errno,
        }
    };
    if name.to_bytes().contains(&b'/') {
        return attempt(name);
    }
    let mut denied = false;
    each_candidate(name, |path| match attempt(path) {
        // exec(3): these go on with the next directory.
        Errno::ACCESS => {
            denied = true;
            None
        }
        Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT => None,
        errno => Some(errno),
    })
    .unwrap_or(if denied { Errno::ACCESS } else { Errno::NOENT })
}

/// exec(3): a file of no known format is a script for /bin/sh.
///
/// # Safety
/// As execvpe(3).
unsafe fn run_by_shell(path: &CStr, arguments: Strings, environment: Strings) -> Errno {
    let mut array = [ptr::null::<c_char>(); FEW];
    array[0] = c"/bin/sh".as_ptr();
    array[1] = path.as_ptr();
    let mut at = 1;
    // SAFETY: the caller's promise: a null-terminated array.
    unsafe {
        while !arguments.is_null() && !(*arguments).is_null() && !(*arguments.add(at)).is_null() {
            if at + 2 >= FEW {
                return Errno::TOOBIG;
            }
            array[at + 1] = *arguments.add(at);
            at += 1;
        }
        execute(c"/bin/sh".as_ptr(), array.as_ptr(), environment)
    }
}

/// fexecve(3).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        execveat(
            fd,
            c"".as_ptr(),
            arguments,
            environment,
            libc::AT_EMPTY_PATH,
        )
    }
}

/// execveat(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execveat(
    directory: c_int,
    path: *const c_char,
    arguments: Strings,
    given: Strings,
    flags: c_int,
) -> c_int {
    if path.is_null() {
        return failed(Errno::FAULT);
    }
    // SAFETY: the caller's promise: a string.
    let name = unsafe { CStr::from_ptr(path) };
    let verdict = if flags & libc::AT_EMPTY_PATH != 0 && name.is_empty() && directory >= 0 {
        // SAFETY: the program's own descriptor; a bad one fails with EBADF.
        program::inspect_open(unsafe { BorrowedFd::borrow_raw(directory) })
    } else {
        program::inspect(name)
    };
    let python = match judge(verdict, name) {
        Ok(python) => python,
        Err(errno) => return failed(errno),
    };
    // SAFETY: the caller's promise.
    unsafe {
        with_environment(given, python, |environment| {
            let arguments = [
                directory as usize,
                path as usize,
                arguments as usize,
                environment as usize,
                flags as usize,
                0,
            ];
            returned(raw::syscall(libc::SYS_execveat as usize, arguments)) as c_int
        })
    }
}

/// Defines a variadic exec function: the words after the first lie in registers and then on the
/// stack (System V ABI, 3.2.3). Pushed below the stack words, without the return address between,
/// they are the array that `$handler(first, array)` gets.
macro_rules! variadic {
    ($(#[$doc:meta])* $name:ident, $handler:path) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() -> c_int {
            naked_asm!(
                "pop r11",
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "push r11",
                "call {handler}",
                "pop r11",
                "add rsp, 40",
                "push r11",
                "ret",
                handler = sym $handler,
            )
        }
    };
}

variadic!(
    /// execl(3).
    execl,
    execv
);
variadic!(
    /// execlp(3).
    execlp,
    execvp
);
variadic!(
    /// execle(3).
    execle,
    execute_with_last
);

/// # Safety
/// `arguments` must be null-terminated, with one more word after the null.
unsafe extern "C" fn execute_with_last(path: *const c_char, arguments: Strings) -> c_int {
    let mut end = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while !(*arguments.add(end)).is_null() {
            end += 1;
        }
        execve(path, arguments, (*arguments.add(end + 1)).cast())
    }
}
