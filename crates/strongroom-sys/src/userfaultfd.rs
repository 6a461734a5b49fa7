//! userfaultfd(2), to hold off threads that touch a range while its pages are elsewhere.

use crate::{Errno, raw};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::mm::UserfaultfdFlags;

/// include/uapi/linux/userfaultfd.h.
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: usize = 0xc018_aa3f;
const UFFDIO_REGISTER: usize = 0xc020_aa00;
const UFFDIO_POISON: usize = 0xc020_aa08;
const MODE_MISSING: u64 = 1;
const MODE_WP: u64 = 2;
const FEATURE_POISON: u64 = 1 << 14;
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
    register(start, len, 0, MODE_MISSING)
}

/// Makes a range one whose pages can be [poisoned](poison) while the descriptor is open. Faults
/// in it go on as ever. When the descriptor is closed, what is poisoned stays so.
///
/// # Errors
/// ENOSYS, EPERM where it is not allowed; EINVAL before Linux 6.6 or for memory other than anonymous,
/// shmem and hugetlb memory.
pub fn allow_poison(start: *mut u8, len: usize) -> Result<OwnedFd, Errno> {
    // Of the ways to register, write protection alone leaves all faults as they are.
    register(start, len, FEATURE_POISON, MODE_WP)
}

/// Makes pages raise SIGBUS when they are touched through this mapping, and EFAULT or EHWPOISON when a
/// system call does. Memory that is behind them, and other mappings of it, stay as they are. Tells how
/// many bytes are done where it does not get to the end: EEXIST for a page that is present
/// or poisoned already.
///
/// # Errors
/// The bytes done, and why it went no further.
pub fn poison(fd: &OwnedFd, start: *mut u8, len: usize) -> Result<(), (usize, Errno)> {
    // struct uffdio_poison: start, len, mode, updated.
    let mut argument = [start as u64, len as u64, 0, 0];
    let result = control(fd, UFFDIO_POISON, &mut argument);
    // A negative count is the error once more.
    let done = usize::try_from(argument[3].cast_signed()).unwrap_or(0);
    match result {
        Ok(()) => Ok(()),
        Err(errno) => Err((done, errno)),
    }
}

fn register(start: *mut u8, len: usize, features: u64, mode: u64) -> Result<OwnedFd, Errno> {
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
    control(&fd, UFFDIO_API, &mut [UFFD_API, features, 0])?;
    // struct uffdio_register: start, len, mode, ioctls.
    control(
        &fd,
        UFFDIO_REGISTER,
        &mut [start as u64, len as u64, mode, 0],
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
