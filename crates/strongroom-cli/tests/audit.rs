//! `strongroom audit`: what it says of processes whose mappings are known.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail the test"
)]

mod support;

use serde_json::Value;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use support::session::Stage;
use support::{How, Room, Session, Who, need};

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
const FILE: &str = "e\x1b[31mvil";

/// The program with the known mappings, stopped where it has all of them.
struct Subject {
    _session: Session,
    stages: Vec<Stage>,
    _room: Room,
}

impl Subject {
    fn start(how: How) -> Self {
        let room = Room::new(Who::User, how).with_env("AUDITED_API_TOKEN", "x");
        let program = room.program("mappings.c", &[]);
        let file = room.file(FILE, "text");
        let mut session = room.session(room.command(program).arg(file));
        let mut stages = Vec::new();
        for name in [
            "heap",
            "anonymous",
            "reserved",
            "stack",
            "secret",
            "open",
            "file",
        ] {
            if !stages.is_empty() {
                session.go();
            }
            stages.push(session.stage(name));
        }
        Self {
            _session: session,
            stages,
            _room: room,
        }
    }

    fn pid(&self) -> i32 {
        self.stages[0].pid
    }

    fn address(&self, stage: &str) -> u64 {
        let stage = self.stages.iter().find(|s| s.name == stage);
        stage.unwrap().address
    }

    /// What is said of the mapping that the program had at that stage.
    fn mapping<'a>(&self, audit: &'a Value, stage: &str) -> &'a Value {
        mapping(audit, self.address(stage))
    }
}

fn mapping(audit: &Value, address: u64) -> &Value {
    let number = |value: &Value| u64::from_str_radix(&value.as_str().unwrap()[2..], 16).unwrap();
    audit["mappings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| (number(&m["start"])..number(&m["end"])).contains(&address))
        .unwrap_or_else(|| panic!("nothing at {address:#x}"))
}

fn audit(pid: i32, options: &[&str]) -> Output {
    let mut command = Command::new(STRONGROOM);
    command.arg("audit").args(options).arg(pid.to_string());
    command.output().unwrap()
}

fn json(pid: i32) -> Value {
    let output = audit(pid, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let audit: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(audit["schema"], 1);
    assert_eq!(audit["pid"], pid);
    assert_eq!(audit["partial"], Value::Null);
    audit
}

fn reach<'a>(mapping: &'a Value, adversary: &str) -> &'a str {
    let finding = &mapping["reach"][adversary];
    assert!(!finding["why"].as_str().unwrap().is_empty(), "{mapping}");
    finding["reach"].as_str().unwrap()
}

fn hole<'a>(audit: &'a Value, name: &str) -> Option<&'a Value> {
    let holes = audit["holes"].as_array().unwrap();
    holes.iter().find(|hole| hole["hole"] == name)
}

fn in_reach(audit: &Value, adversary: &str) -> u64 {
    let summary = audit["summary"].as_array().unwrap();
    let tally = summary.iter().find(|t| t["adversary"] == adversary);
    tally.unwrap()["reachable"]["bytes"].as_u64().unwrap()
}

fn has_yama() -> bool {
    std::fs::exists("/proc/sys/kernel/yama").unwrap()
}

