//! `strongroom attack`: what it finds here, what it says, and its status.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail the test"
)]

mod support;

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use support::{How, Room, Transcript, Who, need};

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");

/// Every attack that claims and controls are about.
const CONTROLS: [(&str, &str); 26] = [
    ("peek", "plain"),
    ("peek-root", "plain"),
    ("fd", "open-fd"),
    ("fd-root", "open-fd"),
    ("fd-inherited", "open-fd"),
    ("pin-vmsplice", "plain"),
    ("pin-direct", "plain"),
    ("pin-io-uring", "plain"),
    ("directmap", "plain"),
    ("swap", "plain"),
    ("core", "plain"),
    ("core-gcore", "plain"),
    ("fork", "open-fd"),
    ("free", "plain"),
    ("residue", "plain"),
    ("fork-exec", "open-fd"),
    ("residue-exit", "plain"),
    ("residue-kill", "plain"),
    ("overflow-read", "plain"),
    ("overflow-write", "plain"),
    ("overflow-uaf", "plain"),
    ("overflow-double", "plain"),
    ("idle", "plain"),
    ("cache", "plain"),
    ("inject", "plain"),
    ("inject-root", "plain"),
];

/// Every attack on guests; the control of all of them is guest-plain.
const ON_GUESTS: [&str; 22] = [
    "peek",
    "peek-root",
    "fd",
    "fd-root",
    "fd-inherited",
    "directmap",
    "swap",
    "core",
    "core-gcore",
    "fork",
    "fork-exec",
    "vmm-view",
    "vmm-syscall",
    "vmm-pointer",
    "vmm-stale-slice",
    "vmm-alias",
    "vmm-steer",
    "vmm-peek",
    "vmm-map",
    "vmm-vmsplice",
    "vmm-io-uring",
    "vmm-direct",
];

fn has_kvm() -> bool {
    let kvm = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    kvm.is_ok()
}

fn has_swap() -> bool {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    swaps.lines().count() > 1
}

fn has_gcore() -> bool {
    std::path::Path::new("/usr/bin/gcore").exists()
}

/// `strongroom attack` in a room, whose user can run the command.
fn attack(room: &Room, options: &[&str]) -> Transcript {
    let copy = room.copy(STRONGROOM.as_ref(), "attacker");
    room.run(room.plain(copy).arg("attack").args(options))
}

fn json(transcript: &Transcript) -> Value {
    let report: Value = serde_json::from_str(&transcript.stdout)
        .unwrap_or_else(|error| panic!("{error}: {transcript:?}"));
    assert_eq!(report["schema"], 1);
    report
}

fn victims(report: &Value) -> &Vec<Value> {
    report["victims"].as_array().unwrap()
}

/// The result of an attack on a victim, and whether it was claimed.
fn result<'a>(report: &'a Value, victim: &str, attack: &str) -> (&'a str, bool) {
    let victim = victims(report)
        .iter()
        .find(|v| v["name"] == victim)
        .unwrap();
    let attacks = victim["attacks"].as_array().unwrap();
    let attack = attacks.iter().find(|a| a["attack"] == attack).unwrap();
    assert!(attack["detail"].is_string() && attack["protection"].is_string());
    (
        attack["result"].as_str().unwrap(),
        attack["claimed"].as_bool().unwrap(),
    )
}

/// No claim leaked, and each was attacked unless `skipped` says why not.
fn assert_claims_held(report: &Value, skipped: impl Fn(&str) -> bool) -> usize {
    let mut count = 0;
    for victim in victims(report) {
        for attack in victim["attacks"].as_array().unwrap() {
            if attack["claimed"] == true {
                count += 1;
                if !skipped(attack["attack"].as_str().unwrap()) {
                    assert_eq!(attack["result"], "held", "{} {attack}", victim["name"]);
                }
            }
        }
    }
    count
}

