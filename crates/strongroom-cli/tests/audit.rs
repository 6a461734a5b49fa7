//! `strongroom audit`: what it tells of programs whose memory is known, what it says, and its status.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail the test"
)]

mod support;

use serde_json::Value;
use std::process::Command;
use support::{How, Room, Session, Transcript, Who, need};

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");
const ADVERSARIES: [&str; 7] = [
    "same-user",
    "root",
    "core-dump",
    "swap",
    "fork-child",
    "pin",
    "direct-map",
];

/// A program with known mappings, stopped where all of them are there.
struct Subject {
    _session: Session,
    pid: i32,
    heap: u64,
    large: u64,
    file: u64,
}

fn subject(room: &Room, mappings: usize) -> Subject {
    let file = room.file("mapped", "x");
    let program = room.program("audited.c", &[]);
    let count = mappings.to_string();
    let mut session = room.session(room.command(program).arg(file).arg(count));
    let heap = session.stage("heap");
    session.go();
    let large = session.stage("large");
    session.go();
    let file = session.stage("file");
    Subject {
        _session: session,
        pid: heap.pid,
        heap: heap.address,
        large: large.address,
        file: file.address,
    }
}

/// `strongroom audit` by this test's own user.
fn audit(pid: i32, options: &[&str]) -> Transcript {
    let pid = pid.to_string();
    let output = Command::new(STRONGROOM)
        .args(["audit", &pid])
        .args(options)
        .output()
        .unwrap();
    Transcript {
        status: format!("exit {}", output.status.code().unwrap()),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[track_caller]
fn json(transcript: &Transcript) -> Value {
    let report: Value = serde_json::from_str(&transcript.stdout)
        .unwrap_or_else(|error| panic!("{error}: {transcript:?}"));
    assert_eq!(report["schema"], 1);
    assert_eq!(report["partial"], Value::Null);
    assert_eq!(transcript.status, "exit 0", "{transcript}");
    report
}

fn address(value: &Value) -> u64 {
    let text = value.as_str().unwrap().strip_prefix("0x").unwrap();
    u64::from_str_radix(text, 16).unwrap()
}

/// The mapping that has an address.
#[track_caller]
fn mapping(report: &Value, at: u64) -> &Value {
    let mappings = report["mappings"].as_array().unwrap();
    mappings
        .iter()
        .find(|mapping| (address(&mapping["start"])..address(&mapping["end"])).contains(&at))
        .unwrap_or_else(|| panic!("{at:#x} is in no mapping"))
}

fn reach<'a>(mapping: &'a Value, adversary: &str) -> &'a str {
    let finding = &mapping["exposure"][adversary];
    assert!(!finding["why"].as_str().unwrap().is_empty());
    finding["reach"].as_str().unwrap()
}

fn hole<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    let holes = report["holes"].as_array().unwrap();
    holes.iter().find(|hole| hole["hole"] == name)
}

