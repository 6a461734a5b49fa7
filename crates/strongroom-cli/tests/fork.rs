//! What a child sees of its parent's secret memory: its own snapshot at the same
//! addresses, never a later write; or zeros, or no child, as `--fork` says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::process::Command;
use support::room::WHO;
use support::session::{Daemon, Stage};
use support::{How, Room, Transcript, Who, chance, need};

/// Where the buffer lies, and how the program runs.
const WAYS: [(&str, How); 3] = [
    ("heap", How::HEAP),
    ("locked", How::HEAP),
    ("locked", How::LOCKED),
];

/// A case of fork.c in a room, with its secret.
struct Case {
    room: Room,
    command: Command,
    secret: [u8; 64],
}

impl Case {
    fn new(case: &str, kind: &str, who: Who, how: How) -> Self {
        let room = Room::new(who, how);
        let secret = chance::bytes::<64>();
        let file = room.file("secret", secret);
        let program = room.program("fork.c", &["-lutil"]);
        let mut command = room.command(program);
        command.args([case, kind]).arg(file);
        Self {
            room,
            command,
            secret,
        }
    }

    fn run(mut self) -> Transcript {
        self.room.run(&mut self.command)
    }
}

/// Runs a case that has no stages, plain and protected; `expected` is what it says.
#[track_caller]
fn same(case: &str, expected: &str) {
    for &who in WHO() {
        for (kind, how) in WAYS {
            for how in [How::Plain, how] {
                let end = Case::new(case, kind, who, how).run();
                let ok = end.status == "exit 0" && end.stdout == expected && end.stderr.is_empty();
                assert!(ok, "{case} {kind} as {who:?} with {how:?}: {end}");
            }
        }
    }
}

/// Runs a case that stops at stages, plain and protected, and looks at it there.
#[track_caller]
fn staged(case: &str, stages: &[&str], expected: &str, look: impl Fn(&Stage, bool, &[u8])) {
    for &who in WHO() {
        for (kind, how) in WAYS {
            for how in [How::Plain, how] {
                let mut case = Case::new(case, kind, who, how);
                let mut session = case.room.session(&mut case.command);
                for &name in stages {
                    let stage = session.stage(name);
                    look(&stage, how.is_protected(), &case.secret);
                    session.go();
                }
                let end = session.finish();
                let ok = end.status == "exit 0" && end.stdout == expected && end.stderr.is_empty();
                assert!(ok, "{kind} as {who:?} with {how:?}: {end}");
            }
        }
    }
}

fn look(stage: &Stage, is_protected: bool, secret: &[u8]) {
    if is_protected {
        support::assert_kept(stage.pid, "the secret", secret);
    } else {
        support::assert_leaks(stage.pid, "the secret", secret);
    }
}

#[test]
fn neither_sees_the_others_later_writes() {
    need!(root, secretmem);
    staged(
        "snapshot",
        &["child", "parent"],
        "the child saw its own\nthe child ended with 3\n",
        look,
    );
}

#[test]
fn nested_five_deep() {
    need!(root, secretmem);
    staged("nested", &["deepest"], "five deep\n", look);
}

#[test]
fn an_execed_child_has_its_own() {
    need!(root, secretmem);
    staged(
        "exec",
        &["execed"],
        "another program has its own\nthe program ended with 4\n",
        look,
    );
}

#[test]
fn in_the_background_nothing_is_lost() {
    need!(root, secretmem);
    for &who in WHO() {
        for (kind, how) in WAYS {
            for how in [How::Plain, how] {
                let mut case = Case::new("daemon", kind, who, how);
                let mut session = case.room.session(&mut case.command);
                let stage = session.stage("daemon");
                let daemon = Daemon::of(stage.pid);
                look(&stage, how.is_protected(), &case.secret);
                session.go();
                let end = session.finish();
                assert_eq!(
                    (end.status.as_str(), end.stdout.as_str()),
                    ("exit 0", "the daemon has it\n"),
                    "{end}"
                );
                daemon.wait();
            }
        }
    }
}

#[test]
fn from_a_program_with_busy_threads() {
    let children: String = (0..20).map(|i| format!("child {i}\n")).collect();
    same("threads", &children);
}

#[test]
fn while_others_give_large_blocks_up() {
    same("given-up", "zero\n");
}

#[test]
fn from_another_thread_than_the_first() {
    same("thread", "the child ended with 6\n");
}

#[test]
fn programs_that_are_spawned() {
    same(
        "spawns",
        "vfork 5\nposix_spawn 6\nposix_spawnp 6\nsystem 7\npopen eight\npclose 0\n",
    );
}

#[test]
fn bare_fork() {
    same("bare", "_Fork 8\n");
}

#[test]
fn forkpty() {
    same("terminal", "forkpty 9\n");
}

#[test]
fn atfork_handlers_find_their_memory() {
    same("handlers", "atfork 1 1 0 10\n");
}

#[test]
fn signal_handlers_find_their_memory() {
    same("signals", "undisturbed\n");
}

#[test]
fn two_hundred_forks_leave_nothing_behind() {
    same("many", "nothing left behind\n");
}

/// 17 MB: an ordinary user may not lock that much.
#[test]
fn much_memory() {
    need!(root);
    for (kind, how) in WAYS {
        for how in [How::Plain, how] {
            let end = Case::new("large", kind, Who::Root, how).run();
            assert_eq!(
                (end.status.as_str(), end.stdout.as_str()),
                ("exit 0", "17029050 bytes: 13\n"),
                "{kind} {how:?} {end}"
            );
        }
    }
}

#[test]
fn dropped() {
    for &who in WHO() {
        for (kind, scope) in [("heap", "heap"), ("locked", "heap"), ("locked", "locked")] {
            let options: &[&str] = match scope {
                "heap" => &["--scope", "heap", "--fork", "drop"],
                _ => &["--scope", "locked", "--fork", "drop"],
            };
            let end = Case::new("dropped", kind, who, How::Run(options)).run();
            let said = (end.status.as_str(), end.stdout.as_str());
            assert_eq!(
                said,
                ("exit 0", "the child ended with 14\n"),
                "{kind} {scope} as {who:?}: {end}"
            );
        }
    }
}

#[test]
fn denied() {
    for &who in WHO() {
        for kind in ["heap", "locked"] {
            let end = Case::new("denied", kind, who, How::Run(&["--fork", "deny"])).run();
            let said = (end.status.as_str(), end.stdout.as_str());
            assert_eq!(
                said,
                ("exit 0", "fork -1, Operation not permitted\nsystem 15\n"),
                "{kind} as {who:?}: {end}"
            );
        }
    }
}
