//! /dev/strongroom: the kernel driver's objects. driver/ABI.md says what each call does.

use crate::memory::{self, Place};
use crate::{Errno, raw};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};
use strongroom_core::driver::{
    Abi, GET_ABI, GET_HOLDERS, GET_INFO, HIDE, Holder, HoldersRequest, Info, Mode, ModeRequest,
    RangeRequest, SEAL, SET_MODE, SHOW, VERSION,
};

/// The device file, as /proc/PID/maps names its mappings too.
pub const DEVICE: &core::ffi::CStr = c"/dev/strongroom";

/// Opens the device: a new object without a mode, closed on exec.
///
/// # Errors
/// ENOENT, ENXIO, ENODEV without the driver; EACCES, EPERM; EMFILE, ENFILE, ENOMEM.
pub fn open() -> Result<OwnedFd, Errno> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty())
}

/// Whether a descriptor is of the device, and so of an object.
pub fn is_object(file: impl AsFd) -> bool {
    let device = |stat: rustix::fs::Stat| {
        let is = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device();
        is.then_some(stat.st_rdev)
    };
    let known = rustix::fs::stat(DEVICE).ok().and_then(device);
    known.is_some() && rustix::fs::fstat(file).ok().and_then(device) == known
}

/// What the driver is and can do.
///
/// # Errors
/// EINVAL where its interface is another one; ENOTTY for another device.
pub fn abi(object: &OwnedFd) -> Result<Abi, Errno> {
    let mut abi = Abi::asked();
    // SAFETY: the kernel reads and writes one such structure.
    unsafe { call(object, GET_ABI, (&raw mut abi) as usize) }?;
    Ok(abi)
}

/// Makes the calling address space the object's owner; once for each object.
///
/// # Errors
/// EINVAL for a mode that is not served or a size that the mode does not take; EBUSY where it has one.
pub fn set_mode(object: &OwnedFd, bytes: usize, mode: Mode) -> Result<(), Errno> {
    let request = ModeRequest {
        size: size_of::<ModeRequest>() as u32,
        version: VERSION,
        bytes: bytes as u64,
        mode: mode.bits(),
        reserved: 0,
    };
    // SAFETY: the kernel reads one such structure.
    unsafe { call(object, SET_MODE, (&raw const request) as usize) }
}

/// Has the object be mapped no more.
///
/// # Errors
/// EINVAL without a mode; EPERM for others than the owner.
pub fn seal(object: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the call takes no pointer.
    unsafe { call(object, SEAL, 0) }
}

/// The state of the pool.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN.
pub fn info(object: &OwnedFd) -> Result<Info, Errno> {
    let mut info = Info::asked();
    // SAFETY: the kernel reads and writes one such structure.
    unsafe { call(object, GET_INFO, (&raw mut info) as usize) }?;
    Ok(info)
}

/// The objects that hold memory, as many as fit. Returns how many there are.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN.
pub fn holders(object: &OwnedFd, place: &mut [Holder]) -> Result<usize, Errno> {
    let mut request = HoldersRequest {
        size: size_of::<HoldersRequest>() as u32,
        version: VERSION,
        buffer: place.as_mut_ptr() as u64,
        capacity: u32::try_from(place.len()).unwrap_or(u32::MAX).min(65536),
        count: 0,
    };
    // SAFETY: the kernel writes at most `capacity` entries to `place`, which has that many.
    unsafe { call(object, GET_HOLDERS, (&raw mut request) as usize) }?;
    Ok(request.count as usize)
}

/// Has touches of `len` bytes from `start` on raise SIGBUS, in this mapping of the object alone.
///
/// # Errors
/// EINVAL for what is no whole pages and for an object in huge pages; ENOMEM where not all of it is mapped, and
/// without memory for page tables; EPERM for another address space; ENOTTY for a driver without. Nothing changed.
pub fn hide(object: &OwnedFd, start: *mut u8, len: usize) -> Result<(), Errno> {
    range(object, HIDE, start, len)
}

/// Undoes [`hide`].
///
/// # Errors
/// As there.
pub fn show(object: &OwnedFd, start: *mut u8, len: usize) -> Result<(), Errno> {
    range(object, SHOW, start, len)
}

fn range(object: &OwnedFd, number: u32, start: *mut u8, len: usize) -> Result<(), Errno> {
    let mut request = RangeRequest {
        size: size_of::<RangeRequest>() as u32,
        version: VERSION,
        address: start.addr() as u64,
        bytes: len as u64,
        reserved: 0,
    };
    // SAFETY: the kernel reads one such structure; no contents of the range change.
    unsafe { call(object, number, (&raw mut request) as usize) }
}

/// Maps all of an object of `len` bytes, readable and writable, at `place` or anywhere.
///
/// # Errors
/// As mmap of the device: ENOMEM for a full pool, EAGAIN for RLIMIT_MEMLOCK, EDQUOT for the user's limit.
///
/// # Safety
/// With [`Place::Over`], the range must be the caller's to replace.
pub unsafe fn map(object: &OwnedFd, place: Place, len: usize) -> Result<*mut u8, Errno> {
    // The kernel unmaps what is to be replaced before it asks the driver, which may refuse: so it is
    // mapped elsewhere and moved over, while no page of it has been touched.
    // SAFETY: a new mapping replaces nothing.
    let start = unsafe {
        rustix::mm::mmap(
            core::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            object,
            0,
        )
    }?
    .cast::<u8>();
    let Place::Over(to) = place else {
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

/// # Safety
/// `argument` must be what the call takes.
unsafe fn call(object: &OwnedFd, number: u32, argument: usize) -> Result<(), Errno> {
    let arguments = [
        object.as_raw_fd() as usize,
        number as usize,
        argument,
        0,
        0,
        0,
    ];
    // SAFETY: the caller's promise.
    raw::check(unsafe { raw::syscall(libc::SYS_ioctl as usize, arguments) })?;
    Ok(())
}
