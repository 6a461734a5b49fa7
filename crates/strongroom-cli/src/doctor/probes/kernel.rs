//! What the kernel and the C library bring along.

use super::super::check::{Check, Part, Status, Text};
use super::{NO_PROC, field, read};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use strongroom_probe::size::size;
use strongroom_sys::{Errno, syscall_trap};

/// The state of the direct map.
pub(super) fn direct_map() -> Check {
    let sizes = read("/proc/meminfo").map_or(Vec::new(), |meminfo| direct_map_sizes(&meminfo));
    let total: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
    let small: u64 = sizes
        .iter()
        .filter(|(name, _)| name == "DirectMap4k")
        .map(|(_, bytes)| bytes)
        .sum();
    let why = "each new chunk of secrets may split more, for good";
    if total == 0 {
        return Check::new(
            Part::Secrets,
            "direct-map",
            "not told by this kernel",
            "an emulated kernel, or an architecture that does not count it",
        )
        .falls_short(Status::Limited, "");
    }
    let percent = small as f64 * 100.0 / total as f64;
    let value = format!(
        "{percent:.1}% of {} is in 4 KiB entries ({})",
        size(total),
        size(small)
    );
    sizes
        .iter()
        .fold(
            Check::new(Part::Secrets, "direct-map", value, why),
            |check, (name, bytes)| check.with(name, *bytes),
        )
        .with("share_4k", small as f64 / total as f64)
        .falls_short_if(
            percent > 25.0,
            Status::Limited,
            "only a reboot joins them again; start long-lived secret programs early",
        )
}

/// Whether the mapping that the kernel has of its own image is out of every process's page tables.
pub(super) fn image_alias() -> Check {
    let meltdown = read("/sys/devices/system/cpu/vulnerabilities/meltdown");
    let (isolated, value) = match meltdown.as_deref() {
        Some(text) if text.contains("PTI") => (true, "page-table isolation is on".to_owned()),
        Some(text) => (false, format!("page-table isolation is off ({text})")),
        None => (false, "not told".to_owned()),
    };
    let why = "without it, frames freed out of the kernel's image may stay readable there when they become secret";
    Check::new(Part::Secrets, "image-alias", value, why)
        .with("isolated", isolated)
        .falls_short_if(
            !isolated,
            Status::Limited,
            "boot with pti=on; see docs/threat-model.md for how much that is",
        )
}

/// The lines of /proc/meminfo about it, in bytes.
fn direct_map_sizes(meminfo: &str) -> Vec<(String, u64)> {
    meminfo
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let kibibytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
            name.starts_with("DirectMap")
                .then(|| (name.to_owned(), kibibytes * 1024))
        })
        .collect()
}

/// Syscall User Dispatch.
pub(super) fn fork_trap() -> Check {
    let why = "lets a child have its copy before fork returns";
    let check = |value: Text| Check::new(Part::Run, "fork-trap", value, why);
    match syscall_trap::try_out() {
        Ok(()) => check("works: Syscall User Dispatch caught a system call".into()),
        Err(error) => {
            let fix = match error {
                Errno::NOENT => NO_PROC,
                _ => {
                    "Linux 5.11 or newer, and a seccomp filter that lets prctl pass; --level locked, for \
                     programs that fork"
                }
            };
            check(format!("{error}: a fork of hidden memory ends the child").into())
                .falls_short(Status::Missing, fix)
        }
    }
}

/// Whether a seccomp filter is on this process.
pub(super) fn seccomp() -> Check {
    let status = read("/proc/self/status").unwrap_or_default();
    let mode: Option<u64> = field(&status, "Seccomp").and_then(|mode| mode.parse().ok());
    let filters: Option<u64> =
        field(&status, "Seccomp_filters").and_then(|filters| filters.parse().ok());
    let value = match (mode, filters) {
        (Some(0), _) => "no filter on this process".to_owned(),
        (Some(_), Some(1)) => "1 filter on this process".to_owned(),
        (Some(_), Some(filters)) => format!("{filters} filters on this process"),
        (Some(_), None) => "filtered".to_owned(),
        (None, _) => "not told".to_owned(),
    };
    let why = "a filter may refuse what was tried here";
    Check::new(Part::Run, "seccomp", value, why)
        .with("mode", mode)
        .with("filters", filters)
}

