//! On a kernel without memfd_secret the memory is locked: never swapped, in a core dump
//! or left behind, and a child's its own. Programs run as ever, and one line on stderr says
//! that this is less than the best.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use support::room::WHO;
use support::{How, Outside, Room, Transcript, Who, chance, need};

fn room(who: Who, how: How) -> Room {
    Room::new(who, how).without_secret_memory()
}

/// The line that says what is missing, which is there once and taken out.
#[track_caller]
fn said(mut end: Transcript) -> Transcript {
    let (notices, rest): (Vec<&str>, Vec<&str>) = end
        .stderr
        .lines()
        .partition(|line| line.starts_with("strongroom: "));
    assert_eq!(notices.len(), 1, "one line that says so: {end}");
    assert!(notices[0].contains("memfd_secret"), "{end}");
    end.stderr = rest.join("\n");
    end
}

/// Runs a case of a program plain and protected, for everyone.
#[track_caller]
fn same(source: &str, flags: &[&str], arguments: &[&str]) {
    for &who in WHO() {
        let run = |how| {
            let room = room(who, how);
            let secret = room.file("secret", [b's'; 64]);
            let program = room.program(source, flags);
            room.succeed(room.command(program).args(arguments).arg(secret))
        };
        let plain = run(How::Plain);
        for how in [How::HEAP, How::LOCKED] {
            assert_eq!(
                plain,
                said(run(how)),
                "{arguments:?} as {who:?} with {how:?}"
            );
        }
    }
}

#[test]
fn forks() {
    for case in [
        "threads", "thread", "bare", "terminal", "handlers", "signals", "given-up", "many",
    ] {
        for kind in ["heap", "locked"] {
            same("fork.c", &["-lutil"], &[case, kind]);
        }
    }
}

#[test]
fn programs_that_are_spawned() {
    same("fork.c", &["-lutil"], &["spawns", "locked"]);
}

#[test]
fn allocation_at_its_edges() {
    for case in [
        "zero",
        "overflow",
        "alignment",
        "usable",
        "resize",
        "calloc",
        "errno",
    ] {
        same("edges.c", &["-Wno-alloc-size-larger-than"], &[case]);
    }
}

#[test]
fn locked_memory() {
    for case in ["stack", "others", "wrong", "busy"] {
        same("locked.c", &[], &[case]);
    }
}

#[test]
fn allocation_under_load() {
    for (who, live) in [(Who::Root, "33554432"), (Who::User, "2097152")] {
        if who == Who::Root && !support::is_root() {
            continue;
        }
        let room = room(who, How::HEAP);
        let program = room.program("torture.c", &[]);
        let end = said(room.succeed(room.command(program).args(["2", "1000000", live, "5"])));
        assert!(
            end.stdout.ends_with("forks, many blocks\nrefused 0\n"),
            "{end}"
        );
    }
}

/// Cases of fork.c and locked.c that stop while they hold a secret: it lies in memory that is
/// locked and in no dump.
fn held(source: &str, flags: &[&str], arguments: &[&str], how: How) {
    for &who in WHO() {
        let room = room(who, how);
        let secret = chance::bytes::<64>();
        let file = room.file("secret", secret);
        let program = room.program(source, flags);
        let mut session = room.session(room.command(program).args(arguments).arg(file));
        let mut stages = 0;
        while let Some(stage) = session.any_stage() {
            stages += 1;
            let outside = Outside::of(stage.pid);
            let flags = outside.flags_at(stage.address);
            assert!(flags.contains(&"lo".to_owned()), "not locked: {flags:?}");
            assert!(flags.contains(&"dd".to_owned()), "in core dumps: {flags:?}");
            assert!(outside.by_stolen_fds(&secret).is_empty());
            session.go();
        }
        assert!(stages > 0);
        let end = session.finish();
        assert_eq!(
            end.status, "exit 0",
            "{arguments:?} as {who:?} with {how:?}: {end}"
        );
    }
}

#[test]
fn what_is_held_is_locked_and_in_no_dump() {
    need!(root);
    for (kind, how) in [
        ("heap", How::HEAP),
        ("locked", How::HEAP),
        ("locked", How::LOCKED),
    ] {
        held("fork.c", &["-lutil"], &["snapshot", kind], how);
        held("fork.c", &["-lutil"], &["nested", kind], how);
    }
    for case in [
        "mlock",
        "mlock2",
        "syscall",
        "map-locked",
        "munlock",
        "heap",
        "static",
    ] {
        held("locked.c", &[], &[case], How::LOCKED);
    }
    held("locked.c", &[], &["madvise-dump"], How::LOCKED);
}
