//! What the next program gets of the protection: whether it can be protected at all, and the
//! environment that does it.
//!
//! Any of this may run in a vfork child, on its parent's memory: nothing here takes
//! a lock or allocates, and what it needs lies on the stack.

use crate::start::{Started, started};
use core::ffi::{CStr, c_char};
use core::ptr;
use strongroom::launch::config::Scope;
use strongroom::launch::program::{Program, Unprotectable};
use strongroom::line;
use strongroom_sys::Errno;
use strongroom_sys::memory::{self, Place};

/// A null-terminated array of strings.
pub(crate) type Strings = *const *const c_char;

unsafe extern "C" {
    /// libc's: the environment of this process.
    static mut environ: Strings;
}

pub(crate) fn environment() -> Strings {
    // SAFETY: a pointer that libc keeps; whoever changes it while others exec races by itself.
    unsafe { environ }
}

/// Whether the program may start, and whether it is Python.
pub(crate) fn judge(verdict: Result<Program, Unprotectable>, path: &CStr) -> Result<bool, Errno> {
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
    let name = path.to_bytes().escape_ascii();
    let going_on = started.config.best_effort;
    let outcome = if going_on {
        "runs unprotected"
    } else {
        "is not started"
    };
    line::complain(format_args!("{name} {outcome}: {why}"), fix);
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
pub(crate) unsafe fn with_environment<R>(
    given: Strings,
    python: bool,
    act: impl FnOnce(Strings) -> R,
) -> R {
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

/// Puts what protects the next program back into the environment of this one, from which libc's
/// `system` and `popen` start shells.
pub(crate) fn complete_own_environment() {
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
