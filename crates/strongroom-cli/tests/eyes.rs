//! The tests' own eyes: what looks into processes finds what is there to be found,
//! and only that, and leaves the process unharmed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use support::{How, Inside, Outside, Room, Who, chance, need};

fn look(kind: &str) -> [usize; 4] {
    let room = Room::new(Who::Root, How::Plain);
    let secret = chance::bytes::<64>();
    let file = room.file("secret", secret);
    let victim = room.program("victim.c", &[]);
    let mut session = room.session(room.command(victim).arg(kind).arg(file));
    let mut seen = [0; 4];
    for _ in 0..10 {
        let stage = session.stage("ready");
        let outside = Outside::of(stage.pid);
        seen = [
            outside.by_mem(&secret).len(),
            outside.by_vm_readv(&secret).len(),
            outside.by_stolen_fds(&secret).len(),
            Inside::of(stage.pid)
                .secret_memory()
                .iter()
                .map(|(_, bytes)| support::outside::count(bytes, &secret))
                .sum(),
        ];
        assert_eq!(
            Inside::of(stage.pid).bytes(stage.address, stage.length),
            secret
        );
        session.go();
    }
    let end = session.finish();
    assert_eq!(
        (end.status.as_str(), end.stdout.as_str()),
        ("exit 7", "unharmed\n"),
        "{end}"
    );
    seen
}

#[test]
fn ordinary_memory_is_seen_by_everyone() {
    need!(root, secretmem);
    assert_eq!(look("plain"), [1, 1, 0, 0]);
}

#[test]
fn secret_memory_with_an_open_descriptor_is_stolen() {
    need!(root, secretmem);
    assert_eq!(look("open"), [0, 0, 1, 1]);
}

#[test]
fn secret_memory_is_seen_only_from_inside() {
    need!(root, secretmem);
    assert_eq!(look("hidden"), [0, 0, 0, 1]);
}