#[test]
fn a_plain_process_is_in_reach_and_told_why() {
    need!(root, secretmem);
    let subject = Subject::start(How::Plain);
    let audit = json(subject.pid());
    assert_eq!(audit["as_root"], true);
    for (stage, kind) in [
        ("heap", "heap"),
        ("anonymous", "anonymous"),
        ("stack", "stack"),
    ] {
        let mapping = subject.mapping(&audit, stage);
        assert_eq!(mapping["kind"], kind, "{mapping}");
        assert_eq!(mapping["writable"], true);
        for adversary in ["root", "fork-child", "pin", "direct-map"] {
            assert_eq!(reach(mapping, adversary), "reachable", "{mapping}");
        }
        if !has_yama() {
            assert_eq!(reach(mapping, "same-user"), "reachable", "{mapping}");
        }
    }
    let anonymous = subject.mapping(&audit, "anonymous");
    // A transparent huge page could not be here: 16 pages are no 2 MiB.
    assert_eq!(anonymous["size"], 16 * 4096);
    assert_eq!(anonymous["present"], 8 * 4096);
    assert_eq!(anonymous["own"], 8 * 4096);
    assert_eq!(reach(anonymous, "core-dump"), "out-of-reach");

    let reserved = subject.mapping(&audit, "reserved");
    assert_eq!(reserved["kind"], "reserved");
    let secret = subject.mapping(&audit, "secret");
    assert_eq!(secret["kind"], "secret");
    assert_eq!(secret["present"], 16 * 4096);
    for adversary in ADVERSARIES {
        assert_eq!(reach(reserved, adversary), "nothing");
        let expected = if adversary == "fork-child" {
            "reachable"
        } else {
            "out-of-reach"
        };
        assert_eq!(reach(secret, adversary), expected, "{adversary}: {secret}");
    }
    assert_eq!(reach(subject.mapping(&audit, "open"), "root"), "reachable");
    let file = subject.mapping(&audit, "file");
    assert_eq!((&file["kind"], &file["own"]), (&"file".into(), &0.into()));

    // The summary is the sum of the mappings, and ranks.
    let mappings = audit["mappings"].as_array().unwrap();
    for adversary in ADVERSARIES {
        let sum: u64 = mappings
            .iter()
            .filter(|m| reach(m, adversary) == "reachable")
            .map(|m| m["own"].as_u64().unwrap())
            .sum();
        assert_eq!(in_reach(&audit, adversary), sum, "{adversary}");
    }
    let summary = audit["summary"].as_array().unwrap();
    let ranked = |pair: &[Value]| {
        let bytes = |tally: &Value| tally["reachable"]["bytes"].as_u64().unwrap();
        bytes(&pair[0]) >= bytes(&pair[1])
    };
    assert!(summary.windows(2).all(ranked), "{summary:?}");

    let environment = hole(&audit, "environment").unwrap();
    let what = environment["what"].as_str().unwrap();
    assert!(what.contains("AUDITED_API_TOKEN"), "{what}");
    assert!(hole(&audit, "secret-descriptor").is_some(), "{audit}");
    let fix = hole(&audit, "dumpable").unwrap()["fix"].as_str().unwrap();
    assert!(fix.contains("strongroom run -- /tmp/"), "{fix}");
    assert!(hole(&audit, "traced").is_none());
}

#[test]
fn the_direct_map_is_really_read() {
    need!(root, secretmem);
    let subject = Subject::start(How::Plain);
    let audit = json(subject.pid());
    if let Some(why) = audit["inferred"].as_str() {
        return support::skip(why);
    }
    for stage in ["heap", "anonymous", "secret"] {
        let mapping = subject.mapping(&audit, stage);
        assert_eq!(mapping["measured"], serde_json::json!(["direct-map"]));
        let why = mapping["reach"]["direct-map"]["why"].as_str().unwrap();
        assert!(why.contains("pages were tried"), "{why}");
    }
    assert_eq!(
        subject.mapping(&audit, "reserved")["measured"],
        serde_json::json!([])
    );
}

#[test]
fn under_strongroom_the_heap_is_out_of_everybodys_reach() {
    need!(root, secretmem);
    let subject = Subject::start(How::Run(&["--level", "hidden"]));
    let audit = json(subject.pid());
    let heap = subject.mapping(&audit, "heap");
    assert_eq!(heap["kind"], "secret");
    for adversary in ADVERSARIES {
        assert_eq!(
            reach(heap, adversary),
            "out-of-reach",
            "{adversary}: {heap}"
        );
    }
    // What root injects is said, and not hidden.
    let root = audit["adversaries"][1]["about"].as_str().unwrap();
    assert!(root.contains("injects reaches everything"), "{root}");
    assert_eq!(in_reach(&audit, "same-user"), 0);
    // What strongroom does not keep is not called kept.
    assert_eq!(reach(subject.mapping(&audit, "open"), "root"), "reachable");
    assert_eq!(reach(subject.mapping(&audit, "stack"), "root"), "reachable");
    for hole_of_plain in ["dumpable", "no-secret-memory", "core-dump"] {
        assert!(hole(&audit, hole_of_plain).is_none(), "{hole_of_plain}");
    }
}

#[test]
fn a_tracer_is_the_first_hole() {
    need!(root, secretmem);
    let subject = Subject::start(How::Plain);
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no pointer; the tracer is this thread, and lets go at its end.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, subject.pid(), none, none) };
    assert_eq!(seized, 0, "{}", std::io::Error::last_os_error());
    let audit = json(subject.pid());
    assert_eq!(audit["holes"][0]["hole"], "traced");
    assert_eq!(audit["holes"][0]["severity"], "high");
    // SAFETY: as above.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, subject.pid(), none, none) };
}