/// glibc, which the preload object needs.
pub(super) fn glibc() -> Check {
    const BANNER: &[u8] = b"GNU C Library ";
    let why = "`run` goes through the loader of 64-bit glibc";
    let found = c_libraries().into_iter().find_map(|path| {
        let bytes = std::fs::read(path).ok()?;
        let start = bytes
            .windows(BANNER.len())
            .position(|window| window == BANNER)?;
        let line = bytes
            .get(start + BANNER.len()..)?
            .split(|b| *b == b'\n')
            .next()?;
        version(&String::from_utf8_lossy(line))
    });
    match found {
        Some((version, build)) => {
            let value = if build.is_empty() {
                version.clone()
            } else {
                format!("{version} ({build})")
            };
            Check::new(Part::Run, "glibc", value, why).with("version", version)
        }
        None => Check::new(Part::Run, "glibc", "not found", why).falls_short(
            Status::Missing,
            "install 64-bit glibc and programs built for it",
        ),
    }
}

/// Where it may be: what this very process uses, then the usual places.
fn c_libraries() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    // Without /proc there are the usual places still.
    let _ = strongroom_sys::maps::each(|mapping| {
        let path = Path::new(OsStr::from_bytes(mapping.name));
        if path.file_name() == Some(OsStr::new("libc.so.6")) {
            paths.push(path.to_owned());
            return false;
        }
        true
    });
    paths.extend(
        [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/libc.so.6",
            "/usr/lib/libc.so.6",
        ]
        .map(PathBuf::from),
    );
    paths
}

/// Version and build of a line such as `(Debian GLIBC 2.36-9) stable release version 2.36.`
fn version(line: &str) -> Option<(String, String)> {
    let (before, version) = line.split_once("release version ")?;
    let build = before
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'))
        .map_or("", |(build, _)| build);
    Some((version.trim_end_matches('.').to_owned(), build.to_owned()))
}

/// Signs of a container.
pub(super) fn container() -> Check {
    let named = read("/run/systemd/container")
        .or_else(|| std::env::var("container").ok())
        .filter(|name| !name.is_empty());
    let kind = named.or_else(|| {
        [
            ("/.dockerenv", "docker"),
            ("/run/.containerenv", "podman"),
            ("/var/run/secrets/kubernetes.io", "kubernetes"),
        ]
        .iter()
        .find(|(path, _)| Path::new(path).exists())
        .map(|(_, kind)| (*kind).to_owned())
    });
    let value = kind.as_deref().map_or("no sign of one".to_owned(), |kind| {
        format!("signs of one: {kind}")
    });
    let why = "its manager sets limits and filters: fix them there";
    let mapped = number_of_ids() != Some(u64::from(u32::MAX));
    Check::new(Part::Run, "container", value, why)
        .with("kind", kind)
        .with("user_namespace", mapped)
}

/// How many user ids the user namespace maps.
fn number_of_ids() -> Option<u64> {
    let map = read("/proc/self/uid_map")?;
    map.lines()
        .map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_of_glibc_is_understood() {
        assert_eq!(
            version("(Debian GLIBC 2.36-9+deb12u14) stable release version 2.36."),
            Some(("2.36".to_owned(), "Debian GLIBC 2.36-9+deb12u14".to_owned()))
        );
        assert_eq!(
            version("(GNU libc) development release version 2.40.9000."),
            Some(("2.40.9000".to_owned(), "GNU libc".to_owned()))
        );
        assert_eq!(version("something else"), None);
    }

    #[test]
    fn direct_map_lines_are_in_bytes() {
        let meminfo = "MemTotal: 5 kB\nDirectMap4k:       81920 kB\nDirectMap1G:    24117248 kB\n";
        assert_eq!(
            direct_map_sizes(meminfo),
            [
                ("DirectMap4k".to_owned(), 81_920 * 1024),
                ("DirectMap1G".to_owned(), 24_117_248 * 1024)
            ]
        );
    }
}