#[test]
fn as_root_every_control_leaks_and_every_claim_is_held() {
    need!(root, secretmem);
    let room = Room::new(Who::Root, How::Plain);
    let transcript = attack(&room, &["--json"]);
    let report = json(&transcript);
    let unavailable = |attack: &str| match attack {
        "core-gcore" => !has_gcore(),
        "swap" => !has_swap(),
        // Where the clock is emulated, as in a virtual machine without acceleration.
        "cache" => result(&report, "plain", "cache").0 == "skipped",
        _ => false,
    };
    for (attack, control) in CONTROLS {
        if !unavailable(attack) {
            let (result, claimed) = result(&report, control, attack);
            assert_eq!((result, claimed), ("leaked", false), "{attack}: {report}");
        }
    }
    // A region cannot be freed twice; what can be done to it is.
    let impossible = |attack: &str| unavailable(attack) || attack == "overflow-double";
    assert!(assert_claims_held(&report, impossible) >= 40, "{report}");
    for victim in ["strongroom-locked", "strongroom-hidden"] {
        assert_eq!(result(&report, victim, "overflow-double"), ("held", true));
    }
    // Guard pages bound a region; no receipt of `run` says so of a heap's blocks.
    for attack in ["overflow-read", "overflow-write"] {
        assert_eq!(result(&report, "strongroom-region", attack), ("held", true));
        assert_eq!(
            result(&report, "strongroom-hidden", attack),
            ("leaked", false)
        );
    }
    // Without a free nothing is wiped, but by the kernel where the memory was a secret file's.
    for attack in ["residue-exit", "residue-kill"] {
        assert_eq!(
            result(&report, "strongroom-hidden", attack),
            ("held", false)
        );
        assert_eq!(
            result(&report, "strongroom-locked", attack),
            ("leaked", false)
        );
    }
    // What strongroom-locked does not claim is shown, not hidden.
    assert_eq!(
        result(&report, "strongroom-locked", "peek-root"),
        ("leaked", false)
    );
    assert_eq!(
        result(&report, "strongroom-hidden", "peek-root"),
        ("held", true)
    );
    // Nothing keeps root from injecting code, and no receipt says so.
    assert_eq!(
        result(&report, "strongroom-hidden", "inject-root"),
        ("leaked", false)
    );
    for victim in victims(&report) {
        let name = victim["name"].as_str().unwrap();
        let has = name.starts_with("strongroom-");
        if name.starts_with("strongroom-guest-") {
            // Not every kernel has each of them.
            continue;
        }
        assert_eq!(victim["receipt"].is_object(), has, "{name}");
    }
    assert_eq!(transcript.status, "exit 0", "{transcript}");
}

/// Guests in the kernel driver's memory, where that is loaded.
const DRIVERS: [&str; 2] = ["strongroom-guest-driver", "strongroom-guest-driver-poison"];

/// What of guests is claimed is held, what is not is told as it is, and the ordinary guest has nothing.
#[test]
fn as_root_guests_keep_what_their_receipts_claim() {
    need!(root);
    if !has_kvm() {
        return support::skip("there is no /dev/kvm");
    }
    let room = Room::new(Who::Root, How::Plain);
    let transcript = attack(&room, &["--only", "vmm", "--json"]);
    let report = json(&transcript);
    let names: Vec<_> = victims(&report).iter().map(|v| &v["name"]).collect();
    let driver = Path::new("/dev/strongroom").exists();
    let drivers: &[_] = if driver { &DRIVERS } else { &[] };
    let others = [
        "strongroom-guest-poison",
        "strongroom-guest-pair",
        "strongroom-guest-attributes",
    ];
    assert_eq!(names, [&["guest-plain"], drivers, &others].concat());
    let unavailable = |attack: &str| match attack {
        "core-gcore" => !has_gcore(),
        "swap" => !has_swap(),
        _ => false,
    };
    for attack in ON_GUESTS {
        if !unavailable(attack) {
            let result = result(&report, "guest-plain", attack);
            assert_eq!(result, ("leaked", false), "{attack}: {report}");
        }
    }
    assert_eq!(victims(&report)[0]["attacks"].as_array().unwrap().len(), 22);
    assert_claims_held(&report, unavailable);
    let all = [
        "NoSwap",
        "NoCoreDump",
        "NoForkShare",
        "NoFdSpill",
        "NoPeek",
        "NoPin",
    ];
    let mut kept = 0;
    for (victim, held) in [
        (
            "strongroom-guest-poison",
            &["NoCoreDump", "NoForkShare"][..],
        ),
        ("strongroom-guest-pair", &all),
        ("strongroom-guest-attributes", &all),
    ] {
        let found = victims(&report).iter().find(|v| v["name"] == victim);
        let receipt = &found.unwrap()["receipt"];
        if receipt.is_null() {
            // This kernel has no such backing.
            continue;
        }
        kept += 1;
        assert_eq!(receipt["held"], serde_json::json!(held), "{victim}");
        let why = &receipt["missing"]["NoVmm"];
        assert_eq!(why["reason"], "guest-steered", "{victim}");
        // A monitor has its guest hand its pages out, and the kernel sees them all.
        for attack in ["vmm-steer", "directmap"] {
            assert_eq!(
                result(&report, victim, attack),
                ("leaked", false),
                "{victim}"
            );
        }
        // What goes by the monitor's view is refused, zero, or named.
        for attack in ["vmm-view", "vmm-syscall", "vmm-pointer", "vmm-stale-slice"] {
            assert_eq!(result(&report, victim, attack), ("held", false), "{victim}");
        }
        let alias = if victim.ends_with("poison") {
            "leaked"
        } else {
            "held"
        };
        for attack in ["vmm-alias", "vmm-peek", "vmm-io-uring", "vmm-vmsplice"] {
            assert_eq!(
                result(&report, victim, attack).0,
                alias,
                "{victim} {attack}"
            );
        }
    }
    assert!(kept > 0, "no backing works here: {report}");
    for &victim in drivers {
        let found = victims(&report).iter().find(|v| v["name"] == victim);
        let held = [&all[..], &["NoDirectMap"]].concat();
        assert_eq!(found.unwrap()["receipt"]["held"], serde_json::json!(held));
        // Its monitor's mappings are all that leads there: with private pages, the guest's own alone.
        let view = if victim.ends_with("poison") {
            "held"
        } else {
            "leaked"
        };
        for (attack, expected) in [
            ("vmm-view", view),
            ("vmm-syscall", view),
            ("vmm-pointer", view),
            ("vmm-stale-slice", view),
            ("vmm-alias", "leaked"),
            ("vmm-steer", "leaked"),
        ] {
            let result = result(&report, victim, attack);
            assert_eq!(result, (expected, false), "{victim} {attack}");
        }
    }
    assert_eq!(transcript.status, "exit 0", "{transcript}");
}