#[test]
fn a_plain_program_is_reachable_and_told_how_to_be_less() {
    need!(root);
    let room = Room::new(Who::User, How::Plain).with_env("SERVICE_PASSWORD", "x");
    let subject = subject(&room, 0);
    let report = json(&audit(subject.pid, &["--json"]));
    let heap = mapping(&report, subject.heap);
    assert_eq!(heap["group"], "heap");
    for adversary in ADVERSARIES {
        // Yama and swap are the machine's.
        if !["swap", "same-user"].contains(&adversary) {
            assert_eq!(reach(heap, adversary), "reachable", "{adversary} {heap}");
        }
    }
    let why = heap["exposure"]["direct-map"]["why"].as_str().unwrap();
    match report["direct_map"]["mappings"].as_u64() {
        Some(count) => assert!(count > 5 && why.starts_with("measured"), "{why}"),
        None => support::skip(&report["direct_map"].to_string()),
    }
    // 64 MiB and a page of 10 GiB.
    let large = mapping(&report, subject.large);
    assert_eq!(large["present_pages"], (64 << 8) + 1);
    assert_eq!(large["own_pages"], (64 << 8) + 1);
    assert_eq!(large["group"], "anonymous");
    let file = mapping(&report, subject.file);
    assert_eq!(
        (&file["own_pages"], &file["present_pages"]),
        (&0.into(), &1.into())
    );
    assert_eq!(file["group"], "files");
    assert!(file["name"].as_str().unwrap().ends_with("/mapped"));

    let root = &report["totals"][1];
    assert_eq!(root["adversary"], "root");
    assert!(root["reachable"].as_u64().unwrap() > 64 << 8);
    assert_eq!(root["out_of_reach"], 0);
    let environment = hole(&report, "environment").unwrap();
    assert!(
        environment["what"]
            .as_str()
            .unwrap()
            .ends_with(": SERVICE_PASSWORD")
    );
    assert!(
        environment["fixes"][0]
            .as_str()
            .unwrap()
            .contains("LoadCredential=SERVICE_PASSWORD:")
    );
    let memory = hole(&report, "ordinary-memory").unwrap();
    let fix = memory["fixes"][0].as_str().unwrap();
    assert!(
        fix.starts_with("strongroom run --level hidden -- /"),
        "{fix}"
    );
    assert!(fix.ends_with("/mapped 0"), "{fix}");
    let severities: Vec<_> = report["holes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hole| {
            ["high", "medium", "low"]
                .iter()
                .position(|word| hole["severity"] == *word)
                .unwrap()
        })
        .collect();
    assert!(severities.is_sorted() && !severities.is_empty());
}

#[test]
fn under_run_no_adversary_reaches_the_heap() {
    need!(root, secretmem);
    let room = Room::new(Who::User, How::Run(&["--level", "hidden"]));
    let subject = subject(&room, 0);
    let report = json(&audit(subject.pid, &["--json"]));
    let heap = mapping(&report, subject.heap);
    assert_eq!(
        (&heap["group"], &heap["backing"]),
        (&"secret".into(), &"secret".into())
    );
    assert!(heap["own_pages"].as_u64().unwrap() > 0);
    for adversary in ADVERSARIES {
        let why = heap["exposure"][adversary]["why"].as_str().unwrap();
        if adversary == "direct-map" && why.contains("kernel's image") {
            // A hole of the kernel's own, which the audit names.
            continue;
        }
        assert_eq!(reach(heap, adversary), "out-of-reach", "{adversary} {heap}");
    }
    assert_eq!(report["process"]["dumpable"], false);
    for closed in ["open-secret-descriptor", "same-user", "core-dump", "traced"] {
        assert!(hole(&report, closed).is_none(), "{closed}");
    }
    let totals = report["totals"].as_array().unwrap();
    assert!(
        totals
            .iter()
            .all(|total| total["out_of_reach"].as_u64().unwrap() > 0)
    );
}

#[test]
fn an_open_descriptor_spills_the_secret() {
    need!(root, secretmem);
    let room = Room::new(Who::User, How::Plain);
    let secret = room.file("secret", [1; 64]);
    let victim = room.program("victim.c", &[]);
    let mut session = room.session(room.command(victim).arg("open").arg(secret));
    let stage = session.stage("ready");
    let report = json(&audit(stage.pid, &["--json"]));
    let secret = mapping(&report, stage.address);
    assert_eq!(reach(secret, "root"), "reachable");
    assert_eq!(reach(secret, "pin"), "out-of-reach");
    assert_eq!(reach(secret, "fork-child"), "reachable");
    let hole = hole(&report, "open-secret-descriptor").unwrap();
    assert_eq!(hole["severity"], "high");
}

