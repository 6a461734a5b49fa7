//! Mappings: mmap, munmap, mremap, mprotect, madvise, mlock, mincore.
//!
//! Addresses and lengths are in bytes; the kernel wants whole pages.

use crate::{Errno, PAGE, raw};
use core::ffi::c_void;
use core::ptr;
pub use rustix::mm::Advice;
use rustix::mm::{MapFlags, MlockFlags, MprotectFlags, MremapFlags, ProtFlags};

/// PROT_READ, as [`protect`] takes it.
pub const READ: u32 = libc::PROT_READ as u32;
/// PROT_WRITE.
pub const WRITE: u32 = libc::PROT_WRITE as u32;
/// PROT_EXEC.
pub const EXEC: u32 = libc::PROT_EXEC as u32;

/// Where a new mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever the kernel likes.
    Anywhere,
    /// Over whatever is at this address (MAP_FIXED).
    Over(*mut u8),
}

impl Place {
    pub(crate) fn hint(self) -> (*mut c_void, MapFlags) {
        match self {
            Place::Anywhere => (ptr::null_mut(), MapFlags::empty()),
            Place::Over(address) => (address.cast(), MapFlags::FIXED),
        }
    }
}

/// Reserves address space: nothing in it can be touched, nothing is charged.
///
/// # Errors
/// ENOMEM where RLIMIT_AS or the address space has no room.
///
/// # Safety
/// With [`Place::Over`], the range must be the caller's to replace.
pub unsafe fn reserve(place: Place, len: usize) -> Result<*mut u8, Errno> {
    let (hint, fixed) = place.hint();
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | fixed;
    // SAFETY: a new mapping, or one over a range that the caller may replace.
    let start = unsafe { rustix::mm::mmap_anonymous(hint, len, ProtFlags::empty(), flags) }?;
    Ok(start.cast())
}

/// Maps zeroed private memory, readable and writable.
///
/// # Errors
/// ENOMEM; EAGAIN under mlockall(MCL_FUTURE) past RLIMIT_MEMLOCK.
///
/// # Safety
/// With [`Place::Over`], the range must be the caller's to replace.
pub unsafe fn map_private(place: Place, len: usize) -> Result<*mut u8, Errno> {
    let (hint, fixed) = place.hint();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, or one over a range that the caller may replace.
    let start =
        unsafe { rustix::mm::mmap_anonymous(hint, len, access, MapFlags::PRIVATE | fixed) }?;
    Ok(start.cast())
}

/// Maps one zeroed page that children share, for a word that both sides of a fork read.
///
/// # Errors
/// ENOMEM.
pub fn map_shared_page() -> Result<*mut u8, Errno> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping replaces nothing.
    let start =
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE, access, MapFlags::SHARED) }?;
    Ok(start.cast())
}

/// munmap(2).
///
/// # Errors
/// EINVAL for a misaligned range; ENOMEM where splitting a mapping would pass vm.max_map_count.
///
/// # Safety
/// The range must be the caller's, and nothing may use it afterwards.
pub unsafe fn unmap(start: *mut u8, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { rustix::mm::munmap(start.cast(), len) }
}

/// Moves a mapping over another range of the same length (MREMAP_FIXED).
///
/// # Errors
/// ENOMEM past vm.max_map_count, EINVAL, EFAULT; the old mapping then stays.
///
/// # Safety
/// Both ranges must be the caller's, and nothing may use `from` afterwards.
pub unsafe fn move_over(from: *mut u8, len: usize, to: *mut u8) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { rustix::mm::mremap_fixed(from.cast(), len, len, MremapFlags::MAYMOVE, to.cast()) }?;
    Ok(())
}

/// Moves the pages of a private anonymous mapping elsewhere and leaves the mapping, empty
/// (MREMAP_DONTUNMAP, Linux 5.7). Returns where they are.
///
/// # Errors
/// EINVAL for other memory, ENOMEM; nothing is moved then.
///
/// # Safety
/// The range must be the caller's.
pub unsafe fn move_away(start: *mut u8, len: usize) -> Result<*mut u8, Errno> {
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP) as usize;
    // With this flag the kernel reads the fifth argument, a hint, which rustix's mremap leaves unset.
    let arguments = [start as usize, len, len, flags, 0, 0];
    // SAFETY: the caller's promise.
    let there = raw::check(unsafe { raw::syscall(libc::SYS_mremap as usize, arguments) })?;
    Ok(there as *mut u8)
}

/// mprotect(2), with the PROT_ bits as the kernel numbers them.
///
/// # Errors
/// EACCES, ENOMEM, EINVAL.
///
/// # Safety
/// The range must be the caller's, and nothing may rely on access that is taken away.
pub unsafe fn protect(start: *mut u8, len: usize, access: u32) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { rustix::mm::mprotect(start.cast(), len, MprotectFlags::from_bits_retain(access)) }
}

