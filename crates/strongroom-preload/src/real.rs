//! libc's own functions, behind those that this object exports.

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};
use strongroom_sys::Errno;

/// A function of libc, found at its first use.
pub(crate) struct Real {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Real {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            address: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Its address; null where libc has none.
    pub(crate) fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name is a C string; dlsym may call malloc, which is ours.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Sets errno.
pub(crate) fn set_errno(errno: Errno) {
    // SAFETY: libc's errno of this thread.
    unsafe { *libc::__errno_location() = errno.raw_os_error() };
}

/// A system call's result as libc's wrappers return it: -1 with errno set on failure.
pub(crate) fn returned(register: isize) -> isize {
    match strongroom_sys::raw::check(register) {
        Ok(value) => value as isize,
        Err(errno) => {
            set_errno(errno);
            -1
        }
    }
}

/// Makes the program's own system call as it is; the result as libc's wrappers return it.
pub(crate) fn pass(number: libc::c_long, arguments: [usize; 6]) -> isize {
    // SAFETY: the program's own call, with its own arguments.
    returned(unsafe { strongroom_sys::raw::syscall(number as usize, arguments) })
}
