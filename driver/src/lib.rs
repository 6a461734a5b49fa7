//! What the kernel driver decides: which pages an object gets, who may have how many, what a mode is,
//! and which pages nothing maps any more.
//!
//! The C shim does what needs the kernel's headers: files, page tables, locks, the wiping. It calls
//! [`boundary`], under the locks that each function names, and is called through [`shim`]. Everything
//! else here is plain safe code that user space tests as it is.
//!
//! Nothing here panics: no index, no unwrap, no unbounded recursion. `cargo xtask driver build` fails
//! when the linked object holds a panic.

#![no_std]

pub mod array;
pub mod boundary;
pub mod coverage;
pub mod errno;
pub mod object;
pub mod room;
pub mod runs;
pub mod shim;
pub mod users;

/// The kernel's end of a panic that cannot be: it stops the thread (BUG).
#[cfg(strongroom_kernel)]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the function takes nothing and does not return.
    unsafe { shim::sr_bug() }
}
