//! The pool as the machine's memory has it: read from outside of the virtual machine, past the kernel, by
//! `cargo xtask driver test`; and by the kernel's own mappings of memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own helpers fail the test"
)]

mod kernel;
mod memory;
#[allow(dead_code, reason = "the device's own tests use the rest")]
#[path = "../device/object.rs"]
mod object;
#[allow(dead_code, reason = "as above")]
#[path = "../device/process.rs"]
mod process;
mod residue;
