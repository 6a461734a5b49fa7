//! One thin function a kernel interface, for strongroom.
//!
//! No policy, no state, no allocation: a function here makes one system call (or
//! reads one file of /proc into the caller's buffer) and reports what the kernel
//! said. Nothing goes through libc's exported functions where those are ones that
//! the preload object replaces: the object's own calls must not meet its wrappers.
//!
//! x86-64 Linux only: the forks, the fork trap and the thread slot are assembly.

#[cfg(not(all(
    target_os = "linux",
    target_arch = "x86_64",
    target_pointer_width = "64"
)))]
compile_error!("strongroom runs on x86-64 Linux only, so far");

pub mod bpf;
pub mod cache;
pub mod driver;
pub mod foul;
pub mod limits;
pub mod maps;
pub mod memory;
pub mod nodes;
pub mod page_cache;
pub mod peek;
pub mod process;
pub mod raw;
pub mod secret_memory;
pub mod signals;
pub mod syscall_trap;
pub mod thread_slot;
pub mod trace;
pub mod userfaultfd;
pub mod wait;

pub use rustix::io::Errno;

/// The size of a page, in bytes: fixed by the architecture.
pub const PAGE: usize = 4096;

/// `len` rounded up to whole pages, or `None` where that overflows. In bytes.
#[inline]
pub const fn page_ceil(len: usize) -> Option<usize> {
    match len.checked_add(PAGE - 1) {
        Some(padded) => Some(padded & !(PAGE - 1)),
        None => None,
    }
}

/// `address` rounded down to its page.
#[inline]
pub const fn page_floor(address: usize) -> usize {
    address & !(PAGE - 1)
}
