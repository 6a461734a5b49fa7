//! The kernel driver: whether it is there, what its pool has, and who may use it.

use super::super::check::{Check, Part, Status, Text};
use super::{number, read};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use strongroom::keeper;
use strongroom_core::Reason;
use strongroom_core::driver::{Abi, VERSION};
use strongroom_probe::size::size;

/// The name of the package that brings it.
const PACKAGE: &str = "strongroom-dkms";
/// Where modprobe(8) looks for options.
const OPTIONS: [&str; 4] = [
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
];

/// All checks of it. Where it is not loaded, that alone is told.
pub(super) fn all() -> Vec<Check> {
    let machine = Machine {
        root: Path::new("/"),
    };
    let module = machine.module();
    if !machine.is_loaded() {
        return vec![module];
    }
    let mut checks = vec![
        module,
        machine.access(keeper::driver_offer()),
        machine.pool(),
    ];
    checks.extend(machine.holders());
    checks
}

/// The files that tell of it, below a directory.
struct Machine<'a> {
    root: &'a Path,
}

impl Machine<'_> {
    fn text(&self, path: &str) -> Option<String> {
        read(self.root.join(path))
    }

    /// A number of /sys/class/misc/strongroom.
    fn state(&self, name: &str) -> Option<u64> {
        number(self.root.join("sys/class/misc/strongroom").join(name))
    }

    fn is_loaded(&self) -> bool {
        self.root.join("sys/module/strongroom").exists()
    }

    fn release(&self) -> String {
        self.text("proc/sys/kernel/osrelease").unwrap_or_default()
    }

    /// The module's file for the kernel that runs, as depmod(8) found it.
    fn installed(&self) -> Option<String> {
        let list = self.text(&format!("lib/modules/{}/modules.dep", self.release()))?;
        list.lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, _)| file)
            .find(|file| {
                let name = Path::new(file).file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with("strongroom.ko"))
            })
            .map(str::to_owned)
    }

    /// What the kernel was told at boot to leave alone: the words memmap=SIZE$START.
    fn set_aside(&self) -> Vec<String> {
        let line = self.text("proc/cmdline").unwrap_or_default();
        line.split_whitespace()
            .take_while(|word| *word != "--")
            .filter(|word| word.starts_with("memmap=") && word.contains('$'))
            .map(str::to_owned)
            .collect()
    }

    /// The parameter `pool` that modprobe would give it.
    fn configured(&self) -> Option<String> {
        let files = OPTIONS
            .iter()
            .filter_map(|directory| fs::read_dir(self.root.join(directory)).ok())
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "conf"));
        let texts = files.filter_map(read);
        let line = self.text("proc/cmdline").unwrap_or_default();
        let at_boot = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("strongroom.pool="));
        let mut found = texts.filter_map(|text| pool_of(&text).map(str::to_owned));
        at_boot.map(str::to_owned).or_else(|| found.next())
    }

    fn module(&self) -> Check {
        let why = "memory that the kernel never had a mapping of";
        let check = |value: Text| Check::new(Part::Driver, "driver-module", value, why);
        if self.is_loaded() {
            let release = self.text("sys/module/strongroom/version");
            let interface = self.state("version");
            let value = format!(
                "loaded: version {}, interface {}",
                release.as_deref().unwrap_or("unknown"),
                interface.map_or("unknown".to_owned(), |number| number.to_string())
            );
            return check(value.into())
                .with("loaded", true)
                .with("version", release)
                .with("interface", interface)
                .falls_short_if(
                    interface != Some(u64::from(VERSION)),
                    Status::Missing,
                    format!(
                        "this command speaks interface {VERSION}: install {PACKAGE} {}, then \
                         `modprobe -r strongroom`, `modprobe strongroom`",
                        env!("CARGO_PKG_VERSION")
                    ),
                );
        }
        let installed = self.installed();
        let set_aside = self.set_aside();
        let configured = self.configured();
        let value: Text = match &installed {
            Some(file) => format!("not loaded; installed as {file}").into(),
            None => format!("not installed for the kernel {}", self.release()).into(),
        };
        let mut steps = Vec::new();
        if installed.is_none() {
            steps.push(format!(
                "install {PACKAGE} and this kernel's headers (docs/driver.md)"
            ));
        }
        if set_aside.is_empty() {
            steps.push("set RAM aside at boot: memmap=SIZE$START".to_owned());
        }
        if configured.is_none() {
            steps.push(
                "/etc/modprobe.d/strongroom.conf: `options strongroom pool=START:SIZE`".to_owned(),
            );
        }
        steps.push(
            "`modprobe strongroom`, and where that fails `dmesg | grep strongroom`".to_owned(),
        );
        check(value)
            .with("loaded", false)
            .with("installed", installed)
            .with("set_aside", set_aside)
            .with("configured", configured)
            .falls_short(Status::Missing, steps.join("; "))
    }

    /// Who may open the device, and whether this process could; `offer` is what came of it.
    fn access(&self, offer: Result<Abi, Reason>) -> Check {
        let file = fs::metadata(self.root.join("dev/strongroom")).ok();
        let who = file.as_ref().map_or("nobody".to_owned(), |file| {
            self.who(file.mode(), file.gid())
        });
        let group = file.as_ref().map(|file| self.group(file.gid()));
        let value: Text = match &offer {
            Ok(_) => format!("this user may open it, as may {who}").into(),
            Err(reason) => format!("{reason}; {who} may open it").into(),
        };
        let check = Check::new(
            Part::Driver,
            "driver-access",
            value,
            "who may open it may take of the pool",
        )
        .with("usable", offer.is_ok())
        .with(
            "mode",
            file.as_ref()
                .map(|file| format!("{:04o}", file.mode() & 0o7777)),
        )
        .with("group", group.clone());
        let Err(reason) = offer else { return check };
        let fix: Text = match (reason, group) {
            (Reason::NoDriver, None) => {
                "in a container pass it on: `docker run --device /dev/strongroom`; elsewhere \
                 `udevadm trigger --subsystem-match=misc`"
                    .into()
            }
            (Reason::DriverNotPermitted, Some(group)) if group != "root" => {
                format!("as root: `usermod -aG {group} USER`, then log in anew").into()
            }
            (Reason::DriverNotPermitted, _) => format!(
                "give it a group: {PACKAGE} has a udev rule; without udev `chgrp strongroom \
                 /dev/strongroom && chmod 660 /dev/strongroom`"
            )
            .into(),
            (reason, _) if reason.fix().is_empty() => "`dmesg | grep strongroom`".into(),
            (reason, _) => reason.fix().into(),
        };
        check
            .with("reason", reason.word())
            .falls_short(Status::Missing, fix)
    }

    /// Those that a device file's mode lets open it, root aside.
    fn who(&self, mode: u32, gid: u32) -> String {
        const READ_AND_WRITE: u32 = 6;
        if mode & READ_AND_WRITE == READ_AND_WRITE {
            "everyone".to_owned()
        } else if mode >> 3 & READ_AND_WRITE == READ_AND_WRITE {
            format!("root and the group {}", self.group(gid))
        } else {
            "root alone".to_owned()
        }
    }

    /// A group's name, or its number.
    fn group(&self, gid: u32) -> String {
        let groups = self.text("etc/group").unwrap_or_default();
        groups
            .lines()
            .find_map(|line| {
                let mut fields = line.split(':');
                let (name, number) = (fields.next()?, fields.nth(1)?);
                (number.parse() == Ok(gid)).then(|| name.to_owned())
            })
            .unwrap_or_else(|| gid.to_string())
    }

    fn pool(&self) -> Check {
        let named = |name| self.state(name).unwrap_or_default();
        let (total, free) = (named("total"), named("free"));
        let refused = named("refused_full");
        let mut value = format!(
            "{} of {} free, {} of it in one piece; a user gets {} at most",
            size(free),
            size(total),
            size(named("largest_free")),
            size(named("user_limit")),
        );
        if refused > 0 {
            value.push_str(&format!("; {refused} times it had too little left"));
        }
        let numbers = [
            "total",
            "free",
            "largest_free",
            "held",
            "objects",
            "user_limit",
            "faults",
            "refused_full",
            "refused_limit",
            "refused_owner",
        ];
        let why = "what is not free is refused by mmap, not by a touch";
        numbers
            .into_iter()
            .fold(
                Check::new(Part::Driver, "driver-pool", value, why),
                |check, name| check.with(name, self.state(name)),
            )
            .falls_short_if(
                free < total / 10,
                Status::Limited,
                "end a program that holds much of it (as root: driver-holders); set more aside at boot, and \
                 name it in the parameter pool",
            )
    }

    /// Who holds how much: root is told, and only where there is somebody.
    fn holders(&self) -> Option<Check> {
        const SHOWN: usize = 5;
        let list = self.text("sys/class/misc/strongroom/holders")?;
        let holders = processes(&list);
        let largest = holders.first()?;
        let name = |pid: u32| {
            let name = self.text(&format!("proc/{pid}/comm"));
            name.unwrap_or_else(|| "ended".to_owned())
        };
        let shown: Vec<_> = holders
            .iter()
            .take(SHOWN)
            .map(|holder| {
                let (bytes, name) = (size(holder.bytes), name(holder.pid));
                format!("{name} ({}, user {}) {bytes}", holder.pid, holder.uid)
            })
            .collect();
        let more = match holders.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let data: Vec<Value> = holders
            .iter()
            .map(|holder| json!({"pid": holder.pid, "uid": holder.uid, "bytes": holder.bytes}))
            .collect();
        let value = format!("{}{more}", shown.join(", "));
        let why = "by the process that mapped it, the largest first";
        let check = Check::new(Part::Driver, "driver-holders", value, why)
            .with("largest", largest.bytes)
            .with("holders", data);
        Some(check)
    }
}

