//! exec and spawn: the program that comes next is protected too, or does not start.
//!
//! Any of this may run in a vfork child, on its parent's memory: nothing here takes
//! a lock or allocates, and what it needs lies on the stack.

use crate::real::{Real, returned, set_errno};
use crate::start::{Started, started};
use core::arch::naked_asm;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write;
use core::mem::transmute;
use core::ptr;
use std::os::fd::BorrowedFd;
use strongroom::launch::config::Scope;
use strongroom::launch::program::{self, Program, Unprotectable};
use strongroom::line::Line;
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{Errno, raw};

/// A null-terminated array of strings.
type Strings = *const *const c_char;

unsafe extern "C" {
    /// libc's: the environment of this process.
    static mut environ: Strings;
}

fn environment() -> Strings {
    // SAFETY: a pointer that libc keeps; whoever changes it while others exec races by itself.
    unsafe { environ }
}

/// Whether the program may start, and whether it is Python.
fn judge(verdict: Result<Program, Unprotectable>, path: &CStr) -> Result<bool, Errno> {
    let Some(started) = started() else {
        return Ok(false);
    };
    match verdict {
        Ok(program) if object_is_there(started) => Ok(program.python),
        Ok(_) => {
            let object = first_preload(started.preload.unwrap_or_default()).escape_ascii();
            let what = format_args!("the object {object} is not there, as in a chroot");
            refuse_or_warn(
                started,
                path,
                what,
                "put it there at the same path, readable",
            )
        }
        // The kernel says it better.
        Err(reason) if reason.cause.stops_exec() => Ok(false),
        Err(reason) => refuse_or_warn(started, path, format_args!("{reason}"), reason.cause.fix()),
    }
}

/// Says that the next program cannot be protected; without `--best-effort` it does not start.
fn refuse_or_warn(
    started: &Started,
    path: &CStr,
    why: core::fmt::Arguments<'_>,
    fix: &str,
) -> Result<bool, Errno> {
    let mut line = Line::default();
    let name = path.to_bytes().escape_ascii();
    let going_on = started.config.best_effort;
    let outcome = if going_on {
        "runs unprotected"
    } else {
        "is not started"
    };
    let _ = write!(line, "strongroom: {name} {outcome}: {why}");
    if !fix.is_empty() {
        let _ = write!(line, "; {fix}");
    }
    line.complain();
    if going_on {
        Ok(false)
    } else {
        Err(Errno::PERM)
    }
}

/// Whether the loader of the next program will find this object: in a chroot it may not be, and the
/// loader goes on without it.
fn object_is_there(started: &Started) -> bool {
    let Some(preload) = started.preload else {
        return true;
    };
    rustix::fs::access(first_preload(preload), rustix::fs::Access::READ_OK).is_ok()
}

/// Room for this many pointers lies on the stack.
const FEW: usize = 512;
/// And for an LD_PRELOAD of this many bytes.
const TEXT: usize = 4096;

/// Calls `act` with the environment, completed by what protects the next program.
///
/// # Safety
/// `given` must be null or a null-terminated array of strings.
unsafe fn with_environment<R>(given: Strings, python: bool, act: impl FnOnce(Strings) -> R) -> R {
    let Some(Started {
        config,
        preload: Some(preload),
        settings: Some(settings),
        ..
    }) = started()
    else {
        return act(given);
    };
    let python = python && config.scope == Scope::Heap;
    let ours = first_preload(preload);
    let mut text = [0u8; TEXT];
    let mut found = Found::default();
    let mut count = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while !given.is_null() && !(*given.add(count)).is_null() {
            found.look_at(CStr::from_ptr(*given.add(count)), ours, settings);
            count += 1;
        }
    }
    if found.preload && found.settings && (found.python || !python) {
        return act(given);
    }
    let mut few = [ptr::null::<c_char>(); FEW];
    let mut more = None;
    let array: &mut [*const c_char] = if count + 4 <= FEW {
        &mut few
    } else {
        let len = ((count + 4) * size_of::<*const c_char>()).next_multiple_of(strongroom_sys::PAGE);
        // SAFETY: a new mapping replaces nothing.
        match unsafe { memory::map_private(Place::Anywhere, len) } {
            Ok(start) => {
                more = Some((start, len));
                // SAFETY: mapped just now, zeroed and that long.
                unsafe { core::slice::from_raw_parts_mut(start.cast(), count + 4) }
            }
            Err(_) => return act(given),
        }
    };
    let mut at = 0;
    let mut add = |text: *const c_char| {
        array[at] = text;
        at += 1;
    };
    // SAFETY: the caller's promise.
    unsafe {
        for index in 0..count {
            let entry = CStr::from_ptr(*given.add(index));
            if entry.to_bytes().starts_with(b"LD_PRELOAD=") && !found.preload
                || entry.to_bytes().starts_with(b"STRONGROOM=")
            {
                continue;
            }
            add(entry.as_ptr());
        }
    }
    add(settings.as_ptr());
    if !found.preload {
        add(joined(&mut text, preload, ours, found.theirs).as_ptr());
    }
    if python && !found.python {
        add(c"PYTHONMALLOC=malloc".as_ptr());
    }
    let result = act(array.as_ptr());
    if let Some((start, len)) = more {
        // SAFETY: mapped above and no longer used.
        let _ = unsafe { memory::unmap(start, len) };
    }
    result
}

