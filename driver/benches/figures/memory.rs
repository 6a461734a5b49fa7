//! Memory of the driver, of memfd_secret, and of nobody.

use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use strongroom_core::driver::{DEVICE, Mode, ModeRequest, SET_MODE, VERSION};

pub(crate) const PAGE: usize = 4096;
pub(crate) const MIB: usize = 1 << 20;
pub(crate) const HUGE: usize = 2 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Driver,
    SecretFile,
    Anonymous,
}

/// Mapped, until it is dropped; its file is closed.
pub(crate) struct Memory {
    address: *mut u8,
    bytes: usize,
}

impl Memory {
    /// Takes and maps so much, and touches none.
    pub(crate) fn take(kind: Kind, bytes: usize) -> Self {
        let (fd, flags) = match kind {
            Kind::Driver => (Some(object(bytes)), libc::MAP_SHARED),
            Kind::SecretFile => (Some(secret_file(bytes)), libc::MAP_SHARED),
            Kind::Anonymous => (None, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
        };
        let fd = fd.as_ref().map_or(-1, OwnedFd::as_raw_fd);
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        assert_ne!(
            address,
            libc::MAP_FAILED,
            "mmap: {}",
            Error::last_os_error()
        );
        Self {
            address: address.cast(),
            bytes,
        }
    }

    /// Writes to each page of 4 KiB.
    pub(crate) fn touch(&self) {
        for at in (0..self.bytes).step_by(PAGE) {
            // SAFETY: it is mapped to be written, and nobody else knows of it.
            unsafe { self.address.add(at).write_volatile(1) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it any more.
        unsafe { libc::munmap(self.address.cast(), self.bytes) };
    }
}

fn opened(fd: i64, what: &str) -> OwnedFd {
    assert!(fd >= 0, "{what}: {}", Error::last_os_error());
    // SAFETY: it was just opened, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn object(bytes: usize) -> OwnedFd {
    let path = std::ffi::CString::new(DEVICE).unwrap();
    // SAFETY: the path is a C string.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    let fd = opened(fd.into(), DEVICE);
    let request = ModeRequest {
        size: size_of::<ModeRequest>() as u32,
        version: VERSION,
        bytes: bytes as u64,
        mode: (Mode::EXCLUSIVE | Mode::SEALED).bits(),
        reserved: 0,
    };
    // SAFETY: the request is alive, and of the size that the number says.
    let set = unsafe { libc::ioctl(fd.as_raw_fd(), SET_MODE.into(), &raw const request) };
    assert_eq!(set, 0, "SET_MODE: {}", Error::last_os_error());
    fd
}

fn secret_file(bytes: usize) -> OwnedFd {
    // SAFETY: it takes flags alone.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let fd = opened(fd, "memfd_secret");
    // SAFETY: it is an open descriptor.
    let sized = unsafe { libc::ftruncate(fd.as_raw_fd(), bytes as i64) };
    assert_eq!(sized, 0, "ftruncate: {}", Error::last_os_error());
    fd
}