#[test]
fn the_table_fits_and_no_name_writes_to_the_terminal() {
    need!(secretmem);
    let subject = Subject::start(How::Plain);
    let output = audit(subject.pid(), &["--all"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'), "{text}");
    assert!(text.contains(r"e\u{1b}[31mvil"), "{text}");
    for line in text.lines() {
        // What is to be typed stays whole.
        assert!(line.chars().count() <= 100 || line.contains('`'), "{line}");
    }
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name} in {text}"))
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    // memory, mappings, pages; user root core swap fork pin direct.
    let heap = row("heap");
    assert_eq!(heap[..2], ["heap", "1"]);
    assert_eq!((heap[4], heap[7], heap[8], heap[9]), ("●", "●", "●", "●"));
    // The open one is 4 KiB of 68; none is in the reach of a pin.
    let secret = row("secret");
    assert_eq!(secret[..5], ["secret", "2", "68K", "◐", "4K"], "{text}");
    assert!(text.contains("64G of reserved address space"), "{text}");
    assert!(text.contains("in reach"), "{text}");
    assert!(text.contains("strongroom run -- "), "{text}");
}

#[test]
fn what_cannot_be_audited_says_why_and_what_to_do() {
    let refused = |output: &Output, words: &[&str]| {
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        for word in words {
            assert!(text.contains(word), "{text}");
        }
    };
    refused(
        &audit(i32::MAX, &["--json"]),
        &["there is no process", "ps -e"],
    );
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        refused(&audit(2, &[]), &["kernel thread", "fix:"]);
    }
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    while !state().contains(") Z ") {
        std::thread::yield_now();
    }
    refused(&audit(pid, &[]), &["zombie", "fix:"]);
    child.wait().unwrap();

    let room = Room::new(Who::User, How::Plain);
    let headless = room.program("headless.c", &["-pthread"]);
    let mut session = room.session(&mut room.command(headless));
    let thread = session.stage("alone");
    let output = audit(thread.pid, &[]);
    let there = format!("fix: strongroom audit {}", thread.length);
    refused(&output, &["first thread", &there]);
    json(thread.length as i32);

    if support::is_root() {
        let copy = room.copy(STRONGROOM.as_ref(), "auditor");
        let own = std::process::id().to_string();
        let output = room.plain(copy).args(["audit", &own]).output().unwrap();
        refused(
            &output,
            &["Permission denied", &format!("sudo strongroom audit {own}")],
        );
    }
}

/// The program with very many mappings, stopped where it has all of them.
fn many(room: &Room) -> (Session, Vec<Stage>) {
    let program = room.program("mappings.c", &[]);
    let mut session = room.session(room.command(program).arg("many"));
    let sparse = session.stage("sparse");
    session.go();
    let pages = session.stage("pages");
    (session, vec![sparse, pages])
}

/// 10 GiB of which 640 pages are there, and 20,000 mappings, in little memory.
#[test]
fn a_large_process_takes_little_memory() {
    const DATA: u64 = 64 << 20;
    let room = Room::new(Who::User, How::Plain);
    let (_session, stages) = many(&room);
    let pid = stages[0].pid;
    let mut command = Command::new(STRONGROOM);
    command.args(["audit", "--json", &pid.to_string()]);
    let limit = libc::rlimit {
        rlim_cur: DATA,
        rlim_max: DATA,
    };
    // SAFETY: setrlimit is async-signal-safe and reads only its argument.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_DATA, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{:?}", output.stderr);
    let audit: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(audit["mappings"].as_array().unwrap().len() > 20_000);
    let sparse = mapping(&audit, stages[0].address);
    assert_eq!(sparse["size"], 10u64 << 30);
    assert_eq!(sparse["own"], 640 * 4096);
    assert!(in_reach(&audit, "root") >= (640 + 20_000) * 4096);
}

/// The auditor waits for its reader while the process ends.
#[test]
fn a_process_that_ends_meanwhile_gives_a_part() {
    let room = Room::new(Who::User, How::Plain);
    let (session, stages) = many(&room);
    let mut auditor = Command::new(STRONGROOM)
        .args(["audit", "--json", &stages[0].pid.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = auditor.stdout.take().unwrap();
    let mut start = vec![0; 4096];
    out.read_exact(&mut start).unwrap();
    drop(session);
    let mut rest = start;
    out.read_to_end(&mut rest).unwrap();
    assert_eq!(auditor.wait().unwrap().code(), Some(2));
    let audit: Value = serde_json::from_slice(&rest).unwrap();
    let partial = audit["partial"].as_str().unwrap();
    assert!(partial.contains("ended meanwhile"), "{partial}");
    let mappings = audit["mappings"].as_array().unwrap().len();
    assert!((1..20_000).contains(&mappings), "{mappings}");
    assert!(in_reach(&audit, "root") > 0);
}
