//! mmap, munmap, mprotect, mremap: on ranges that are kept, they do what the program
//! expects of ordinary memory; on all others they are the system calls.

use crate::real::set_errno;
use crate::{advice, locking};
use core::ffi::{c_int, c_void};
use core::ops::Range;
use strongroom::heap;
use strongroom::keeper;
use strongroom::ledger::{self, Child, Entry, Holder, Ledger};
use strongroom_sys::memory::{self, READ, WRITE};
use strongroom_sys::{Errno, PAGE, page_ceil, raw};

pub(crate) fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the program's own call, with its own arguments.
    raw::check(unsafe { raw::syscall(number as usize, arguments) })
}

pub(crate) fn status(result: Result<(), Errno>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(errno) => {
            set_errno(errno);
            -1
        }
    }
}

fn address(result: Result<usize, Errno>) -> *mut c_void {
    match result {
        Ok(start) => start as *mut c_void,
        Err(errno) => {
            set_errno(errno);
            libc::MAP_FAILED
        }
    }
}

/// Whether any page of the range is kept by the ledger.
pub(crate) fn touches_kept(range: &Range<usize>) -> bool {
    if heap::global().contains(range.start as *const u8) {
        return true;
    }
    !ledger::is_empty() && !ledger::open().touching(range).is_empty()
}

/// The page-aligned range, where it concerns the ledger at all.
pub(crate) fn kept(start: usize, len: usize) -> Option<Range<usize>> {
    if ledger::is_empty() || !start.is_multiple_of(PAGE) {
        return None;
    }
    let range = start..start.checked_add(page_ceil(len)?)?;
    (!ledger::open().touching(&range).is_empty()).then_some(range)
}

fn map(
    start: *mut c_void,
    len: usize,
    access: c_int,
    flags: c_int,
    fd: c_int,
    offset: libc::off_t,
) -> Result<usize, Errno> {
    // Secret memory comes after: the kernel's own lock would be charged twice.
    let arena = crate::start::maps_arenas()
        && flags & libc::MAP_ANONYMOUS != 0
        && access == libc::PROT_READ | libc::PROT_WRITE;
    let wants = flags & libc::MAP_LOCKED != 0 || locking::future() || arena;
    let private = flags & libc::MAP_TYPE == libc::MAP_PRIVATE && access & libc::PROT_EXEC == 0;
    let conceal = wants && private && flags & (libc::MAP_STACK | libc::MAP_GROWSDOWN) == 0;
    let passed = if conceal {
        flags & !libc::MAP_LOCKED
    } else {
        flags
    };
    if flags & libc::MAP_FIXED != 0
        && let Some(range) = kept(start as usize, len)
    {
        forget(&range)?;
    }
    let arguments = [
        start as usize,
        len,
        access as usize,
        passed as usize,
        fd as usize,
        offset as usize,
    ];
    let mapped = call(libc::SYS_mmap, arguments)?;
    if !ledger::is_empty() {
        // Whatever the ledger had there was unmapped behind its back.
        let _ = ledger::open().cut(&(mapped..mapped.saturating_add(len)));
    }
    advice::note(&(mapped..mapped + len), None);
    if conceal && access != libc::PROT_NONE {
        let range = mapped..mapped + page_ceil(len).ok_or(Errno::INVAL)?;
        // SAFETY: mapped just now, for the program.
        if let Err(errno) = unsafe { locking::make_secret(range.clone()) } {
            // mmap(2): a MAP_LOCKED mapping that cannot be locked may fail with EAGAIN.
            if errno != Errno::NOSYS {
                let _ = call(libc::SYS_munmap, [range.start, range.len(), 0, 0, 0, 0]);
                return Err(if arena { Errno::NOMEM } else { Errno::AGAIN });
            }
        }
    }
    Ok(mapped)
}

/// mmap(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    start: *mut c_void,
    len: usize,
    access: c_int,
    flags: c_int,
    fd: c_int,
    offset: libc::off_t,
) -> *mut c_void {
    address(map(start, len, access, flags, fd, offset))
}

/// mmap64(3): the same on 64-bit machines.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    start: *mut c_void,
    len: usize,
    access: c_int,
    flags: c_int,
    fd: c_int,
    offset: libc::off_t,
) -> *mut c_void {
    address(map(start, len, access, flags, fd, offset))
}

