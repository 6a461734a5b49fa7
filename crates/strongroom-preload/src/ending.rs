//! The ways in which a process ends by itself: each writes the receipt that was asked for.

use crate::receipts;
use core::ffi::c_int;
use strongroom_sys::process;

/// Writes the receipt, once a process.
pub(crate) fn write_receipt() {
    receipts::write();
}

#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destructor;

/// At exit(3) and at the return from main, after everyone else's: an object that is initialised
/// first is finished last.
extern "C" fn destructor() {
    write_receipt();
}

/// _exit(2).
#[unsafe(no_mangle)]
pub extern "C" fn _exit(status: c_int) -> ! {
    write_receipt();
    process::exit_now(status)
}

/// _Exit(3).
#[unsafe(no_mangle)]
pub extern "C" fn _Exit(status: c_int) -> ! {
    write_receipt();
    process::exit_now(status)
}
