//! The shared object that `strongroom run` puts into an unmodified program.
//!
//! Exported functions take the place of libc's, one file a family:
//!
//! * [`allocation`]: malloc and its kin, from the secret heap.
//! * [`locking`]: mlock and its kin make memory secret where it is.
//! * [`mapping`]: mmap, munmap, mprotect and mremap keep that true; [`advising`]: madvise.
//! * [`forking`]: forks that pass pthread_atfork by. [`bare_calls`]: syscall and prctl.
//! * [`executing`] and [`spawning`]: exec, posix_spawn, system and popen hand the protection on
//!   ([`inheritance`]).
//! * [`ending`]: the ways to end, for the receipt.
//!
//! Behind them: [`constructor`] runs first, [`start`] arranges everything, [`advice`] remembers
//! what was said of memory before it was locked, [`receipts`] writes what came of it all, [`real`]
//! finds libc's own functions.

#![allow(unreachable_pub, reason = "the exports are reached by name, from C")]
#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod advice;
mod advising;
mod allocation;
mod bare_calls;
mod constructor;
mod ending;
mod executing;
mod forking;
mod inheritance;
mod locking;
mod mapping;
mod real;
mod receipts;
mod spawning;
mod start;
