//! memfd_secret(2): files whose pages leave the kernel's direct map.

use crate::raw;
use crate::{Errno, memory};
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};

/// memfd_secret(2): an empty secret file, closed on exec.
///
/// # Errors
/// ENOSYS where the kernel lacks it or `secretmem.enable=0`; EPERM from seccomp
/// filters; EMFILE, ENFILE, ENOMEM.
pub fn create() -> Result<OwnedFd, Errno> {
    // The flag is O_CLOEXEC; the manual page's FD_CLOEXEC is EINVAL (mm/secretmem.c, 5.14 to 6.18).
    let arguments = [libc::O_CLOEXEC as usize, 0, 0, 0, 0, 0];
    // SAFETY: memfd_secret touches no memory of the caller.
    let fd = raw::check(unsafe { raw::syscall(libc::SYS_memfd_secret as usize, arguments) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sets the file's size in bytes; a secret file takes one size, once.
///
/// # Errors
/// EINVAL for a second size.
pub fn set_length(file: &OwnedFd, len: usize) -> Result<(), Errno> {
    rustix::fs::ftruncate(file, len as u64)
}

/// Maps `len` bytes of the file readable and writable, at `place` or anywhere.
///
/// # Errors
/// EAGAIN where RLIMIT_MEMLOCK leaves too little, ENOMEM for too many mappings.
///
/// # Safety
/// With [`memory::Place::Over`], the range must be the caller's to replace.
pub unsafe fn map(file: &OwnedFd, place: memory::Place, len: usize) -> Result<*mut u8, Errno> {
    // The kernel refuses a mapping beyond RLIMIT_MEMLOCK only after it has unmapped what the new
    // one was to replace (secretmem_mmap; 6.18), and somebody else's next mapping may land in that
    // hole. So it is made elsewhere and moved over.
    // SAFETY: a new mapping replaces nothing.
    let start = unsafe {
        rustix::mm::mmap(
            core::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            file,
            0,
        )
    }?
    .cast::<u8>();
    let memory::Place::Over(to) = place else {
        return Ok(start);
    };
    // SAFETY: mapped above; the caller's promise about the place.
    match unsafe { memory::move_over(start, len, to) } {
        Ok(()) => Ok(to),
        Err(errno) => {
            // SAFETY: mapped above, and nobody has seen it.
            let _ = unsafe { memory::unmap(start, len) };
            Err(errno)
        }
    }
}