/// Without KVM for the user nothing is held; with it, as much as anywhere.
#[test]
fn an_ordinary_user_attacks_guests_where_kvm_is_open() {
    let room = Room::new(Who::User, How::Plain);
    let transcript = attack(&room, &["--only", "vmm", "--json"]);
    let report = json(&transcript);
    let plain = &victims(&report)[0];
    assert_eq!(plain["name"], "guest-plain");
    for attack in plain["attacks"].as_array().unwrap() {
        let detail = attack["detail"].as_str().unwrap();
        let without = detail.contains("/dev/kvm") || detail == "needs root";
        let root_only = ["swap", "core-gcore"].contains(&attack["attack"].as_str().unwrap());
        assert!(
            attack["result"] == "leaked" || attack["result"] == "skipped" && (without || root_only),
            "{attack}"
        );
    }
    assert_claims_held(&report, |attack| {
        attack.ends_with("-root") || ["swap", "core-gcore"].contains(&attack)
    });
    assert_eq!(transcript.status, "exit 0", "{transcript}");
}

#[test]
fn guests_have_a_table_of_their_own() {
    need!(root);
    let room = Room::new(Who::Root, How::Plain);
    let transcript = attack(&room, &["--only", "fork,vmm-view"]);
    let table = &transcript.stdout;
    for line in table.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    let heads: Vec<_> = table.lines().filter(|l| l.starts_with("attack ")).collect();
    assert_eq!(heads.len(), 2, "{table}");
    assert!(
        heads[1].contains("guest-plain") && !heads[0].contains("guest"),
        "{table}"
    );
    let rows = |name: &str| table.lines().filter(|l| l.starts_with(name)).count();
    assert_eq!((rows("fork "), rows("vmm-view ")), (2, 1), "{table}");
    // Guests have no level, so that nothing is left to attack.
    let nothing = attack(&room, &["--only", "vmm-view", "--level", "hidden"]);
    assert_eq!(nothing.status, "exit 125", "{nothing}");
}

#[test]
fn an_ordinary_user_does_what_can_be_done() {
    need!(secretmem);
    let room = Room::new(Who::User, How::Plain);
    let transcript = attack(&room, &["--json"]);
    let report = json(&transcript);
    let root_only = |attack: &str| {
        ["directmap", "swap"].contains(&attack)
            || attack.starts_with("residue")
            || attack.ends_with("-root")
    };
    for (attack, control) in CONTROLS {
        let (result, _) = result(&report, control, attack);
        if root_only(attack) {
            assert_eq!(result, "skipped", "{attack}");
        } else if !["core-gcore", "cache"].contains(&attack) {
            assert_eq!(result, "leaked", "{attack}: {report}");
        }
    }
    assert_claims_held(&report, |attack| {
        root_only(attack) || ["core-gcore", "overflow-double"].contains(&attack)
    });
    assert_eq!(transcript.status, "exit 0", "{transcript}");

    let table = attack(&room, &["--only", "directmap"]).stdout;
    assert!(table.contains("directmap: needs root"), "{table}");
    assert!(table.contains("sudo strongroom attack"), "{table}");
}

