//! madvise: on memory that is kept it does what the program means by it, and exposes nothing; on
//! all other it is the system call.

use crate::advice;
use crate::mapping::{call, each_gap, in_heap, kept, status, trust, wipe_kept};
use core::ffi::{c_int, c_void};
use core::ops::Range;
use strongroom::heap;
use strongroom::ledger::{self, Child, Entry};
use strongroom_sys::Errno;
use strongroom_sys::memory::{self, Advice, READ, WRITE};

/// madvise(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int {
    if let Some(range) = in_heap(start as usize, len) {
        return status(advise_heap(&range, advice));
    }
    let plain = |range: Range<usize>| {
        let arguments = [range.start, range.len(), advice as usize, 0, 0, 0];
        call(libc::SYS_madvise, arguments)?;
        match advice {
            libc::MADV_WIPEONFORK => advice::note(&range, Some(Child::Zeros)),
            libc::MADV_DONTFORK => advice::note(&range, Some(Child::Nothing)),
            libc::MADV_KEEPONFORK | libc::MADV_DOFORK => advice::note(&range, None),
            _ => {}
        }
        Ok(())
    };
    let result = match kept(start as usize, len) {
        Some(range) => advise(&range, advice, plain),
        // Bad alignment and the like: the kernel says what is wrong.
        None => plain(start as usize..(start as usize).wrapping_add(len)),
    };
    status(result)
}

/// What advice means for pages of the heap: as for kept memory, but that a fork treats all alike.
fn advise_heap(range: &Range<usize>, advice: c_int) -> Result<(), Errno> {
    match advice {
        libc::MADV_DONTNEED | libc::MADV_FREE | libc::MADV_DONTNEED_LOCKED => {
            let (start, end) = (range.start, range.end);
            let whole = Entry {
                start,
                end,
                access: READ | WRITE,
                holder: heap::global().holder().ok_or(Errno::INVAL)?,
                child: Child::Copy,
            };
            wipe_kept(&[whole], range);
            Ok(())
        }
        libc::MADV_DODUMP | libc::MADV_DONTDUMP => Ok(()),
        libc::MADV_KEEPONFORK | libc::MADV_DOFORK => Ok(()),
        advice if is_hint(advice) => Ok(()),
        _ => Err(Errno::INVAL),
    }
}

/// Whether the advice is about speed alone.
fn is_hint(advice: c_int) -> bool {
    matches!(
        advice,
        libc::MADV_NORMAL
            | libc::MADV_RANDOM
            | libc::MADV_SEQUENTIAL
            | libc::MADV_WILLNEED
            | libc::MADV_HUGEPAGE
            | libc::MADV_NOHUGEPAGE
            | libc::MADV_MERGEABLE
            | libc::MADV_UNMERGEABLE
            | libc::MADV_COLD
            | libc::MADV_PAGEOUT
            | libc::MADV_POPULATE_READ
            | libc::MADV_POPULATE_WRITE
            | libc::MADV_COLLAPSE
    )
}

/// posix_madvise(3). Its POSIX_MADV_DONTNEED is a hint, as in glibc.
#[unsafe(no_mangle)]
pub extern "C" fn posix_madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int {
    if advice == libc::POSIX_MADV_DONTNEED || kept(start as usize, len).is_some() {
        return 0;
    }
    match call(
        libc::SYS_madvise,
        [start as usize, len, advice as usize, 0, 0, 0],
    ) {
        Ok(_) => 0,
        Err(errno) => errno.raw_os_error(),
    }
}

/// What advice means for kept memory: contents and forks as asked, exposure never.
fn advise(
    range: &Range<usize>,
    advice: c_int,
    plain: impl Fn(Range<usize>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    // What lies between kept ranges is ordinary memory.
    each_gap(range, plain)?;
    let mut ledger = ledger::open();
    trust(&mut ledger, range);
    let policy = crate::start::started().map_or(Child::Copy, |s| s.config.fork.into());
    let mut child = |child: Child| {
        ledger
            .update(range, |e| e.child = child)
            .map_err(|_| Errno::NOMEM)
    };
    match advice {
        // Private anonymous memory reads zero after these; locked memory refuses them, and so do we not:
        // the program may have been told that its lock succeeded long ago.
        libc::MADV_DONTNEED | libc::MADV_FREE | libc::MADV_DONTNEED_LOCKED => {
            wipe_kept(ledger.touching(range), range);
            Ok(())
        }
        libc::MADV_WIPEONFORK => child(Child::Zeros),
        libc::MADV_KEEPONFORK | libc::MADV_DOFORK => {
            child(policy)?;
            undo_fork_advice(&ledger, range, advice)
        }
        libc::MADV_DONTFORK => child(Child::Nothing),
        // Never into a core dump, whatever is asked; locked memory takes this as given.
        libc::MADV_DODUMP | libc::MADV_DONTDUMP => Ok(()),
        advice if is_hint(advice) => Ok(()),
        // MADV_REMOVE is for shared memory; the rest is unknown, or takes pages from their owner.
        _ => Err(Errno::INVAL),
    }
}

/// Locked memory carries the kernel's own advice once a fork saw it; take it back.
fn undo_fork_advice(
    ledger: &ledger::Ledger,
    range: &Range<usize>,
    advice: c_int,
) -> Result<(), Errno> {
    let advice = match advice {
        libc::MADV_KEEPONFORK => Advice::LinuxKeepOnFork,
        _ => Advice::LinuxDoFork,
    };
    for entry in ledger
        .touching(range)
        .iter()
        .filter(|e| e.holder.keeper().copies_on_write())
    {
        let part = entry.start.max(range.start)..entry.end.min(range.end);
        // SAFETY: changes nothing in this process.
        unsafe { memory::advise(part.start as *mut u8, part.len(), advice) }?;
    }
    Ok(())
}
