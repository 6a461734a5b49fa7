//! The shared object that `strongroom run` puts into an unmodified program.
//!
//! Exported functions take the place of libc's, one file a family:
//!
//! * [`allocation`]: malloc and its kin, from the secret heap.
//! * [`locking`]: mlock and its kin make memory secret where it is.
//! * [`mapping`]: mmap, munmap, mprotect, madvise and mremap keep that true.
//! * [`forking`]: forks that pass pthread_atfork by, and bare system calls.
//! * [`executing`]: exec and spawn hand the protection on.
//! * [`ending`]: the ways to end, for the receipt.
//!
//! Behind them: [`advice`] remembers what was said of memory before it was locked, [`start`] arranges everything before the program's code runs,
//! [`receipts`] writes what came of it, [`real`] finds libc's own functions.

#![allow(unreachable_pub, reason = "the exports are reached by name, from C")]
#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod advice;
mod allocation;
mod ending;
mod executing;
mod forking;
mod locking;
mod mapping;
mod real;
mod receipts;
mod start;