#[test]
fn the_table_fits_and_says_it_without_colours() {
    need!(root, secretmem);
    let room = Room::new(Who::Root, How::Plain);
    let transcript = attack(&room, &["--only", "peek,fork"]);
    assert_eq!(transcript.status, "exit 0", "{transcript}");
    let table = &transcript.stdout;
    assert!(!table.contains('\x1b'), "{table}");
    for line in table.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    let row = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} in {table}"));
        line.split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect::<Vec<_>>()
            .join("|")
    };
    assert_eq!(
        row("peek-root "),
        "peek-root|NoPeek|leaked *|– leaked|– held|– leaked|held|held"
    );
    assert_eq!(
        row("fork "),
        "fork|NoForkShare|– held|– held|leaked *|held|held|held"
    );
    assert!(!table.contains("vmsplice"), "{table}");
}

/// Where memfd_secret is not to be had, nothing is held for want of a control.
#[test]
fn without_secret_memory_it_says_what_is_skipped() {
    let room = Room::new(Who::User, How::Plain).without_secret_memory();
    let transcript = attack(&room, &["--only", "pin-vmsplice,fork", "--json"]);
    let report = json(&transcript);
    assert_eq!(
        result(&report, "strongroom-hidden", "pin-vmsplice"),
        ("skipped", false)
    );
    assert_eq!(result(&report, "plain", "pin-vmsplice"), ("leaked", false));
    assert_eq!(
        result(&report, "strongroom-locked", "fork"),
        ("skipped", true)
    );
    assert!(transcript.stdout.contains("memfd_secret"), "{transcript}");
    assert_eq!(transcript.status, "exit 0", "{transcript}");
}

/// Where everything is protected, the plain victim too, nothing is proven.
#[test]
fn a_control_that_does_not_leak_makes_it_void() {
    need!(secretmem);
    let room = Room::new(Who::User, How::Run(&["--level", "hidden"]));
    let copy = room.copy(STRONGROOM.as_ref(), "attacker");
    let transcript = room.run(
        room.command(&copy)
            .args(["attack", "--only", "pin-vmsplice"]),
    );
    assert_eq!(transcript.status, "exit 3", "{transcript}");
    let mut lines = transcript.stdout.lines();
    let row = lines.find(|line| line.starts_with("pin-vmsplice"));
    let row = row.unwrap_or_default();
    assert!(
        row.contains("HELD *") && row.contains("void"),
        "{transcript}"
    );
    assert!(!row.contains(" held"), "{transcript}");
}

#[test]
fn one_level_is_one_column() {
    let room = Room::new(Who::User, How::Plain);
    let report = json(&attack(
        &room,
        &["--level", "locked", "--only", "free", "--json"],
    ));
    let names: Vec<_> = victims(&report).iter().map(|v| &v["name"]).collect();
    assert_eq!(names, ["plain", "locked", "open-fd", "strongroom-locked"]);
}

#[test]
fn an_unknown_name_lists_the_names() {
    let output = Command::new(STRONGROOM)
        .args(["attack", "--only", "peek,nonsense"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("nonsense"), "{text}");
    for name in ["peek", "fd-root", "pin-vmsplice", "core-gcore"] {
        assert!(text.contains(name), "{text}");
    }
}

/// Nothing of the attacks stays: no process, no file.
#[test]
fn it_leaves_nothing_behind() {
    let room = Room::new(Who::User, How::Plain);
    let directory = room.directory("files");
    let copy = room.copy(STRONGROOM.as_ref(), "attacker");
    let mut command = room.plain(&copy);
    command
        .args(["attack", "--only", "fork,core"])
        .env("TMPDIR", &directory);
    room.run(&mut command);
    let left: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let victims = std::fs::read_dir("/proc").unwrap().flatten().filter(|e| {
        let program = std::fs::read_link(e.path().join("exe"));
        program.is_ok_and(|program| program.starts_with(room.path()))
    });
    assert_eq!(victims.count(), 0);
}
