//! Resource limits that the program starts with.

use crate::failure::Failure;
use strongroom::keeper::charged_on_touch;
use strongroom_core::Reason;
use strongroom_sys::limits::{self, Resource, Rlimit};

/// The least locked memory that is of use, in bytes: sixteen pages.
const LEAST: u64 = 64 * 1024;

/// Raises the soft limit of locked memory to the hard one and forbids core dumps.
///
/// CAP_IPC_LOCK lifts the limit, but not of kernels that charge on touch (see [`charged_on_touch`]).
/// There it is set to none, where that is allowed: the capability means as much.
///
/// A limit that leaves too little is an error.
pub(super) fn prepare() -> Result<(), Failure> {
    let zero = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    limits::set(Resource::Core, zero).map_err(|error| {
        Failure::new(
            format!("core dumps cannot be forbidden (RLIMIT_CORE): {error}"),
            "",
        )
    })?;

    let mut lock = limits::get(Resource::Memlock);
    if lock.maximum.is_some() && has_capability() && charged_on_touch() {
        let none = Rlimit {
            current: None,
            maximum: None,
        };
        if limits::set(Resource::Memlock, none).is_ok() {
            lock = none;
        }
    }
    if lock.current != lock.maximum {
        let raised = Rlimit {
            current: lock.maximum,
            ..lock
        };
        if limits::set(Resource::Memlock, raised).is_ok() {
            lock = raised;
        }
    }
    match lock.current {
        Some(limit) if limit < LEAST && !unlimited() => {
            let reason = Reason::LockLimit { need: LEAST, limit };
            Err(Failure::new(reason.to_string(), reason.fix()))
        }
        _ => Ok(()),
    }
}

/// Whether the kernel applies no limit to this process: it asks for CAP_IPC_LOCK in
/// the initial user namespace, and in a container's own the capability means nothing.
fn unlimited() -> bool {
    has_capability() && !charged_on_touch()
}

fn has_capability() -> bool {
    strongroom_sys::process::may_lock_without_limit()
        && std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}