/// The value of `pool` in the text of a file of modprobe.d(5).
fn pool_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let named = words.next() == Some("options") && words.next() == Some("strongroom");
        words
            .filter(|_| named)
            .find_map(|word| word.strip_prefix("pool="))
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    uid: u32,
    bytes: u64,
}

/// The driver's lines, `pid uid bytes mode` for an object, with what each process has together.
fn processes(list: &str) -> Vec<Holder> {
    let mut holders: Vec<Holder> = Vec::new();
    for line in list.lines() {
        let mut words = line.split_whitespace();
        let mut next = || words.next()?.parse::<u64>().ok();
        let (Some(pid), Some(uid), Some(bytes)) = (next(), next(), next()) else {
            continue;
        };
        let (Ok(pid), Ok(uid)) = (u32::try_from(pid), u32::try_from(uid)) else {
            continue;
        };
        match holders.iter_mut().find(|h| (h.pid, h.uid) == (pid, uid)) {
            Some(holder) => holder.bytes = holder.bytes.saturating_add(bytes),
            None => holders.push(Holder { pid, uid, bytes }),
        }
    }
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
    holders
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "tests fail by panics"
    )]

    use super::*;
    use tempfile::TempDir;

    const ABI: Abi = Abi {
        size: size_of::<Abi>() as u32,
        version: VERSION,
        modes: 0x1f,
        properties: 3,
        page: 4096,
        huge_page: 2 << 20,
        total: 1 << 30,
        user_limit: 1 << 29,
    };

    /// A machine of these files.
    fn machine(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn at(root: &TempDir) -> Machine<'_> {
        Machine { root: root.path() }
    }

    const LOADED: [(&str, &str); 2] = [
        ("sys/module/strongroom/version", "0.1.0\n"),
        ("sys/class/misc/strongroom/version", "1\n"),
    ];

    #[test]
    fn a_machine_without_it_is_told_every_step() {
        let root = machine(&[
            ("proc/sys/kernel/osrelease", "6.12.0-test\n"),
            ("proc/cmdline", "ro quiet -- memmap=1G$4G\n"),
            (
                "lib/modules/6.12.0-test/modules.dep",
                "kernel/a/strongroom_not.ko.xz:\n",
            ),
        ]);
        let check = at(&root).module();
        assert_eq!(check.status, Status::Missing);
        assert_eq!(check.value, "not installed for the kernel 6.12.0-test");
        let fix = check.fix.unwrap();
        for step in ["strongroom-dkms", "memmap=", "modprobe.d", "`modprobe s"] {
            assert!(fix.contains(step), "no {step} in {fix}");
        }
    }

    #[test]
    fn what_is_done_already_is_no_step() {
        let root = machine(&[
            ("proc/sys/kernel/osrelease", "6.12.0-test\n"),
            ("proc/cmdline", "ro memmap=1G$4G quiet memmap=nopentium\n"),
            (
                "etc/modprobe.d/strongroom.conf",
                "# pool=1:1\noptions other pool=2:2\noptions strongroom mode=0660 pool=4G:1G\n",
            ),
            (
                "lib/modules/6.12.0-test/modules.dep",
                "kernel/a.ko.xz: kernel/b.ko.xz\nupdates/dkms/strongroom.ko.xz:\n",
            ),
        ]);
        let check = at(&root).module();
        assert_eq!(
            check.value,
            "not loaded; installed as updates/dkms/strongroom.ko.xz"
        );
        assert_eq!(check.data["set_aside"], json!(["memmap=1G$4G"]));
        assert_eq!(check.data["configured"], "4G:1G");
        let fix = check.fix.unwrap();
        assert!(fix.starts_with("`modprobe strongroom`"), "{fix}");
    }

    #[test]
    fn another_interface_is_no_use() {
        let root = machine(&LOADED);
        let check = at(&root).module();
        assert_eq!(check.status, Status::Ok);
        assert_eq!(check.value, "loaded: version 0.1.0, interface 1");
        let root = machine(&[LOADED[0], ("sys/class/misc/strongroom/version", "2\n")]);
        let check = at(&root).module();
        assert_eq!(check.status, Status::Missing);
        assert!(check.fix.unwrap().contains("interface 1"));
        let refused = at(&root).access(Err(Reason::DriverDiffers));
        assert_eq!(refused.data["reason"], "driver-differs");
        assert_eq!(refused.fix.unwrap(), Reason::DriverDiffers.fix());
    }

    #[test]
    fn who_is_kept_out_learns_which_group_to_be_in() {
        let root = machine(&[("etc/group", "root:x:0:\nstrongroom:x:998:a,b\n")]);
        let machine = at(&root);
        assert_eq!(machine.who(0o20660, 998), "root and the group strongroom");
        assert_eq!(machine.who(0o20660, 77), "root and the group 77");
        assert_eq!(machine.who(0o20600, 998), "root alone");
        assert_eq!(machine.who(0o20666, 998), "everyone");
        // Without a device at all.
        let check = machine.access(Err(Reason::NoDriver));
        assert!(check.value.contains("nobody may open it"));
        assert!(check.fix.unwrap().contains("--device /dev/strongroom"));
    }

    #[test]
    fn whatever_kept_it_from_being_opened_there_is_something_to_do() {
        let root = machine(&[("dev/strongroom", ""), ("etc/group", "root:x:0:\n")]);
        let machine = at(&root);
        assert_eq!(machine.access(Ok(ABI)).status, Status::Ok);
        for reason in [
            Reason::NoDriver,
            Reason::DriverNotPermitted,
            Reason::DriverDiffers,
            Reason::DriverExposed,
            Reason::TooManyFiles,
            Reason::Kernel {
                call: "open",
                errno: 5,
            },
        ] {
            let check = machine.access(Err(reason));
            assert_eq!(check.status, Status::Missing);
            assert!(check.fix.is_some_and(|fix| !fix.is_empty()), "{reason}");
        }
    }

    #[test]
    fn a_pool_that_is_nearly_full_is_limited() {
        let pool = |free: &str, refused: &str| {
            let root = machine(&[
                ("sys/class/misc/strongroom/total", "1073741824\n"),
                ("sys/class/misc/strongroom/free", free),
                ("sys/class/misc/strongroom/largest_free", free),
                ("sys/class/misc/strongroom/user_limit", "536870912\n"),
                ("sys/class/misc/strongroom/refused_full", refused),
            ]);
            at(&root).pool()
        };
        let roomy = pool("536870912\n", "0\n");
        assert_eq!((roomy.status, roomy.fix), (Status::Ok, None));
        assert_eq!(
            roomy.value,
            "512 MiB of 1 GiB free, 512 MiB of it in one piece; a user gets 512 MiB at most"
        );
        assert_eq!(roomy.data["total"], 1_u64 << 30);
        assert_eq!(roomy.data["objects"], Value::Null);
        let full = pool("0\n", "7\n");
        assert_eq!(full.status, Status::Limited);
        assert!(full.value.contains("7 times"), "{}", full.value);
    }

    #[test]
    fn holders_are_added_up_by_process() {
        let root = machine(&[
            (
                "sys/class/misc/strongroom/holders",
                "7 1000 4096 1\n9 0 2097152 17\n7 1000 8192 1\n",
            ),
            ("proc/7/comm", "gpg-agent\n"),
        ]);
        let check = at(&root).holders().unwrap();
        assert_eq!(
            check.value,
            "ended (9, user 0) 2 MiB, gpg-agent (7, user 1000) 12 KiB"
        );
        assert_eq!(check.data["holders"][1]["bytes"], 12288);
        assert_eq!(processes("1 2\nx y z\n"), []);
        // Not told to others than root, and nobody there.
        assert!(at(&machine(&[])).holders().is_none());
        let nobody = machine(&[("sys/class/misc/strongroom/holders", "")]);
        assert!(at(&nobody).holders().is_none());
    }
}
