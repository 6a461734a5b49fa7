//! What a forked child sees of secret memory, and how it comes to see it.
//!
//! Secret files are shared mappings: left alone, a child would write into its
//! parent's memory. So they are not inherited at all (`MADV_DONTFORK`), but for the
//! moment of a fork that the library sees:
//!
//! 1. The parent locks the heaps and the ledger and lets the ranges be inherited.
//! 2. The kernel forks. The parent waits; it and its child see the same pages.
//! 3. The child maps secret memory of its own, charged to its own RLIMIT_MEMLOCK,
//!    copies what is in use, and moves it over the inherited mappings ([`snapshot`]).
//! 4. The parent's fork returns, with an error where the child could not do that.
//!
//! Of the kernel driver's memory no child inherits anything, whatever is advised: it is handed over by
//! the parent, which keeps its heaps locked until its child has all ([`handover`]).
//!
//! The library learns of forks by `pthread_atfork`. But between the kernel's fork and
//! the handlers glibc itself writes to the child's heap (it resets the locks of open
//! streams), which would be the parent's still. So the handler that runs before the
//! fork only sets a trap for the system call ([`trap`]), and steps 1 to 4 happen
//! inside of it. Where the kernel has no such trap, a child of a process with secret
//! files ends with a message; locked memory is seen to in the child's handler.

pub use crate::policy::ForkPolicy;

mod handlers;
mod handover;
mod snapshot;
mod trap;

pub use handlers::{after_in_child, after_in_parent, before_libc_forks, follow, watch};
pub use snapshot::{Tally, forked, tally};
