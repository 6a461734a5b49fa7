//! userfaultfd(2), to hold off threads that touch a range while its pages are elsewhere.

use crate::{Errno, raw};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::mm::UserfaultfdFlags;

/// include/uapi/linux/userfaultfd.h.
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: usize = 0xc018_aa3f;
const UFFDIO_REGISTER: usize = 0xc020_aa00;
const MODE_MISSING: u64 = 1;
/// Unprivileged processes may handle faults from user mode only (Linux 5.11).
const UFFD_USER_MODE_ONLY: u32 = 1;

/// Until the descriptor is dropped, a thread that touches a page of the range that is not
/// there waits; then it tries again. Without CAP_SYS_PTRACE a system call that touches one
/// fails with EFAULT instead (UFFD_USER_MODE_ONLY).
///
/// The range must be anonymous memory.
///
/// # Errors
/// ENOSYS, EPERM where it is not allowed; EINVAL for other memory.
pub fn hold(start: *mut u8, len: usize) -> Result<OwnedFd, Errno> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: the descriptor stays here and is only used to make threads wait.
    let fd = match unsafe { rustix::mm::userfaultfd(flags) } {
        Err(Errno::PERM) => {
            let flags = flags | UserfaultfdFlags::from_bits_retain(UFFD_USER_MODE_ONLY);
            // SAFETY: as above.
            unsafe { rustix::mm::userfaultfd(flags) }
        }
        result => result,
    }?;
    // struct uffdio_api: api, features, ioctls.
    control(&fd, UFFDIO_API, &mut [UFFD_API, 0, 0])?;
    // struct uffdio_register: start, len, mode, ioctls.
    control(
        &fd,
        UFFDIO_REGISTER,
        &mut [start as u64, len as u64, MODE_MISSING, 0],
    )?;
    Ok(fd)
}

fn control<const N: usize>(
    fd: &OwnedFd,
    request: usize,
    argument: &mut [u64; N],
) -> Result<(), Errno> {
    let arguments = [
        fd.as_raw_fd() as usize,
        request,
        argument.as_mut_ptr() as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the request's structure is as long as the array, which outlives the call.
    raw::check(unsafe { raw::syscall(libc::SYS_ioctl as usize, arguments) })?;
    Ok(())
}
