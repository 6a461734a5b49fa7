//! The processes that a program consists of: all that descend from this one.
//!
//! This process adopts those whose parents end, so that a program that goes into the background
//! is still found, and still ended.

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// From now on orphans among this process's descendants become its children.
pub(super) fn adopt_orphans() {
    // Where that fails, orphans are init's: they are not found, and nothing is said of them.
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
}

/// Every process below this one, its children first.
pub(super) fn descendants() -> Vec<i32> {
    let own = strongroom_sys::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(i32, i32)> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![own];
    let mut seen = BTreeSet::from([own]);
    let mut next = 0;
    while let Some(&of) = found.get(next) {
        let children = parents.iter().filter(|(_, parent)| *parent == of);
        found.extend(
            children
                .map(|(pid, _)| *pid)
                .filter(|pid| seen.insert(*pid)),
        );
        next += 1;
    }
    found.remove(0);
    found
}

/// The parent of a process that has not ended.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses, and may hold some.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

/// Whether the process is there and has not ended.
pub(super) fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
    state.is_some_and(|state| !matches!(state.first(), Some(b'Z' | b'X') | None))
}

/// Whether `then` started the process, and not the program itself.
pub(super) fn is_of_then(pid: i32, variable: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let of_then = format!("{variable}=");
    environment
        .split(|&byte| byte == 0)
        .any(|entry| entry.starts_with(of_then.as_bytes()))
}

/// Kills every process below this one and takes their statuses, until there is none.
pub(super) fn end_all() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let left = descendants();
        if left.is_empty() {
            return;
        }
        for pid in left.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
            // It is a grandchild yet, or has not ended yet: the next round's.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
