//! System calls as they are: a number, or an errno.

use crate::object::errno;

/// What a call gave.
pub(crate) type Answer = Result<usize, i32>;

/// Any system call.
///
/// # Safety
/// As of the call: what it writes is the caller's.
pub(crate) unsafe fn call(number: i64, arguments: [usize; 6]) -> Answer {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller's word.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 && result >= -4095 {
        Err(errno())
    } else {
        Ok(result as usize)
    }
}

pub(crate) fn open(flags: i32) -> Answer {
    let path = c"/dev/strongroom".as_ptr() as usize;
    let at = libc::AT_FDCWD as usize;
    // SAFETY: a C string.
    unsafe { call(libc::SYS_openat, [at, path, flags as usize, 0, 0, 0]) }
}

pub(crate) fn close(fd: i32) -> Answer {
    // SAFETY: the descriptors of this program are numbers that it opened.
    unsafe { call(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) }
}

/// The structures that a caller names are alive; other addresses the kernel refuses.
pub(crate) fn ioctl(fd: i32, number: u32, argument: usize) -> Answer {
    // SAFETY: the documentation's word.
    unsafe {
        call(
            libc::SYS_ioctl,
            [fd as usize, number as usize, argument, 0, 0, 0],
        )
    }
}

/// A mapping. With MAP_FIXED, of a place that is the caller's.
pub(crate) fn mmap(
    at: usize,
    bytes: usize,
    protection: i32,
    flags: i32,
    fd: i32,
    offset: usize,
) -> Answer {
    let (protection, flags, fd) = (protection as usize, flags as usize, fd as usize);
    // SAFETY: the documentation's word.
    unsafe { call(libc::SYS_mmap, [at, bytes, protection, flags, fd, offset]) }
}

/// Of a place that is the caller's.
pub(crate) fn munmap(at: usize, bytes: usize) -> Answer {
    // SAFETY: the documentation's word.
    unsafe { call(libc::SYS_munmap, [at, bytes, 0, 0, 0, 0]) }
}

/// Of a place that is the caller's.
pub(crate) fn mprotect(at: usize, bytes: usize, protection: i32) -> Answer {
    // SAFETY: the documentation's word.
    unsafe {
        call(
            libc::SYS_mprotect,
            [at, bytes, protection as usize, 0, 0, 0],
        )
    }
}

/// From and to places that are the caller's.
pub(crate) fn mremap(at: usize, old: usize, new: usize, flags: i32, to: usize) -> Answer {
    // SAFETY: the documentation's word.
    unsafe { call(libc::SYS_mremap, [at, old, new, flags as usize, to, 0]) }
}

/// Of a place that is the caller's, and no advice that loses what the program needs.
pub(crate) fn madvise(at: usize, bytes: usize, advice: i32) -> Answer {
    // SAFETY: the documentation's word.
    unsafe { call(libc::SYS_madvise, [at, bytes, advice as usize, 0, 0, 0]) }
}

/// Memory that nothing may touch, over what is there.
pub(crate) fn cover(at: usize, bytes: usize) -> Answer {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    mmap(at, bytes, libc::PROT_NONE, flags, -1, 0)
}

/// Address space that nothing may touch, from a multiple of 2 MiB on.
pub(crate) fn reserve(bytes: usize) -> usize {
    const HUGE: usize = 2 << 20;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let at = mmap(0, bytes + HUGE, libc::PROT_NONE, flags, -1, 0);
    at.unwrap().next_multiple_of(HUGE)
}

/// Says what must not be, and ends the process: what a child panics of is not shown by the harness.
pub(crate) fn violation(text: &str) -> ! {
    let line = format!("fuzz: VIOLATION: {text}\n");
    // SAFETY: the line is alive; the process ends.
    unsafe {
        libc::write(2, line.as_ptr().cast(), line.len());
        libc::_exit(VIOLATED)
    }
}

/// The exit status of a process that found one.
pub(crate) const VIOLATED: i32 = 77;