/// Wipes what the range keeps and takes it off the ledger, before the program unmaps it or maps
/// over it. A file lives until its last page is unmapped, so the kernel's own wiping may come late.
fn forget(range: &Range<usize>) -> Result<(), Errno> {
    let mut ledger = ledger::open();
    trust(&mut ledger, range);
    wipe_kept(ledger.touching(range), range);
    ledger.cut(range).map_err(|_| Errno::NOMEM)
}

/// Makes the ledger tell the truth about the range before anything is wiped on its word: what libc
/// unmapped by itself may be something else by now. Without /proc it tells nothing then.
pub(crate) fn trust(ledger: &mut Ledger, range: &Range<usize>) {
    if ledger.reconcile_within(range).is_err() {
        let _ = ledger.cut(range);
    }
}

/// Zeroes the pages of the range that exist and that entries keep.
pub(crate) fn wipe_kept(entries: &[Entry], range: &Range<usize>) {
    for entry in entries {
        let part = entry.start.max(range.start)..entry.end.min(range.end);
        let (start, len) = (part.start as *mut u8, part.len());
        let closed = entry.access & (READ | WRITE) != READ | WRITE;
        // SAFETY: the program gives up the contents of this range, which is mapped and kept.
        unsafe {
            if closed && memory::protect(start, len, READ | WRITE).is_err() {
                continue;
            }
            entry.holder.keeper().each_run(start, len, |offset, len| {
                start.add(offset).write_bytes(0, len);
            });
            if closed {
                let _ = memory::protect(start, len, entry.access);
            }
        }
    }
}

/// munmap(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(start: *mut c_void, len: usize) -> c_int {
    advice::note(
        &(start as usize..(start as usize).saturating_add(len)),
        None,
    );
    let result = match kept(start as usize, len) {
        Some(range) if len > 0 => forget(&range),
        _ => Ok(()),
    };
    status(
        result.and_then(|()| call(libc::SYS_munmap, [start as usize, len, 0, 0, 0, 0]).map(drop)),
    )
}

/// mprotect(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mprotect(start: *mut c_void, len: usize, access: c_int) -> c_int {
    let arguments = [start as usize, len, access as usize, 0, 0, 0];
    if let Some(range) = in_heap(start as usize, len) {
        return status(protect_heap(range, access as u32));
    }
    let Some(range) = kept(start as usize, len) else {
        return status(call(libc::SYS_mprotect, arguments).map(drop));
    };
    let mut ledger = ledger::open();
    // Room first, then the call, then the note: it must not say more than is so.
    let result = ledger
        .update(&range, |_| {})
        .map_err(|_| Errno::NOMEM)
        .and_then(|()| call(libc::SYS_mprotect, arguments))
        .and_then(|_| {
            ledger
                .update(&range, |e| e.access = access as u32)
                .map_err(|_| Errno::NOMEM)
        });
    status(result)
}

/// The page-aligned range, where it lies in the heap: a program may protect or advise pages that it
/// got from posix_memalign.
pub(crate) fn in_heap(start: usize, len: usize) -> Option<Range<usize>> {
    let range = start..start.checked_add(page_ceil(len)?)?;
    let inside = start.is_multiple_of(PAGE) && heap::global().contains_range(&range);
    inside.then_some(range)
}

/// Notes closed pages for forks, which copy them.
fn protect_heap(range: Range<usize>, access: u32) -> Result<(), Errno> {
    let holder = heap::global().holder().ok_or(Errno::NOMEM)?;
    let mut ledger = ledger::open();
    ledger.make_room(3).map_err(|_| Errno::NOMEM)?;
    call(
        libc::SYS_mprotect,
        [range.start, range.len(), access as usize, 0, 0, 0],
    )?;
    let noted = if access == READ | WRITE {
        ledger.cut(&range)
    } else {
        let (start, end) = (range.start, range.end);
        ledger.insert(Entry {
            start,
            end,
            access,
            holder,
            child: Child::Copy,
        })
    };
    noted.map_err(|_| Errno::NOMEM)
}