/// madvise(2).
///
/// # Errors
/// EINVAL where the mapping does not take the advice.
///
/// # Safety
/// The range must be the caller's; some advice drops its contents.
pub unsafe fn advise(start: *mut u8, len: usize, advice: Advice) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { rustix::mm::madvise(start.cast(), len, advice) }
}

/// mlock(2).
///
/// # Errors
/// ENOMEM past RLIMIT_MEMLOCK or for unmapped pages, EPERM for a limit of 0, EAGAIN.
///
/// # Safety
/// The range must be the caller's.
pub unsafe fn lock(start: *mut u8, len: usize) -> Result<(), Errno> {
    // SAFETY: locking changes no contents.
    unsafe { rustix::mm::mlock(start.cast(), len) }
}

/// mlock2(2) with MLOCK_ONFAULT: present pages are locked now, others when they are touched.
///
/// # Errors
/// As [`lock`].
///
/// # Safety
/// The range must be the caller's.
pub unsafe fn lock_on_fault(start: *mut u8, len: usize) -> Result<(), Errno> {
    // SAFETY: locking changes no contents.
    unsafe { rustix::mm::mlock_with(start.cast(), len, MlockFlags::ONFAULT) }
}

/// Has every page of a shared mapping be there, as a read of each would, by a system call that fails
/// where the read would raise SIGBUS. Changes no contents. Error: the offset in bytes of the first page
/// that cannot be had; those before it are there.
///
/// One futex(2) call a page: of those that read a word, it is the one that every seccomp filter allows.
pub fn touch(start: *const u8, len: usize) -> Result<(), usize> {
    let operation = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let at_once = [0u64; 2];
    for offset in (0..len).step_by(PAGE) {
        let word = start.wrapping_add(offset) as usize;
        let unlikely = u32::MAX as usize;
        let arguments = [word, operation, unlikely, &raw const at_once as usize, 0, 0];
        // SAFETY: the kernel reads the word and the timeout, and sees to it that they can be read. It
        // answers EAGAIN for another word, ETIMEDOUT for this one.
        let result = raw::check(unsafe { raw::syscall(libc::SYS_futex as usize, arguments) });
        if result == Err(Errno::FAULT) {
            return Err(offset);
        }
    }
    Ok(())
}

/// mbind(2) with MPOL_BIND: memory that comes to the range comes from these NUMA nodes, where bit n is
/// node n. Of a shared mapping of a memfd, this is the file's policy for all who map it.
///
/// # Errors
/// EINVAL for no node, or one that is not there.
///
/// # Safety
/// The range must be the caller's.
pub unsafe fn bind(start: *mut u8, len: usize, nodes: u64) -> Result<(), Errno> {
    // The kernel reads one bit less than it is told (mm/mempolicy.c, get_nodes).
    let bits = u64::BITS as usize + 1;
    let arguments = [
        start as usize,
        len,
        libc::MPOL_BIND as usize,
        &raw const nodes as usize,
        bits,
        0,
    ];
    // SAFETY: the kernel reads one word of node bits; no contents change.
    raw::check(unsafe { raw::syscall(libc::SYS_mbind as usize, arguments) })?;
    Ok(())
}

/// mincore(2): one byte a page into `resident`, its low bit set where the page is present.
///
/// # Errors
/// ENOMEM where part of the range is unmapped.
///
/// # Safety
/// `start` must be the page-aligned start of `resident.len()` pages of the caller's.
pub unsafe fn residency(start: *const u8, resident: &mut [u8]) -> Result<(), Errno> {
    let arguments = [
        start as usize,
        resident.len() * PAGE,
        resident.as_mut_ptr() as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes one byte a page, and `resident` has that many.
    raw::check(unsafe { raw::syscall(libc::SYS_mincore as usize, arguments) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_touched_is_told_and_kills_nobody() {
        // A file of one page mapped as two: the second raises SIGBUS.
        let file = rustix::fs::memfd_create(c"touch", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, PAGE as u64).unwrap();
        // SAFETY: a new mapping.
        let start = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(
                ptr::null_mut(),
                2 * PAGE,
                access,
                MapFlags::SHARED,
                &file,
                0,
            )
        }
        .unwrap()
        .cast::<u8>();
        let mut resident = [0; 1];
        // SAFETY: one page of the mapping.
        unsafe { residency(start, &mut resident) }.unwrap();
        assert_eq!(resident[0] & 1, 0);
        assert_eq!(touch(start, 2 * PAGE), Err(PAGE));
        // SAFETY: as above.
        unsafe { residency(start, &mut resident) }.unwrap();
        assert_eq!(resident[0] & 1, 1);
        assert_eq!(touch(start, PAGE), Ok(()));
        // SAFETY: the file's page is there.
        assert_eq!(unsafe { start.read() }, 0);
        // SAFETY: mapped above.
        unsafe { unmap(start, 2 * PAGE) }.unwrap();
    }
}
