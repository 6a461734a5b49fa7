//! mlock and its kin: memory that the program declares secret becomes secret, in place.

use crate::advice;
use crate::real::{pass, set_errno};
use crate::start::{lose, source, started};
use core::ffi::{c_int, c_uint, c_void};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use strongroom::conceal::{Failure, conceal};
use strongroom::heap;
use strongroom::ledger;
use strongroom::line;
use strongroom::{Level, Protections, Reason};
use strongroom_sys::maps::{self, Mapping};
use strongroom_sys::{Errno, memory, page_ceil, page_floor};

const MLOCK_ONFAULT: c_uint = 1;

/// Under mlockall(MCL_FUTURE), mmap conceals what it maps.
static FUTURE: AtomicBool = AtomicBool::new(false);

/// Whether new mappings are to be locked.
pub(crate) fn future() -> bool {
    FUTURE.load(Ordering::Relaxed)
}

/// The whole pages that a range touches.
pub(crate) fn pages(start: usize, len: usize) -> Option<Range<usize>> {
    let first = page_floor(start);
    let end = page_ceil(start.checked_add(len)?)?;
    Some(first..end)
}

/// Makes a range secret as mlock(2) would lock it.
///
/// # Safety
/// The range must be the program's to lock.
pub(crate) unsafe fn make_secret(range: Range<usize>) -> Result<(), Errno> {
    let _ = source();
    let Some(started) = started() else {
        return Err(Errno::AGAIN);
    };
    let Some(keeper) = started.keeper else {
        return Err(Errno::NOSYS);
    };
    let global = heap::global();
    if range.is_empty() || global.contains_range(&range) {
        return Ok(());
    }
    let strict = started.config.level == Some(Level::Hidden) && !started.config.best_effort;
    let attempt = || {
        // SAFETY: the caller's promise.
        unsafe { conceal(range.clone(), keeper, started.config.fork.into()) }
    };
    let outcome = attempt().or_else(|failure| match failure {
        // What the heap keeps in reserve may be what is missing.
        Failure::Refused(Reason::LockLimit { .. }) => {
            global.trim();
            attempt()
        }
        failure => Err(failure),
    });
    advice::apply(&range);
    match outcome {
        Ok(outcome) if outcome.locked == 0 || keeper.copies_on_write() => Ok(()),
        Ok(_) => only_locked(Reason::NotConcealable, strict),
        Err(Failure::Unmapped) => Err(Errno::NOMEM),
        // Without /proc, in a bare chroot, nobody can tell what is mapped there.
        Err(Failure::Refused(reason @ Reason::Kernel { call: "open", .. })) => {
            // SAFETY: locking changes no contents.
            unsafe { memory::lock(range.start as *mut u8, range.len()) }?;
            only_locked(reason, strict)
        }
        Err(Failure::Refused(reason)) => {
            complain(reason);
            Err(match reason {
                Reason::LockLimit { .. }
                | Reason::OutOfMemory
                | Reason::PoolFull { .. }
                | Reason::PoolLimit { .. } => Errno::NOMEM,
                Reason::NotPermitted => Errno::PERM,
                _ => Errno::AGAIN,
            })
        }
    }
}

/// The memory is locked and no more: an error where the user named the level.
fn only_locked(reason: Reason, strict: bool) -> Result<(), Errno> {
    lose(
        Level::Hidden.protections() - Level::Locked.protections(),
        Reason::NotConcealable,
    );
    complain(reason);
    if strict { Err(Errno::PERM) } else { Ok(()) }
}

fn complain(reason: Reason) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        let what = format_args!("memory that the program locks is not all secret");
        line::complain_of(what, reason);
    }
}

fn lock(start: usize, len: usize) -> c_int {
    let Some(range) = pages(start, len) else {
        set_errno(Errno::INVAL);
        return -1;
    };
    // SAFETY: the program's own range, by its own call.
    match unsafe { make_secret(range) } {
        Ok(()) => 0,
        Err(Errno::NOSYS) => pass(libc::SYS_mlock, [start, len, 0, 0, 0, 0]) as c_int,
        Err(errno) => {
            set_errno(errno);
            -1
        }
    }
}

/// mlock(2).
#[unsafe(no_mangle)]
pub extern "C" fn mlock(start: *const c_void, len: usize) -> c_int {
    lock(start as usize, len)
}

