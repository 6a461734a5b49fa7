//! What the kernel's own test of memfd_secret asks of it (tools/testing/selftests/mm/memfd_secret.c, 6.12), asked of
//! the driver; and mappings amid signals, stops and forks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own helpers fail the test"
)]

mod instants;
mod memfd_secret;
#[allow(dead_code, reason = "the device's own tests use the rest")]
#[path = "../device/object.rs"]
mod object;
#[allow(dead_code, reason = "as above")]
#[path = "../device/process.rs"]
mod process;
