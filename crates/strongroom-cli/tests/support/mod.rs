//! What the tests of `strongroom run` share.
//!
//! * [`room`]: a place to run programs in, plain or protected, as root or as an ordinary user.
//! * [`session`]: a test program that stops at named stages.
//! * [`outside`]: what another process, root's too, sees of a process.
//! * [`inject`]: what a process itself sees, so that "not found" means hidden and not absent.
//! * [`chance`]: random bytes to search for.
//!
//! Nothing here uses a strongroom crate: what looks from outside knows nothing of
//! its subject's code.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "every test file compiles this module and uses its own part"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "../../../../tests/skip.rs"]
mod skip;

pub(crate) mod chance;
pub(crate) mod inject;
pub(crate) mod outside;
pub(crate) mod room;
pub(crate) mod session;

pub(crate) use inject::Inside;
pub(crate) use outside::{Hit, Outside};
pub(crate) use room::{How, Room, Transcript, WHO, Who};
pub(crate) use session::{Process, Session};
pub(crate) use skip::skip;

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// Returns from a test that needs root, or memfd_secret, where it is not to be had.
macro_rules! need {
    (root) => {
        if !$crate::support::is_root() {
            return $crate::support::skip("it needs root, to look into other processes");
        }
    };
    (secretmem) => {
        if let Err(reason) = $crate::support::outside::secret_memory_works() {
            return $crate::support::skip(&reason);
        }
    };
    ($first:ident, $($more:ident),+) => {
        $crate::support::need!($first);
        $crate::support::need!($($more),+);
    };
}
pub(crate) use need;

/// The bytes are found in the process from outside: the control, without which
/// "not found" in the protected process would prove nothing.
#[track_caller]
pub(crate) fn assert_leaks(pid: i32, what: &str, secret: &[u8]) {
    let outside = Outside::of(pid);
    assert!(
        !outside.by_mem(secret).is_empty(),
        "the control is void: {what} was not found in the plain process {pid} through /proc/PID/mem"
    );
    assert!(
        !outside.by_vm_readv(secret).is_empty(),
        "the control is void: {what} was not found in the plain process {pid} through process_vm_readv"
    );
}

/// The bytes are in the process's secret memory, and no way from outside leads to them.
#[track_caller]
pub(crate) fn assert_kept(pid: i32, what: &str, secret: &[u8]) {
    let inside = Inside::of(pid).secret_memory();
    let present = inside
        .iter()
        .map(|(_, bytes)| outside::count(bytes, secret))
        .sum::<usize>();
    assert!(
        present > 0,
        "{what} is not in the secret memory of process {pid} ({} secret mappings, {} bytes)",
        inside.len(),
        inside.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(),
    );
    assert_hidden(pid, what, secret);
}

/// No way from outside leads to the bytes, whether they are there or not.
#[track_caller]
pub(crate) fn assert_hidden(pid: i32, what: &str, secret: &[u8]) {
    let outside = Outside::of(pid);
    for (way, hits) in [
        ("/proc/PID/mem", outside.by_mem(secret)),
        ("process_vm_readv", outside.by_vm_readv(secret)),
        ("a stolen descriptor", outside.by_stolen_fds(secret)),
    ] {
        assert!(
            hits.is_empty(),
            "{what} leaked from process {pid} through {way}: {hits:x?}"
        );
    }
}