/// mlock2(2). Secret pages are made when they are touched, so MLOCK_ONFAULT is met too.
#[unsafe(no_mangle)]
pub extern "C" fn mlock2(start: *const c_void, len: usize, flags: c_uint) -> c_int {
    if flags & !MLOCK_ONFAULT != 0 {
        set_errno(Errno::INVAL);
        return -1;
    }
    lock(start as usize, len)
}

/// munlock(2). What was secret stays so until it is unmapped: unlocking says that memory may be
/// swapped, not that it may be read.
#[unsafe(no_mangle)]
pub extern "C" fn munlock(start: *const c_void, len: usize) -> c_int {
    let plain = |range: Range<usize>| {
        pass(libc::SYS_munlock, [range.start, range.len(), 0, 0, 0, 0]) as c_int == 0
    };
    let Some(range) = pages(start as usize, len) else {
        return pass(libc::SYS_munlock, [start as usize, len, 0, 0, 0, 0]) as c_int;
    };
    if heap::global().contains(range.start as *const u8) {
        return 0;
    }
    // Only what lies between kept ranges concerns the kernel.
    let gaps_done = if ledger::is_empty() {
        plain(range)
    } else {
        ledger::open().gaps(&range).all(plain)
    };
    if gaps_done { 0 } else { -1 }
}

/// mlockall(2). Now: the program break's heap becomes secret, everything else is locked where it
/// is. In future: what the program maps becomes secret.
#[unsafe(no_mangle)]
pub extern "C" fn mlockall(flags: c_int) -> c_int {
    const KNOWN: c_int = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    let _ = source();
    if flags & !KNOWN != 0 || flags & (libc::MCL_CURRENT | libc::MCL_FUTURE) == 0 {
        set_errno(Errno::INVAL);
        return -1;
    }
    if started().is_none_or(|s| s.keeper.is_none()) {
        return pass(libc::SYS_mlockall, [flags as usize, 0, 0, 0, 0, 0]) as c_int;
    }
    if flags & libc::MCL_CURRENT != 0
        && let Err(errno) = lock_current()
    {
        set_errno(errno);
        return -1;
    }
    FUTURE.store(flags & libc::MCL_FUTURE != 0, Ordering::Relaxed);
    0
}

fn lock_current() -> Result<(), Errno> {
    let mut at = 0;
    // One mapping at a time: concealing one changes the list.
    while let Some((range, secret)) = next_to_lock(at)? {
        at = range.end;
        if secret {
            // SAFETY: glibc's own heap, which it uses through this very mapping.
            unsafe { make_secret(range) }?;
        } else {
            // SAFETY: locking changes no contents.
            unsafe { memory::lock(range.start as *mut u8, range.len()) }
                .map_err(|_| Errno::NOMEM)?;
            lose(
                Protections::NO_PEEK | Protections::NO_PIN | Protections::NO_DIRECT_MAP,
                Reason::NotConcealable,
            );
        }
    }
    Ok(())
}

/// The next mapping from `from` on that mlockall is to lock, and whether it can be concealed.
fn next_to_lock(from: usize) -> Result<Option<(Range<usize>, bool)>, Errno> {
    let mut next = None;
    maps::each(|mapping| {
        if mapping.start < from || skip(mapping) {
            return true;
        }
        next = Some((mapping.start..mapping.end, mapping.name == b"[heap]"));
        false
    })?;
    Ok(next)
}

/// Reservations, secret memory, the heap's own notes (no secrets, and much address space), and
/// what the kernel itself maps.
fn skip(mapping: &Mapping<'_>) -> bool {
    mapping.access == 0
        || mapping.is_secretmem()
        || mapping.is_driver()
        || mapping.name.starts_with(b"[v")
        || heap::global().contains(mapping.start as *const u8)
        || heap::global().is_metadata(mapping.start as *const u8)
}

/// munlockall(2).
#[unsafe(no_mangle)]
pub extern "C" fn munlockall() -> c_int {
    FUTURE.store(false, Ordering::Relaxed);
    if ledger::is_empty()
        && started().is_none_or(|s| s.config.scope != strongroom::launch::config::Scope::Heap)
    {
        return pass(libc::SYS_munlockall, [0; 6]) as c_int;
    }
    // The kernel's would unlock locked memory that the program did not ask to keep readable.
    0
}