/// What an environment has already.
#[derive(Default)]
struct Found<'a> {
    preload: bool,
    settings: bool,
    python: bool,
    /// The program's own LD_PRELOAD, without this object in it.
    theirs: &'a [u8],
}

impl<'a> Found<'a> {
    fn look_at(&mut self, entry: &'a CStr, ours: &[u8], settings: &CStr) {
        let bytes = entry.to_bytes();
        if let Some(list) = bytes.strip_prefix(b"LD_PRELOAD=") {
            self.preload = list
                .split(|&b| b == b':' || b == b' ')
                .any(|item| item == ours);
            self.theirs = list;
        } else if bytes.starts_with(b"PYTHONMALLOC=") {
            self.python = true;
        } else {
            self.settings |= entry == settings;
        }
    }
}

/// This object's path: the first of the list that `run` made.
fn first_preload(preload: &CStr) -> &[u8] {
    let list = preload
        .to_bytes()
        .strip_prefix(b"LD_PRELOAD=")
        .unwrap_or_default();
    list.split(|&b| b == b':' || b == b' ')
        .next()
        .unwrap_or_default()
}

/// `LD_PRELOAD=ours:theirs`; ours alone where that is too long.
fn joined<'a>(text: &'a mut [u8; TEXT], preload: &'a CStr, ours: &[u8], theirs: &[u8]) -> &'a CStr {
    let colon: &[u8] = if theirs.is_empty() { b"" } else { b":" };
    let parts = [b"LD_PRELOAD=", ours, colon, theirs];
    let mut len = 0;
    for part in parts {
        let Some(room) = text.get_mut(len..len + part.len()) else {
            return preload;
        };
        room.copy_from_slice(part);
        len += part.len();
    }
    text[TEXT - 1] = 0;
    CStr::from_bytes_until_nul(text).unwrap_or(preload)
}

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
fn each_candidate<R>(file: &CStr, mut act: impl FnMut(&CStr) -> Option<R>) -> Option<R> {
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

/// Puts what protects the next program back into the environment of this one, from which libc's
/// `system` and `popen` start shells.
fn complete_own_environment() {
    let Some(Started {
        preload: Some(preload),
        settings: Some(settings),
        ..
    }) = started()
    else {
        return;
    };
    for string in [preload, settings] {
        let key = string
            .to_bytes()
            .iter()
            .position(|&b| b == b'=')
            .map_or(0, |at| at + 1);
        let mut there = false;
        let mut at = environment();
        // SAFETY: the process's environment, which nobody may change meanwhile.
        unsafe {
            while !at.is_null() && !(*at).is_null() {
                there |= CStr::from_ptr(*at)
                    .to_bytes()
                    .starts_with(&string.to_bytes()[..key]);
                at = at.add(1);
            }
            if !there {
                // The string lies where the kernel put it and stays.
                libc::putenv(string.as_ptr().cast_mut());
            }
        }
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
        return failed(Errno::NOSYS);
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