#[test]
fn the_same_user_audits_its_own() {
    let room = Room::new(Who::User, How::Plain);
    let subject = subject(&room, 0);
    let copy = room.copy(STRONGROOM.as_ref(), "auditor");
    let pid = subject.pid.to_string();
    let transcript = room.run(room.plain(copy).args(["audit", &pid, "--json"]));
    let report = json(&transcript);
    assert_eq!(
        mapping(&report, subject.large)["present_pages"],
        (64 << 8) + 1
    );
    if support::is_root() {
        // The auditor was an ordinary user.
        assert!(report["direct_map"]["inferred"].is_string());
    }
    let text = room.run(
        room.plain(room.path().join("auditor"))
            .args(["audit", &pid]),
    );
    if support::is_root() {
        assert!(text.stdout.contains("inferred, not measured"), "{text}");
    }
}

#[test]
fn thousands_of_mappings_and_a_table_that_fits() {
    need!(root);
    let room = Room::new(Who::User, How::Plain);
    let subject = subject(&room, 5000);
    let report = json(&audit(subject.pid, &["--json"]));
    assert!(report["mappings"].as_array().unwrap().len() >= 5000);
    let table = audit(subject.pid, &[]);
    assert_eq!(table.status, "exit 0", "{table}");
    assert!(!table.stdout.contains('\x1b'));
    for line in table.stdout.lines() {
        // What is to be typed stays whole.
        let typed = line.trim_start().starts_with("fix:") || line.trim_start().starts_with("or:");
        assert!(typed || line.chars().count() <= 100, "{line}");
    }
    let row = |name: &str| {
        let line = table.stdout.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name} in {table}"))
            .to_owned()
    };
    assert!(row("heap ").contains("REACH"), "{table}");
    assert!(!row("files ").contains("REACH"), "{table}");
    assert!(row("reachable ").contains("MiB"), "{table}");
    let all = audit(subject.pid, &["--all"]).stdout;
    assert!(all.lines().count() > 5000);
    assert!(all.lines().any(|line| line.ends_with("/mapped")), "{all}");
}

/// The names of files are anybody's; a terminal does not obey them.
#[test]
fn names_do_not_reach_the_terminal_raw() {
    need!(root);
    let room = Room::new(Who::User, How::Plain);
    let file = room.file("\x1b[31mred\x1b]0;title\x07", "x");
    let program = room.program("audited.c", &[]);
    let mut session = room.session(room.command(program).arg(file).arg("0"));
    session.stage("heap");
    session.go();
    session.stage("large");
    session.go();
    let stage = session.stage("file");
    let text = audit(stage.pid, &["--all"]).stdout;
    assert!(text.contains("[31mred"), "{text}");
    assert!(!text.contains(['\x1b', '\x07']), "{text}");
}

#[test]
fn what_cannot_be_audited_says_why() {
    let fails = |transcript: &Transcript, cause: &str| {
        assert_eq!(transcript.status, "exit 125", "{transcript}");
        assert!(transcript.stdout.is_empty(), "{transcript}");
        assert!(transcript.stderr.contains(cause), "{transcript}");
        assert!(transcript.stderr.contains("fix:"), "{transcript}");
    };
    fails(&audit(i32::MAX, &[]), "there is no process");
    let mut child = Command::new("/bin/true").spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z") {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    fails(&audit(child.id() as i32, &["--json"]), "zombie");
    child.wait().unwrap();
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        fails(&audit(2, &[]), "kernel thread");
    }
    let own = std::process::id() as i32;
    fails(
        &audit(own, &["--html", "/nonexistent/x.html"]),
        "/nonexistent/x.html",
    );
}

#[test]
fn an_ordinary_user_is_refused_by_name() {
    need!(root);
    let room = Room::new(Who::User, How::Plain);
    let copy = room.copy(STRONGROOM.as_ref(), "auditor");
    let pid = std::process::id().to_string();
    let transcript = room.run(room.plain(copy).args(["audit", &pid]));
    assert_eq!(transcript.status, "exit 125", "{transcript}");
    assert!(transcript.stderr.contains("run it as root"), "{transcript}");
}
