//! Objects of the driver and their mappings, as tests use them.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use strongroom_core::driver::{self, DEVICE, Mode, ModeRequest, VERSION};

static ALONE: Mutex<()> = Mutex::new(());

/// One test at a time, as they count what is free; nothing where there is no driver.
pub(crate) fn alone() -> Option<MutexGuard<'static, ()>> {
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if fs::exists(DEVICE).unwrap() {
        return Some(guard);
    }
    skip("the driver is not loaded");
    None
}

/// Says that a test cannot run here; where STRONGROOM_NO_SKIP is set, that is a failure. But STRONGROOM_DRIVER_ELSEWHERE
/// says that all of these run where the driver is, too: in the virtual machine of `cargo xtask test`.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    if std::env::var_os("STRONGROOM_DRIVER_ELSEWHERE").is_some() {
        let _ = writeln!(std::io::stderr(), "{test}: left to the virtual machine");
        return;
    }
    assert!(
        std::env::var_os("STRONGROOM_NO_SKIP").is_none_or(|v| v == "0" || v.is_empty()),
        "{test} cannot run here: {reason}; STRONGROOM_NO_SKIP makes that a failure"
    );
    note(&test, reason);
}

/// The same for what some kernels have and others do not: where `variable` is set this one has it, and its absence is a
/// failure.
pub(crate) fn skip_on_this_kernel(variable: &str, reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    assert!(
        std::env::var_os(variable).is_none(),
        "{test} cannot run here: {reason}; {variable} says that this kernel can"
    );
    note(&test, &format!("only elsewhere: {reason}"));
}

pub(crate) fn note(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os("STRONGROOM_SKIP_LOG") {
        let log = fs::File::options().append(true).create(true).open(path);
        let _ = log.and_then(|mut log| writeln!(log, "{test}: {reason}"));
    }
}

/// A number of /sys/class/misc/strongroom.
pub(crate) fn state(name: &str) -> u64 {
    let path = format!("/sys/class/misc/strongroom/{name}");
    let text = fs::read_to_string(&path).unwrap();
    text.trim().parse().unwrap()
}

/// What the pool has left.
pub(crate) fn free_bytes() -> u64 {
    state("free")
}

/// The errno of the last call in this thread.
pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

/// An open descriptor of the device.
pub(crate) struct Object {
    fd: OwnedFd,
    bytes: u64,
}

impl Object {
    /// One without a mode.
    pub(crate) fn blank() -> Self {
        Self::opened(libc::O_RDWR)
    }

    pub(crate) fn opened(flags: i32) -> Self {
        let path = std::ffi::CString::new(DEVICE).unwrap();
        // SAFETY: the path is a C string.
        let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
        assert!(fd >= 0, "{DEVICE}: {}", std::io::Error::last_os_error());
        Self {
            // SAFETY: it was just opened, and nobody else has it.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            bytes: 0,
        }
    }

    pub(crate) fn with_mode(mode: Mode, bytes: u64) -> Self {
        let mut object = Self::blank();
        object.set_mode(mode.bits(), bytes).unwrap();
        object
    }

    pub(crate) fn set_mode(&mut self, mode: u64, bytes: u64) -> Result<(), i32> {
        let request = ModeRequest {
            size: size_of::<ModeRequest>() as u32,
            version: VERSION,
            bytes,
            mode,
            reserved: 0,
        };
        self.request(&request)?;
        self.bytes = bytes;
        Ok(())
    }

    /// SET_MODE as it is.
    pub(crate) fn request(&self, request: &ModeRequest) -> Result<(), i32> {
        self.call(driver::SET_MODE, std::ptr::from_ref(request) as usize)
    }

    /// Any ioctl.
    pub(crate) fn call(&self, number: u32, argument: usize) -> Result<(), i32> {
        call(self.raw(), number, argument)
    }

    pub(crate) fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// All of it, to be read and written.
    pub(crate) fn map(&self) -> Result<Map, i32> {
        self.map_as(
            0,
            self.bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )
    }

    pub(crate) fn map_as(
        &self,
        offset: u64,
        bytes: u64,
        protection: i32,
        flags: i32,
    ) -> Result<Map, i32> {
        map(self.raw(), offset, bytes, protection, flags)
    }
}

/// Any ioctl of a descriptor.
pub(crate) fn call(fd: i32, number: u32, argument: usize) -> Result<(), i32> {
    // SAFETY: the driver checks what it is given; structures of the caller's are alive.
    let result = unsafe { libc::ioctl(fd, libc::Ioctl::from(number), argument) };
    if result == 0 { Ok(()) } else { Err(errno()) }
}

pub(crate) fn map(
    fd: i32,
    offset: u64,
    bytes: u64,
    protection: i32,
    flags: i32,
) -> Result<Map, i32> {
    // SAFETY: a new mapping, at a place of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes as usize,
            protection,
            flags,
            fd,
            offset as i64,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(errno());
    }
    Ok(Map {
        address: address as usize,
        bytes: bytes as usize,
    })
}

/// A mapping, which ends with this value.
#[derive(Debug)]
pub(crate) struct Map {
    address: usize,
    bytes: usize,
}

impl Map {
    pub(crate) fn address(&self) -> usize {
        self.address
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: it is mapped, and tests do not write meanwhile.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.bytes) }
    }

    #[allow(clippy::mut_from_ref, reason = "a test knows what it holds")]
    pub(crate) fn bytes_mut(&self) -> &mut [u8] {
        // SAFETY: it is mapped to be written, and tests hold one such slice at a time.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut u8, self.bytes) }
    }

    /// Unmaps a part.
    pub(crate) fn unmap(&self, from: usize, bytes: usize) -> Result<(), i32> {
        // SAFETY: it is the test's own mapping, and it does not touch this part again.
        let result = unsafe { libc::munmap((self.address + from) as *mut _, bytes) };
        if result == 0 { Ok(()) } else { Err(errno()) }
    }

    /// Forgets it: the test moves or unmaps it itself.
    pub(crate) fn leak(self) -> usize {
        let address = self.address;
        std::mem::forget(self);
        address
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it any more; parts that are gone already do not matter.
        unsafe { libc::munmap(self.address as *mut _, self.bytes) };
    }
}
