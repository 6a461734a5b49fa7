//! The device interface at random: processes and threads that open, map, cut, move, pass, fork and are
//! killed, each step checked by a model of ABI.md; between rounds the pool is whole.
//!
//! STRONGROOM_FUZZ_STEPS says how many steps (50000), STRONGROOM_FUZZ_SEED with which seed: what each
//! thread does follows from it, and when it does so from the machine. STRONGROOM_FUZZ_FAIL=1 has
//! allocations of the kernel's fail, where it was built for that.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own helpers fail the test"
)]

mod calls;
mod mappings;
mod model;
#[allow(dead_code, reason = "the device's own tests use the rest")]
#[path = "../device/object.rs"]
mod object;
mod pins;
mod random;
mod rounds;
mod steps;
mod strangers;
mod touch;
mod views;
mod worker;

use object::alone;
use std::io::Write;

const STEPS: u64 = 50_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().expect("a number"))
}

#[test]
fn whatever_is_done_the_pool_is_whole_and_nobody_sees_anothers_bytes() {
    let Some(_alone) = alone() else { return };
    let steps = number("STRONGROOM_FUZZ_STEPS").unwrap_or(STEPS);
    let seed = number("STRONGROOM_FUZZ_SEED").unwrap_or(1);
    let failing = number("STRONGROOM_FUZZ_FAIL").unwrap_or(0) != 0;
    let done = rounds::run(seed, steps, failing);
    let _ = writeln!(std::io::stderr(), "fuzz: seed {seed}: {done}");
}

/// What a worker becomes by exec: it has descriptors of objects that are not its own.
#[test]
fn started_with_descriptors() {
    if std::env::var_os("STRONGROOM_FUZZ_STARTED").is_none() {
        return;
    }
    for fd in 3..256 {
        let Ok(name) = std::fs::read_link(format!("/proc/self/fd/{fd}")) else {
            continue;
        };
        if !name.to_string_lossy().starts_with("/dev/strongroom") {
            continue;
        }
        let mapped = calls::mmap(0, 4096, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
        if !matches!(mapped, Err(libc::EPERM | libc::EINVAL)) {
            calls::violation(&format!("after exec mmap of descriptor {fd}: {mapped:?}"));
        }
    }
}