/// Calls `plain` with each part of the range that is not kept, the ledger unlocked meanwhile.
pub(crate) fn each_gap(
    range: &Range<usize>,
    plain: impl Fn(Range<usize>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut at = range.start;
    while at < range.end {
        let gap = ledger::open().gaps(&(at..range.end)).next();
        let Some(gap) = gap else { break };
        at = gap.end;
        plain(gap)?;
    }
    Ok(())
}

/// mremap(2). Its fifth argument counts with MREMAP_FIXED or MREMAP_DONTUNMAP only.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mremap(
    old: *mut c_void,
    old_len: usize,
    new_len: usize,
    flags: c_int,
    place: *mut c_void,
) -> *mut c_void {
    if flags & libc::MREMAP_FIXED != 0
        && let Some(range) = kept(place as usize, new_len)
        && let Err(errno) = forget(&range)
    {
        return address(Err(errno));
    }
    match kept(old as usize, old_len.max(1)) {
        Some(range) => address(remap_kept(range, new_len, flags, place as usize)),
        None => {
            let arguments = [
                old as usize,
                old_len,
                new_len,
                flags as usize,
                place as usize,
                0,
            ];
            address(call(libc::SYS_mremap, arguments))
        }
    }
}

/// A secret file has one size for good, so a kept range grows by moving into a new one.
fn remap_kept(
    range: Range<usize>,
    new_len: usize,
    flags: c_int,
    place: usize,
) -> Result<usize, Errno> {
    let new_len = page_ceil(new_len)
        .filter(|&len| len > 0)
        .ok_or(Errno::INVAL)?;
    if flags & libc::MREMAP_DONTUNMAP != 0 {
        return Err(Errno::INVAL);
    }
    let fixed = flags & libc::MREMAP_FIXED != 0;
    let mut ledger = ledger::open();
    trust(&mut ledger, &range);
    let entry = match ledger.touching(&range) {
        [entry] if entry.start <= range.start && range.end <= entry.end => *entry,
        // mremap(2): the range must lie in one mapping.
        _ => return Err(Errno::FAULT),
    };
    ledger.make_room(6).map_err(|_| Errno::NOMEM)?;
    let keeper = entry.holder.keeper();
    if keeper.copies_on_write() {
        let arguments = [range.start, range.len(), new_len, flags as usize, place, 0];
        let start = call(libc::SYS_mremap, arguments)?;
        ledger.cut(&range).map_err(|_| Errno::NOMEM)?;
        let moved = Entry {
            start,
            end: start + new_len,
            ..entry
        };
        ledger.insert(moved).map_err(|_| Errno::NOMEM)?;
        return Ok(start);
    }
    let keep = range.len().min(new_len);
    if new_len <= range.len() && !fixed {
        let tail = range.start + new_len..range.end;
        if !tail.is_empty() {
            wipe_kept(ledger.touching(&tail), &tail);
            ledger.cut(&tail).map_err(|_| Errno::NOMEM)?;
            call(libc::SYS_munmap, [tail.start, tail.len(), 0, 0, 0, 0])?;
        }
        return Ok(range.start);
    }
    if flags & libc::MREMAP_MAYMOVE == 0 {
        return Err(Errno::NOMEM);
    }
    let target = if fixed {
        memory::Place::Over(place as *mut u8)
    } else {
        memory::Place::Anywhere
    };
    // SAFETY: a new mapping, or one where the program said that it may be; then both ranges are the
    // program's, and the old one is given up.
    unsafe {
        let (new, new_keeper) =
            keeper::map_or_next(keeper, target, new_len).map_err(|_| Errno::NOMEM)?;
        if new_keeper.settle(new, new_len).is_err() {
            let _ = memory::unmap(new, new_len);
            return Err(Errno::NOMEM);
        }
        let (old, len) = (range.start as *mut u8, range.len());
        if entry.access & (READ | WRITE) != READ | WRITE {
            memory::protect(old, len, READ | WRITE)?;
        }
        keeper.each_run(old, keep, |offset, len| {
            core::ptr::copy_nonoverlapping(old.add(offset), new.add(offset), len);
        });
        if entry.access != READ | WRITE {
            memory::protect(new, new_len, entry.access)?;
        }
        wipe_kept(
            &[Entry {
                access: READ | WRITE,
                ..entry
            }],
            &range,
        );
        ledger.cut(&range).map_err(|_| Errno::NOMEM)?;
        memory::unmap(old, len)?;
        let moved = Entry {
            start: new as usize,
            end: new as usize + new_len,
            holder: Holder::Keeper(new_keeper),
            ..entry
        };
        ledger.insert(moved).map_err(|_| Errno::NOMEM)?;
        Ok(new as usize)
    }
}
