//! Making memory that exists already secret, in place, at the same address.

use crate::keeper::{self, Keeper, refusal};
use crate::ledger::{self, Child, Entry, Holder, Ledger};
use crate::wipe::wipe;
use core::ops::Range;
use std::os::fd::OwnedFd;
use strongroom_core::Reason;
use strongroom_sys::maps::{self, Mapping};
use strongroom_sys::memory::{self, Advice, EXEC, Place, READ, WRITE};
use strongroom_sys::{Errno, PAGE, process, userfaultfd};

/// Why memory could not be concealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Part of the range is not mapped.
    Unmapped,
    /// The kernel or a limit refused.
    Refused(Reason),
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Failure::Refused(reason)
    }
}

/// What became of a range, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Secret now or before.
    pub secret: usize,
    /// Locked only, because it cannot be concealed: stacks, shared and executable mappings.
    pub locked: usize,
}

/// What a mapping allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Kept already.
    Kept,
    /// Private memory that can be replaced.
    Plain { access: u32 },
    /// It can only be locked where it is.
    Fixed,
}

fn kind(mapping: &Mapping<'_>, stack_pointer: usize) -> Kind {
    if mapping.is_secretmem() || mapping.is_driver() {
        return Kind::Kept;
    }
    // Below a stack the kernel grows it; above, the running functions keep their frames.
    let running = (mapping.start..mapping.end).contains(&stack_pointer);
    let special = mapping.name.starts_with(b"[v") || mapping.is_stack();
    if mapping.shared || mapping.access & EXEC != 0 || running || special {
        Kind::Fixed
    } else {
        Kind::Plain {
            access: mapping.access,
        }
    }
}

/// Conceals whole pages that this process has mapped: their contents move into `keeper`'s
/// memory at the same addresses, and the old pages are wiped.
///
/// Costs some 22 µs a page that holds anything. Other threads that touch the range meanwhile
/// wait until it is secret (userfaultfd); where that is not to be had, or the memory is a
/// private file's, a write at that instant may be lost.
///
/// # Errors
/// Nothing of the mapping at which it failed is changed; mappings before it in the range
/// stay concealed.
///
/// # Safety
/// The range must be page-aligned, and the caller must be entitled to lock it: no other
/// thread may be unmapping it, and no device may hold it pinned.
pub unsafe fn conceal(
    range: Range<usize>,
    keeper: &'static dyn Keeper,
    child: Child,
) -> Result<Outcome, Failure> {
    crate::fork::watch();
    let mut ledger = ledger::open();
    let mut outcome = Outcome::default();
    let mut at = range.start;
    while at < range.end {
        // Each mapping is looked up afresh: concealing the one before changed the list.
        let stack_pointer = (&raw const at) as usize;
        let (part, kind) = maps::covering_or_next(at, |mapping| {
            let part = at..mapping.end.min(range.end);
            (mapping.start <= at).then(|| (part, kind(mapping, stack_pointer)))
        })
        .map_err(|errno| refusal("open", errno, 0))?
        .flatten()
        .ok_or(Failure::Unmapped)?;
        let len = part.len();
        at = part.end;
        match kind {
            Kind::Kept => outcome.secret += len,
            // SAFETY: the caller's promise.
            Kind::Fixed => unsafe {
                lock_in_place(&part)?;
                outcome.locked += len;
            },
            Kind::Plain { access } => {
                let locked = keeper.copies_on_write();
                let entry = Entry {
                    start: part.start,
                    end: part.end,
                    access,
                    holder: Holder::Keeper(keeper),
                    child,
                };
                // SAFETY: the caller's promise.
                unsafe {
                    if locked {
                        lock_in_place(&part)?;
                        ledger.insert(entry)?;
                    } else {
                        replace(&mut ledger, entry, keeper)?;
                    }
                }
                outcome.secret += len;
            }
        }
    }
    Ok(outcome)
}

/// # Safety
/// The range must be the caller's.
unsafe fn lock_in_place(part: &Range<usize>) -> Result<(), Failure> {
    let (start, len) = (part.start as *mut u8, part.len());
    // SAFETY: the caller's promise; neither call changes contents.
    unsafe {
        memory::lock(start, len).map_err(|errno| match errno {
            Errno::PERM | Errno::NOMEM => refusal("mlock", Errno::AGAIN, len),
            errno => refusal("mlock", errno, len),
        })?;
        // Best for a stack or a shared mapping; where it is refused the range is still locked.
        let _ = memory::advise(start, len, Advice::LinuxDontDump);
    }
    Ok(())
}

