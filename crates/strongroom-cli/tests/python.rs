//! Debian's python3, protected: hashes, handshakes, threads, forks of every kind and
//! subprocesses come out as ever; and what a Python program holds is nowhere to be seen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "support/keys.rs"]
mod keys;
mod support;

use keys::{Kind, Pair};
use std::path::Path;
use std::process::Command;
use support::room::WHO;
use support::{How, Inside, Outside, Room, Transcript, Who, chance, need, outside};

/// Debian's, whatever comes first in the PATH of those who run the tests.
const PYTHON: &str = "/usr/bin/python3";

/// A case of programs.py in a room.
fn case(room: &Room, name: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/programs.py");
    let script = room.copy(&script, "programs.py");
    let mut command = room.command(PYTHON);
    // No bytecode, no user's own packages.
    command.args(["-B", "-s"]).arg(script).arg(name);
    command
}

/// The same in a Python that heeds no PYTHONMALLOC: small objects are in arenas by mmap.
fn isolated_case(room: &Room, name: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/programs.py");
    let script = room.copy(&script, "programs.py");
    let mut command = room.command(PYTHON);
    command.args(["-B", "-I"]).arg(script).arg(name);
    command
}

fn room(who: Who, how: How) -> Room {
    // A set of strings comes in the same order in all processes.
    Room::new(who, how).with_env("PYTHONHASHSEED", "1")
}

/// Runs a case that has no stages.
fn same(name: &str) {
    for &who in WHO() {
        let run = |how| {
            let room = room(who, how);
            room.run(&mut case(&room, name))
        };
        let plain = run(How::Plain);
        assert_eq!(
            (plain.status.as_str(), plain.stderr.as_str()),
            ("exit 0", ""),
            "{plain}"
        );
        for how in [How::HEAP, How::LOCKED] {
            assert_eq!(plain, run(how), "{name} as {who:?} with {how:?}");
        }
    }
}

#[test]
fn hashes() {
    same("hashes");
}

#[test]
fn threads() {
    same("threads");
}

#[test]
fn forks() {
    same("forks");
}

#[test]
fn subprocesses() {
    same("processes");
}

/// Workers that change what they inherited: their parent does not see it.
#[test]
fn multiprocessing_with_a_pool() {
    same("pool");
}

/// What is meant to be shared between processes goes on to be.
#[test]
fn multiprocessing_with_shared_values() {
    same("share");
}

/// Handshakes of a server and a client in one process, which holds the private key.
fn handshakes(who: Who, how: How, pair: &Pair) -> Transcript {
    let room = room(who, how);
    let (key, certificate) = pair.put(&room);
    let mut session = room.session(case(&room, "tls").arg(key).arg(certificate));
    for name in ["connected", "over"] {
        let stage = session.stage(name);
        // Python locks nothing: there is nothing to look for in the locked scope.
        if keys::can_look() && how != How::LOCKED {
            for number in &pair.numbers {
                let what = format!("{} ({name}, as {who:?} with {how:?})", number.name);
                if how.is_protected() {
                    support::assert_kept(stage.pid, &what, &number.limbs);
                } else {
                    support::assert_leaks(stage.pid, &what, &number.limbs);
                }
            }
        }
        session.go();
    }
    session.finish()
}

#[test]
fn tls() {
    for kind in [Kind::Rsa, Kind::Curve] {
        let pair = Pair::new(kind);
        for &who in WHO() {
            let plain = handshakes(who, How::Plain, &pair);
            assert_eq!(
                (plain.status.as_str(), plain.stderr.as_str()),
                ("exit 0", ""),
                "{plain}"
            );
            for how in [How::HEAP, How::LOCKED] {
                let protected = handshakes(who, how, &pair);
                assert_eq!(plain, protected, "{kind:?} as {who:?} with {how:?}");
            }
        }
    }
    need!(root, secretmem);
}

/// A bytearray and a bytes object, in the process, in its child, and in both later on.
fn secret(who: Who, how: How, case: impl Fn(&Room, &str) -> Command, wiped: bool) -> Transcript {
    let room = room(who, how);
    let secret = chance::bytes::<64>();
    let file = room.file("secret", secret);
    let mut session = room.session(case(&room, "secret").arg(file));
    for name in ["buffer", "bytes", "child", "parent"] {
        let stage = session.stage(name);
        if keys::can_look() && how != How::LOCKED {
            let what = format!("the secret ({name}, as {who:?} with {how:?})");
            // The object that Python itself says it is, not just some copy.
            let bytes = Inside::of(stage.pid).bytes(stage.address, stage.length);
            assert_eq!(bytes, secret, "{what}");
            if how.is_protected() {
                let mapping = Outside::of(stage.pid).mapping_at(stage.address);
                assert!(mapping.is_secret(), "{what}: {mapping:x?}");
                support::assert_kept(stage.pid, &what, &secret);
            } else {
                support::assert_leaks(stage.pid, &what, &secret);
            }
        }
        session.go();
    }
    let stage = session.stage("freed");
    if keys::can_look() && how == How::HEAP {
        support::assert_hidden(stage.pid, "the secret after its end", &secret);
        for (mapping, bytes) in Inside::of(stage.pid).secret_memory() {
            // Python does not wipe objects; free does.
            let count = outside::count(&bytes, &secret);
            assert!(count == 0 || !wiped, "{count} in {mapping:x?}");
        }
    }
    session.go();
    session.finish()
}

#[test]
fn objects() {
    for &who in WHO() {
        let plain = secret(who, How::Plain, case, true);
        assert_eq!(plain.status, "exit 8", "{plain}");
        for how in [How::HEAP, How::LOCKED] {
            assert_eq!(
                plain,
                secret(who, how, case, true),
                "as {who:?} with {how:?}"
            );
        }
    }
    need!(root, secretmem);
}

/// Python's own arenas are secret, and are not wiped when an object in them ends.
#[test]
fn objects_in_arenas() {
    for &who in WHO() {
        let plain = secret(who, How::Plain, isolated_case, false);
        assert_eq!(plain.status, "exit 8", "{plain}");
        assert_eq!(
            plain,
            secret(who, How::HEAP, isolated_case, false),
            "as {who:?}"
        );
    }
    need!(root, secretmem);
}
