//! A C++ program with threads, protected: new and delete of every kind, containers,
//! exceptions and memory that goes from thread to thread, with the same checksums as ever;
//! and the secret that its threads hold is nowhere to be seen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "support/keys.rs"]
mod keys;
mod support;

use support::room::WHO;
use support::{How, Inside, Outside, Room, Transcript, Who, chance, need, outside};

/// Two threads hold the secret, in five kinds of memory each.
const PLACES: usize = 10;

fn run(who: Who, how: How) -> Transcript {
    let room = Room::new(who, how);
    let secret = chance::bytes::<64>();
    let file = room.file("secret", secret);
    let program = room.program("threads.cpp", &["-std=c++17"]);
    let mut session = room.session(room.command(program).arg(file));
    for place in 0..PLACES {
        let stage = session.stage("held");
        // By a program that locks nothing, the locked scope has nothing to hide.
        if keys::can_look() && how != How::LOCKED {
            let what = format!("the secret at place {place} as {who:?} with {how:?}");
            let outside = Outside::of(stage.pid);
            if how.is_protected() {
                let mapping = outside.mapping_at(stage.address);
                assert!(mapping.is_secret(), "{what}: {mapping:x?}");
                let error = outside.peek(stage.address).expect_err("unreadable memory");
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{what}");
                let bytes = Inside::of(stage.pid).bytes(stage.address, stage.length);
                assert_eq!(bytes, secret, "{what}");
                support::assert_kept(stage.pid, &what, &secret);
            } else {
                let found = outside.by_mem(&secret);
                assert!(
                    found.iter().any(|hit| hit.address == stage.address),
                    "the control is void: {what} was not found: {found:x?}"
                );
                support::assert_leaks(stage.pid, &what, &secret);
            }
        }
        session.go();
    }
    let stage = session.stage("freed");
    if keys::can_look() && how == How::HEAP {
        support::assert_hidden(stage.pid, "the secret after its end", &secret);
        for (mapping, bytes) in Inside::of(stage.pid).secret_memory() {
            // The program has not wiped it; free has.
            assert_eq!(outside::count(&bytes, &secret), 0, "in {mapping:x?}");
        }
    }
    session.go();
    session.finish()
}

#[test]
fn the_same_checksums_and_no_leak() {
    for &who in WHO() {
        let plain = run(who, How::Plain);
        assert_eq!(plain.status, "exit 6", "{plain}");
        assert_eq!(plain.stderr, "", "{plain}");
        assert!(plain.stdout.ends_with("done\n"), "{plain}");
        for how in [How::HEAP, How::LOCKED] {
            assert_eq!(plain, run(who, how), "as {who:?} with {how:?}");
        }
    }
    need!(root, secretmem);
}

/// A kernel may leave a hole where it refuses a mapping over another (Linux 6.18 does, for
/// memfd_secret beyond RLIMIT_MEMLOCK). What the program, or a new thread's stack, then gets
/// there is not the heap's to map over when memory is to be had again.
#[test]
fn mappings_of_the_programs_own_survive_refusals() {
    for &who in WHO() {
        let run = |how| {
            let room = Room::new(who, how).with_memlock(8 << 20);
            let program = room.program("neighbours.c", &[]);
            room.run(&mut room.command(program))
        };
        let plain = run(How::Plain);
        assert_eq!(
            (plain.status.as_str(), plain.stdout.as_str()),
            ("exit 0", "all there\n"),
            "{plain}"
        );
        let mut heap = run(How::HEAP);
        // One line says that memory ran out; as root it does not.
        if heap.stderr.starts_with("strongroom: no secret memory left") {
            heap.stderr.clear();
        }
        assert_eq!(plain, heap, "as {who:?}");
    }
}