/// Where the old contents are while they are copied.
struct Source {
    start: *mut u8,
    /// Keeps other threads off the range whose pages were moved away.
    hold: Option<OwnedFd>,
}

/// Takes the contents of a range out of other threads' reach, if there are any and it can be done.
///
/// # Safety
/// The range must be one private mapping of the caller's.
unsafe fn take_away(old: *mut u8, len: usize) -> Source {
    let in_place = Source {
        start: old,
        hold: None,
    };
    if process::is_single_threaded().unwrap_or(false) {
        return in_place;
    }
    let Ok(hold) = userfaultfd::hold(old, len) else {
        return in_place;
    };
    // SAFETY: the caller's promise; who touches the range now waits.
    match unsafe { memory::move_away(old, len) } {
        Ok(start) => Source {
            start,
            hold: Some(hold),
        },
        Err(_) => in_place,
    }
}

/// Copies the range into new secret memory, moves that over it, and wipes the old pages.
///
/// # Safety
/// The entry's range must be one private mapping of the caller's.
unsafe fn replace(
    ledger: &mut Ledger,
    mut entry: Entry,
    keeper: &'static dyn Keeper,
) -> Result<(), Failure> {
    let (old, len) = (entry.start as *mut u8, entry.len());
    let closed = entry.access != READ | WRITE;
    ledger.make_room(3)?;
    // SAFETY: `new` is a new mapping, `old` the caller's, and `source` one of the two places where
    // its pages can be.
    unsafe {
        let (new, keeper) = keeper::map_or_next(keeper, Place::Anywhere, len)?;
        entry.holder = Holder::Keeper(keeper);
        if let Err(reason) = keeper.settle(new, len) {
            let _ = memory::unmap(new, len);
            return Err(reason.into());
        }
        let source = take_away(old, len);
        let moved = source.hold.is_some();
        let undo = |errno, call| {
            if moved {
                let _ = memory::move_over(source.start, len, old);
            }
            let _ = memory::protect(old, len, entry.access);
            let _ = memory::unmap(new, len);
            Failure::Refused(refusal(call, errno, len))
        };
        if closed {
            memory::protect(source.start, len, READ | WRITE).map_err(|e| undo(e, "mprotect"))?;
        }
        for page in (0..len).step_by(PAGE) {
            // An untouched page stays one: making it secret would cost a page for nothing.
            if !is_zero(source.start.add(page)) {
                core::ptr::copy_nonoverlapping(source.start.add(page), new.add(page), PAGE);
            }
        }
        if closed {
            memory::protect(new, len, entry.access).map_err(|e| undo(e, "mprotect"))?;
        }
        if !moved {
            wipe_pages(old, len);
        }
        if let Err(errno) = memory::move_over(new, len, old) {
            if !moved {
                // The contents are in the new mapping alone: bring them back before giving up.
                let _ = memory::protect(new, len, READ | WRITE);
                core::ptr::copy_nonoverlapping(new, old, len);
            }
            return Err(undo(errno, "mremap"));
        }
        drop(source.hold);
        if moved {
            wipe_pages(source.start, len);
            let _ = memory::unmap(source.start, len);
        }
    }
    ledger.insert(entry)?;
    Ok(())
}

/// Zeroes the pages that hold anything.
///
/// # Safety
/// The range must be readable, writable and nobody else's.
unsafe fn wipe_pages(start: *mut u8, len: usize) {
    for page in (0..len).step_by(PAGE) {
        // SAFETY: the caller's promise.
        unsafe {
            if !is_zero(start.add(page)) {
                wipe(start.add(page), PAGE);
            }
        }
    }
}

/// Whether a page holds nothing but zeros.
///
/// # Safety
/// The page must be readable.
unsafe fn is_zero(page: *const u8) -> bool {
    // SAFETY: the caller's promise; pages are aligned to more than u64. Volatile, because other
    // threads may write to it.
    (0..PAGE / 8).all(|word| unsafe { page.cast::<u64>().add(word).read_volatile() } == 0)
}
