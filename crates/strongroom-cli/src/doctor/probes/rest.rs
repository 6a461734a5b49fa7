//! What happens to memory that is not secret, which a program's copies of a secret may reach.

use super::super::check::{Check, Part, Status, Text};
use super::{boot_option, number, read};
use std::path::Path;
use strongroom_probe::size::size;
use strongroom_sys::limits::{self, Resource};

/// Swap devices.
pub(super) fn swap() -> Check {
    let why = "no secret goes there, locked or hidden; the rest may";
    let listed = read("/proc/swaps");
    let devices = listed.as_deref().map_or(Vec::new(), swaps);
    let total = devices.iter().map(|device| device.bytes).sum::<u64>();
    let plain: Vec<_> = devices
        .iter()
        .filter(|device| device.keeping() == Keeping::Plain)
        .map(|device| device.path.as_str())
        .collect();
    let value: Text = if listed.is_none() {
        "not told: no /proc/swaps".into()
    } else if devices.is_empty() {
        "none".into()
    } else {
        let list: Vec<_> = devices
            .iter()
            .map(|device| format!("{} ({})", device.path, device.keeping().word()))
            .collect();
        format!("{} on {}", size(total), list.join(", ")).into()
    };
    let names = devices.iter().map(|device| device.path.clone());
    Check::new(Part::Rest, "swap", value, why)
        .with("bytes", total)
        .with("devices", names.collect::<Vec<_>>())
        .falls_short_if(
            !plain.is_empty(),
            Status::Limited,
            format!(
                "`swapoff {}`, or encrypt it by a random key: /etc/crypttab with /dev/urandom and swap",
                plain.join(" ")
            ),
        )
}

struct Swap {
    path: String,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeping {
    /// Compressed in memory.
    Ram,
    Encrypted,
    Plain,
}

impl Keeping {
    const fn word(self) -> &'static str {
        match self {
            Keeping::Ram => "in memory",
            Keeping::Encrypted => "encrypted",
            Keeping::Plain => "on disk",
        }
    }
}

impl Swap {
    /// What the device does to what is swapped.
    fn keeping(&self) -> Keeping {
        let device = Path::new("/sys/class/block")
            .join(Path::new(&self.path).file_name().unwrap_or_default());
        let is_device = self.path.starts_with("/dev/");
        if is_device && self.path.starts_with("/dev/zram") {
            // Without a backing device it writes nothing back.
            return match read(device.join("backing_dev")).as_deref() {
                None | Some("none" | "") => Keeping::Ram,
                Some(_) => Keeping::Plain,
            };
        }
        match read(device.join("dm/uuid")) {
            Some(uuid) if is_device && uuid.starts_with("CRYPT-") => Keeping::Encrypted,
            _ => Keeping::Plain,
        }
    }
}

/// The lines of /proc/swaps: path, type, size and used in KiB, priority.
fn swaps(text: &str) -> Vec<Swap> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let path = fields.next()?.replace("\\040", " ");
            let kibibytes: u64 = fields.nth(1)?.parse().ok()?;
            Some(Swap {
                path,
                bytes: kibibytes * 1024,
            })
        })
        .collect()
}

/// Hibernation, which writes all memory but secret memory to disk, and which open secret memory forbids.
pub(super) fn hibernation() -> Check {
    let state = read("/sys/power/state");
    let lockdown = read("/sys/kernel/security/lockdown");
    let forbidden = if boot_option("nohibernate").is_some()
        || boot_option("hibernate").is_some_and(|value| value == "no")
    {
        Some("the kernel's command line")
    } else if lockdown
        .as_deref()
        .is_some_and(|modes| !modes.contains("[none]"))
    {
        Some("kernel lockdown")
    } else {
        None
    };
    let built = Path::new("/sys/power/disk").exists();
    let (available, value) = hibernates(state.as_deref(), built, forbidden);
    let why = "writes memory to disk, locked memory too; open secret memory keeps the whole machine from it";
    Check::new(Part::Rest, "hibernation", value, why)
        .with("available", available)
        .with("lockdown", lockdown)
        .falls_short_if(
            available,
            Status::Limited,
            "boot with nohibernate; or hibernate to an encrypted disk, and with secret programs ended",
        )
}

