//! The probes: each finds one thing out, by doing where that is possible.

mod driver;
mod keepers;
mod kernel;
mod limits;
mod rest;
mod tracing;

use super::check::{Report, Status};
use std::path::Path;

/// Looks at everything.
pub(super) fn report() -> Report {
    // Hibernation first: the kernel hides it while secret memory is open, as the keepers' probe has it.
    let hibernation = rest::hibernation();
    let (memlock, enough) = limits::memlock();
    let (keepers, level) = keepers::all();
    let mut checks = keepers;
    checks.extend(driver::all());
    checks.extend([
        kernel::direct_map(),
        kernel::image_alias(),
        memlock,
        limits::memory_max(),
        limits::mappings(),
        limits::files(),
        limits::address_space(),
        tracing::ptrace(),
        tracing::yama(),
        kernel::fork_trap(),
        kernel::seccomp(),
        kernel::glibc(),
        kernel::container(),
        rest::swap(),
        hibernation,
        rest::core_dumps(),
        rest::wiping(),
    ]);
    let mut blocked_by = Vec::new();
    if !enough {
        blocked_by.push(limits::MEMLOCK);
    }
    let untraceable = |check: &&super::check::Check| {
        check.name == tracing::PTRACE && check.status == Status::Missing
    };
    blocked_by.extend(checks.iter().find(untraceable).map(|check| check.name));
    Report {
        schema: 1,
        level: level.filter(|_| blocked_by.is_empty()),
        blocked_by,
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
        checks,
    }
}

/// The fix where /proc is not there.
const NO_PROC: &str = "mount /proc: `mount -t proc proc /proc`";

/// A small file of /proc or /sys, trimmed; `None` where it is not there or not to be read.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&text).trim().to_owned())
}

/// A file that holds one number.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    read(path)?.parse().ok()
}

/// The value of `key:` in a text of such lines, as /proc/self/status and /proc/meminfo are.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == key).then(|| value.trim())
    })
}

/// The last value of an option on the kernel's command line; `Some("")` for one without a value.
fn boot_option(key: &str) -> Option<String> {
    let line = read("/proc/cmdline")?;
    line.split_whitespace()
        // What comes after is init's.
        .take_while(|word| *word != "--")
        .filter_map(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name == key).then(|| value.to_owned())
        })
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "DirectMap4k:       81920 kB\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(field(text, "Seccomp"), Some("2"));
        assert_eq!(field(text, "DirectMap4k"), Some("81920 kB"));
        assert_eq!(field(text, "DirectMap"), None);
    }
}
