//! Which library this is.

use core::ffi::c_char;

/// The interface's number, which is also the shared library's: a program that was built against another
/// one is not to be run with this.
pub const SR_ABI: u32 = 0;

/// The library's version, as text.
pub const SR_VERSION: &str = env!("CARGO_PKG_VERSION");

/// [`SR_ABI`] of the library that runs.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_abi() -> u32 {
    SR_ABI
}

/// [`SR_VERSION`] of the library that runs. It is never freed.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_version() -> *const c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    TEXT.as_ptr().cast()
}