/// By the text of /sys/power/state and whether there is a /sys/power/disk. The kernel takes the word
/// `disk` out of the first where hibernation is forbidden, and while secret memory is open.
fn hibernates(state: Option<&str>, built: bool, forbidden: Option<&str>) -> (bool, Text) {
    let Some(state) = state else {
        return (false, "not told: no /sys/power".into());
    };
    let available = state.split_whitespace().any(|word| word == "disk");
    let value = match (available, built, forbidden) {
        (true, ..) => "available, until secret memory is open".into(),
        (false, false, _) => "this kernel has none".into(),
        (false, true, Some(cause)) => format!("off, by {cause}").into(),
        (false, true, None) => "off for now: most likely a process has secret memory open".into(),
    };
    (available, value)
}

/// Core dumps.
pub(super) fn core_dumps() -> Check {
    let limit = limits::get(Resource::Core);
    let pattern = read("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let setuid = number("/proc/sys/fs/suid_dumpable");
    let handler = pattern
        .strip_prefix('|')
        .map(|command| command.split_whitespace().next().unwrap_or_default());
    let to = match handler {
        Some(command) => format!("to {command}, whatever the limit"),
        None if limit.current == Some(0) => "forbidden (limit 0)".to_owned(),
        None => format!("to files named `{pattern}`"),
    };
    let of_setuid = if setuid == Some(1) {
        "; of setuid programs too (fs.suid_dumpable 1)"
    } else {
        ""
    };
    let mut fixes = Vec::new();
    if handler.is_some() {
        fixes.push("`sysctl kernel.core_pattern=core`, or systemd-coredump's Storage=none");
    }
    if limit.current != Some(0) {
        fixes.push("`ulimit -c 0`");
    }
    if setuid == Some(1) {
        fixes.push("`sysctl fs.suid_dumpable=0`");
    }
    let why = "never with secret memory; never of what `run` starts";
    Check::new(Part::Rest, "core-dumps", format!("{to}{of_setuid}"), why)
        .with("soft", limit.current)
        .with("hard", limit.maximum)
        .with("core_pattern", pattern.clone())
        .with("suid_dumpable", setuid)
        .falls_short_if(!fixes.is_empty(), Status::Limited, fixes.join("; "))
}

/// init_on_free and init_on_alloc, as far as the command line tells.
pub(super) fn wiping() -> Check {
    let told = |option| {
        boot_option(option).map(|value| !matches!(value.as_str(), "0" | "n" | "N" | "off"))
    };
    let (free, alloc) = (told("init_on_free"), told("init_on_alloc"));
    let word = |told| match told {
        Some(true) => "on",
        Some(false) => "off",
        None => "not in /proc/cmdline",
    };
    let value = if free == alloc {
        format!("init_on_free and init_on_alloc: {}", word(free))
    } else {
        format!(
            "init_on_free: {}; init_on_alloc: {}",
            word(free),
            word(alloc)
        )
    };
    let why = "strongroom wipes secrets itself; this is for the rest";
    Check::new(Part::Rest, "wipe-on-free", value, why)
        .with("init_on_free", free)
        .with("init_on_alloc", alloc)
        .falls_short_if(
            free != Some(true),
            Status::Limited,
            "boot with `init_on_free=1`, unless the kernel was built so, which does not show",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hibernation_is_off_for_a_reason() {
        assert!(hibernates(Some("freeze mem disk"), true, None).0);
        for (state, built, forbidden, expected) in [
            (None, false, None, "not told"),
            (Some(""), false, None, "has none"),
            (Some("freeze mem"), true, None, "secret memory open"),
            (
                Some("freeze mem"),
                true,
                Some("kernel lockdown"),
                "lockdown",
            ),
        ] {
            let (available, value) = hibernates(state, built, forbidden);
            assert!(!available && value.contains(expected), "{value}");
        }
    }

    #[test]
    fn swap_lines_are_understood() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/nonexistent5                       partition\t1000\t\t0\t\t-2\n\
                    /swap\\040file                           file\t\t24\t\t8\t\t-3\n";
        let swaps = swaps(text);
        assert_eq!(swaps[0].bytes, 1_024_000);
        assert_eq!(swaps[1].path, "/swap file");
        assert!(swaps.iter().all(|swap| swap.keeping() == Keeping::Plain));
    }
}
