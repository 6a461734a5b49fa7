//! Loading and unloading, by the system calls.

use crate::object::{alone, errno, skip};
use std::os::fd::AsRawFd;
use std::sync::MutexGuard;

/// The parameters with which the virtual machine loads it.
pub(crate) const POOL: &str = "pool=1G:192M,1536M:64M mode=0666";

/// The module, which this test alone uses. It is loaded before and after.
pub(crate) struct Module {
    file: std::fs::File,
    _alone: MutexGuard<'static, ()>,
}

impl Module {
    pub(crate) fn alone() -> Option<Self> {
        let Some(path) = std::env::var_os("STRONGROOM_MODULE") else {
            skip("no module to load: STRONGROOM_MODULE, which the virtual machine sets");
            return None;
        };
        let alone = alone()?;
        let file = std::fs::File::open(path).unwrap();
        Some(Self {
            file,
            _alone: alone,
        })
    }

    /// finit_module(2).
    pub(crate) fn load(&self, parameters: &str) -> Result<(), i32> {
        let parameters = std::ffi::CString::new(parameters).unwrap();
        // SAFETY: a C string, and a descriptor.
        let result = unsafe {
            libc::syscall(
                libc::SYS_finit_module,
                self.file.as_raw_fd(),
                parameters.as_ptr(),
                0,
            )
        };
        if result == 0 { Ok(()) } else { Err(errno()) }
    }

    /// delete_module(2), which does not wait.
    pub(crate) fn unload(&self) -> Result<(), i32> {
        let name = c"strongroom".as_ptr();
        // SAFETY: a C string.
        let result = unsafe { libc::syscall(libc::SYS_delete_module, name, libc::O_NONBLOCK) };
        if result == 0 { Ok(()) } else { Err(errno()) }
    }
}

/// The kernel's log from now on.
pub(crate) struct Log(std::fs::File);

impl Log {
    pub(crate) fn from_now() -> Self {
        use std::io::{Seek, SeekFrom};
        let mut log = std::fs::File::options()
            .read(true)
            .custom_flags_nonblocking()
            .open("/dev/kmsg")
            .unwrap();
        log.seek(SeekFrom::End(0)).unwrap();
        Self(log)
    }

    /// What it has got since.
    pub(crate) fn text(&self) -> String {
        use std::io::Read;
        let mut text = String::new();
        let mut record = [0; 8192];
        // A record at a time; EAGAIN at the end.
        while let Ok(read @ 1..) = (&self.0).read(&mut record) {
            text.push_str(&String::from_utf8_lossy(&record[..read]));
        }
        text
    }
}

trait Nonblocking {
    fn custom_flags_nonblocking(&mut self) -> &mut Self;
}

impl Nonblocking for std::fs::OpenOptions {
    fn custom_flags_nonblocking(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_NONBLOCK)
    }
}
