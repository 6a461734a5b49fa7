//! How much secret memory there can be.

use super::super::check::{Check, Part, Status, Text};
use super::{number, read};
use serde_json::Value;
use std::path::{Path, PathBuf};
use strongroom_core::Reason;
use strongroom_probe::size::size;
use strongroom_sys::limits::{self, Resource, Rlimit};
use strongroom_sys::process;

/// The name of [`memlock`]'s check.
pub(super) const MEMLOCK: &str = "memlock";

/// Under this `run` starts nothing, in bytes.
const LEAST: u64 = 64 * 1024;
/// The kernel's own default: the keys of an agent fit, a large heap does not.
const USUAL: u64 = 8 << 20;

/// RLIMIT_MEMLOCK, and whether it is enough for `run`. The soft limit is raised to the hard one, as `run` does.
pub(super) fn memlock() -> (Check, bool) {
    let found = limits::get(Resource::Memlock);
    let raised = Rlimit {
        current: found.maximum,
        ..found
    };
    // A failure changes nothing: the limit in force is read again.
    let _ = limits::set(Resource::Memlock, raised);
    let limit = limits::get(Resource::Memlock).current;
    let shared = strongroom::keeper::charged_on_touch();
    let unlimited = locks_without_limit() && !shared;
    // Where the kernel charges what is touched, it charges the user.
    let whose = if shared {
        "for all processes of this user"
    } else {
        "a process"
    };

    let value: Text = match limit {
        None => "unlimited".into(),
        Some(limit) if unlimited => format!(
            "no limit for this user; without CAP_IPC_LOCK {}",
            size(limit)
        )
        .into(),
        Some(limit) if found.current < Some(limit) => format!(
            "{} {whose}: `run` raises the soft limit of {} to the hard one",
            size(limit),
            size(found.current.unwrap_or_default())
        )
        .into(),
        Some(limit) => format!("{} {whose}", size(limit)).into(),
    };
    let binding = limit.filter(|_| !unlimited).unwrap_or(u64::MAX);
    let enough = binding >= LEAST;
    let status = if enough {
        Status::Limited
    } else {
        Status::Missing
    };
    let advice = Reason::LockLimit {
        need: USUAL,
        limit: binding,
    };
    let fix = format!(
        "{}; /etc/security/limits.conf: `USER - memlock unlimited`",
        advice.fix()
    );
    let why = "all that is secret must fit, with scope heap the heap";
    let check = Check::new(Part::Limits, MEMLOCK, value, why)
        .with("soft", found.current)
        .with("hard", found.maximum)
        .with("cap_ipc_lock", unlimited)
        .with(
            "charged",
            if shared {
                "on touch, to the user"
            } else {
                "on mmap, to the process"
            },
        )
        .with("usable", limit.filter(|_| !unlimited))
        .falls_short_if(binding < USUAL, status, fix);
    (check, enough)
}

/// Whether the kernel applies no limit: it asks for CAP_IPC_LOCK in the initial user namespace.
fn locks_without_limit() -> bool {
    process::may_lock_without_limit()
        && read("/proc/self/uid_map")
            .is_some_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// What the control group leaves.
pub(super) fn memory_max() -> Check {
    let groups = read("/proc/self/cgroup");
    let limit = groups.as_deref().and_then(smallest);
    let value = match (&groups, limit) {
        (_, Some(limit)) => format!("{} for the control group", size(limit)),
        (Some(_), None) => "no limit of the control group seen".to_owned(),
        (None, None) => "not told".to_owned(),
    };
    let why = "secret memory counts, and does not swap to make room";
    Check::new(Part::Limits, "memory-max", value, why)
        .with("limit", limit)
        .falls_short_if(
            limit.is_some_and(|limit| limit < 8 * USUAL),
            Status::Limited,
            "raise it: systemd MemoryMax=; `docker run --memory`; Kubernetes resources.limits.memory",
        )
}

/// The smallest limit of the memory group and those it is in, by the text of /proc/self/cgroup.
fn smallest(groups: &str) -> Option<u64> {
    groups.lines().filter_map(limit_of).min()
}

fn limit_of(line: &str) -> Option<u64> {
    // cgroups(7): hierarchy:controllers:path; version 2 is hierarchy 0 without controllers.
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return None,
    };
    let group: PathBuf = Path::new(root).join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|group| group.starts_with(root))
        .filter_map(|group| number(group.join(file)))
        // Version 1 writes "no limit" as the largest number of pages.
        .filter(|limit| *limit < 1 << 62)
        .min()
}

/// vm.max_map_count.
pub(super) fn mappings() -> Check {
    const DEFAULT: u64 = 65_530;
    let limit = number("/proc/sys/vm/max_map_count");
    let value = limit.map_or("not told".to_owned(), |limit| format!("{limit} mappings"));
    let why = "each chunk, 2 MiB at most, is one or more";
    Check::new(Part::Limits, "max_map_count", value, why)
        .with("limit", limit)
        .falls_short_if(
            limit.is_none_or(|limit| limit < DEFAULT),
            Status::Limited,
            "`sysctl vm.max_map_count=65530` or more",
        )
}

/// RLIMIT_NOFILE.
pub(super) fn files() -> Check {
    let limit = limits::get(Resource::Nofile);
    let value = limit
        .current
        .map_or("unlimited".to_owned(), |soft| format!("{soft} descriptors"));
    let why = "one is needed while a chunk is made, none later";
    with_limits(Check::new(Part::Limits, "nofile", value, why), limit).falls_short_if(
        limit.current.is_some_and(|soft| soft < 64),
        Status::Limited,
        "`ulimit -n 1024`; systemd LimitNOFILE=1024",
    )
}

/// RLIMIT_AS.
pub(super) fn address_space() -> Check {
    let limit = limits::get(Resource::As);
    let value = limit
        .current
        .map_or("unlimited".to_owned(), |soft| size(soft).to_string());
    let why = "a heap reserves addresses, 64 GiB where it can";
    with_limits(Check::new(Part::Limits, "address-space", value, why), limit).falls_short_if(
        limit.current.is_some(),
        Status::Limited,
        "`ulimit -v unlimited`; systemd LimitAS=infinity",
    )
}

/// The numbers of a limit; null is unlimited.
fn with_limits(check: Check, limit: Rlimit) -> Check {
    check
        .with("soft", Value::from(limit.current))
        .with("hard", Value::from(limit.maximum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hierarchies_hold_no_memory_limit() {
        assert_eq!(smallest("8:pids:/\n1:cpu:/x\n"), None);
        assert_eq!(smallest("nonsense"), None);
    }
}
