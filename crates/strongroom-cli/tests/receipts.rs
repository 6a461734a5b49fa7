//! Receipts: a line of JSON for each protected process, in the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use support::room::WHO;
use support::{How, Room, Who, need};

fn parse(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

fn number(receipt: &Value, field: &str) -> u64 {
    receipt[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} in {receipt}"))
}

fn names(receipt: &Value, field: &str) -> Vec<String> {
    let list = receipt[field]
        .as_array()
        .unwrap_or_else(|| panic!("{field} in {receipt}"));
    list.iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

const HIDDEN: [&str; 8] = [
    "NoSwap",
    "NoCoreDump",
    "NoForkShare",
    "NoFdSpill",
    "WipedOnFree",
    "NoPeek",
    "NoPin",
    "NoDirectMap",
];

/// What every receipt has in it.
fn check(receipt: &Value, scope: &str) {
    assert_eq!(number(receipt, "schema"), 1);
    assert!(number(receipt, "pid") > 0);
    assert_eq!(receipt["scope"], scope);
    assert_eq!(receipt["level"], "hidden", "{receipt}");
    let held = names(receipt, "held");
    for protection in HIDDEN {
        assert!(
            held.iter().any(|h| h == protection),
            "{protection} in {receipt}"
        );
    }
    // Whether the start of a process can be guarded is up to the kernel; where it cannot, that
    // is said.
    for (protection, why) in receipt["missing"].as_object().unwrap() {
        assert_eq!(protection, "NoInject", "{receipt}");
        assert_eq!(why["reason"], "start-unguarded", "{receipt}");
        assert!(!why["cause"].as_str().unwrap().is_empty(), "{receipt}");
        assert!(!held.contains(protection), "{receipt}");
    }
    for count in ["bytes", "chunks", "forks_copied"] {
        number(receipt, count);
    }
}

/// One for the program, one for each child however it came to be and however it ends.
#[test]
fn one_for_each_process() {
    need!(secretmem);
    for &who in WHO() {
        let room = Room::new(who, How::Run(&["--receipt", "lines"]));
        let program = room.program("receipts.c", &[]);
        let end = room.succeed(&mut room.command(&program));
        assert_eq!(end.stderr, "", "{end}");
        let receipts = parse(&std::fs::read_to_string(room.path().join("lines")).unwrap());
        let processes: BTreeMap<u64, &str> = end
            .stdout
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(name, pid)| (pid.parse().unwrap(), name))
            .collect();
        assert_eq!(processes.len(), 7, "{end}");
        let mut seen: Vec<&str> = receipts
            .iter()
            .map(|receipt| {
                check(receipt, "heap");
                let pid = number(receipt, "pid");
                let name = *processes
                    .get(&pid)
                    .unwrap_or_else(|| panic!("whose is {receipt}?"));
                assert_eq!(names(receipt, "command")[0], program.to_str().unwrap());
                let forks = match name {
                    "main" => 4,
                    "outer" => 1,
                    _ => 0,
                };
                assert_eq!(number(receipt, "forks_copied"), forks, "{name}: {receipt}");
                assert!(number(receipt, "bytes") >= 100_000, "{name}: {receipt}");
                assert!(number(receipt, "chunks") >= 1, "{name}: {receipt}");
                name
            })
            .collect();
        seen.sort_unstable();
        let expected = [
            "_exits", "execed", "exits", "inner", "main", "outer", "vforked",
        ];
        assert_eq!(seen, expected, "as {who:?}");
    }
}

#[test]
fn on_standard_output() {
    need!(secretmem);
    for &who in WHO() {
        let room = Room::new(who, How::Run(&["--scope", "locked", "--receipt", "-"]));
        let end = room.succeed(room.command("/bin/echo").arg("it speaks"));
        let (said, rest) = end.stdout.split_once('\n').unwrap();
        assert_eq!(said, "it speaks");
        let receipts = parse(rest);
        assert_eq!(receipts.len(), 1, "{end}");
        check(&receipts[0], "locked");
        assert_eq!(names(&receipts[0], "command"), ["/bin/echo", "it speaks"]);
    }
}

/// A line is appended whole: many processes at once write no torn lines.
#[test]
fn many_at_once() {
    need!(secretmem);
    let room = Room::new(Who::User, How::Run(&["--receipt", "lines"]));
    let script =
        "for i in 1 2 3 4 5 6 7 8 9 10; do (for j in 1 2 3; do /bin/true; done) & done; wait";
    room.succeed(room.command("/bin/sh").args(["-c", script]));
    let receipts = parse(&std::fs::read_to_string(room.path().join("lines")).unwrap());
    let of = |name: &str| {
        receipts
            .iter()
            .filter(|r| names(r, "command")[0] == name)
            .count()
    };
    // The shell, its ten children, and thirty programs; dash may exec the last of each.
    assert_eq!(of("/bin/true"), 30);
    assert!((1..=11).contains(&of("/bin/sh")), "{}", of("/bin/sh"));
    for receipt in &receipts {
        check(receipt, "heap");
    }
}

/// What the program asked for and could not have is on its receipt, with the reason.
#[test]
fn what_is_missing_has_a_reason() {
    need!(secretmem);
    let room = Room::new(
        Who::User,
        How::Run(&["--scope", "locked", "--receipt", "lines"]),
    );
    let secret = room.file("secret", [b's'; 64]);
    let program = room.program("locked.c", &[]);
    room.succeed(room.command(program).arg("stack").arg(secret));
    let receipts = parse(&std::fs::read_to_string(room.path().join("lines")).unwrap());
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0]["level"], "locked");
    let missing = receipts[0]["missing"].as_object().unwrap();
    for protection in ["NoPeek", "NoPin", "NoDirectMap"] {
        assert_eq!(
            missing[protection]["reason"], "not-concealable",
            "{}",
            receipts[0]
        );
        assert!(!missing[protection]["cause"].as_str().unwrap().is_empty());
    }
}

/// A process that may be looked into says so.
#[test]
fn dumpable_is_said() {
    need!(secretmem);
    let room = Room::new(Who::User, How::Run(&["--dumpable", "--receipt", "-"]));
    let end = room.succeed(&mut room.command("/bin/true"));
    let receipts = parse(&end.stdout);
    assert_eq!(receipts.len(), 1);
    assert_eq!(
        receipts[0]["missing"]["NoInject"]["reason"], "dumpable",
        "{end}"
    );
    assert!(!names(&receipts[0], "held").contains(&"NoInject".to_owned()));
}

/// No receipt is asked for, none is written.
#[test]
fn silence() {
    for &who in WHO() {
        let room = Room::new(who, How::HEAP);
        let end = room.succeed(room.command("/bin/echo").arg("it speaks"));
        assert_eq!(
            (end.stdout.as_str(), end.stderr.as_str()),
            ("it speaks\n", "")
        );
    }
}
