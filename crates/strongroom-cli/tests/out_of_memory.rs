//! When the memory that may be locked is used up the program gets ENOMEM, as from any
//! malloc; one line on stderr says why and what to do; and nothing unprotected is given
//! in secret.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use support::{How, Inside, Outside, Room, Transcript, Who, chance, need};

/// Takes blocks of a size until there are no more; how many there were.
#[track_caller]
fn exhaust(memlock: u64, size: u64, how: How) -> (u64, Transcript) {
    let room = Room::new(Who::User, how).with_memlock(memlock);
    let secret = chance::bytes::<64>();
    let file = room.file("secret", secret);
    let program = room.program("exhaust.c", &[]);
    let most = (64 << 20) / size;
    let mut session = room.session(
        room.command(program)
            .args([size.to_string(), most.to_string()])
            .arg(file),
    );
    while let Some(stage) = session.any_stage() {
        if how.is_protected() && support::is_root() {
            let mapping = Outside::of(stage.pid).mapping_at(stage.address);
            assert!(mapping.is_secret(), "the last block is in {mapping:x?}");
            assert_eq!(Inside::of(stage.pid).bytes(stage.address, 64), secret);
            support::assert_hidden(stage.pid, "the last block", &secret);
        }
        session.go();
    }
    let end = session.finish();
    assert_eq!(end.status, "exit 0", "{size} in {memlock}, {how:?}: {end}");
    let (first, second) = end.stdout.split_once('\n').unwrap();
    let expected = if how.is_protected() {
        "refused: Cannot allocate memory"
    } else {
        "enough: Success"
    };
    assert_eq!(first, expected, "{size} in {memlock}, {how:?}: {end}");
    let count = second.split(' ').next().unwrap().parse().unwrap();
    (count, end)
}

#[track_caller]
fn refused(memlock: u64, size: u64) {
    need!(secretmem);
    let (_, plain) = exhaust(memlock, size, How::Plain);
    assert_eq!(plain.stderr, "");
    let (count, end) = exhaust(memlock, size, How::HEAP);
    // No more than the limit, and no less than half of it.
    assert!(
        count * size <= memlock,
        "{count} blocks of {size} bytes within {memlock}?"
    );
    assert!(
        count * size >= memlock / 2,
        "only {count} blocks of {size} bytes within {memlock}"
    );
    assert_eq!(end.stderr.lines().count(), 1, "one line on stderr: {end}");
    assert!(end.stderr.starts_with("strongroom: "), "{end}");
    for word in [
        "RLIMIT_MEMLOCK",
        &memlock.to_string(),
        "ulimit -l",
        "LimitMEMLOCK",
        "--ulimit memlock",
    ] {
        assert!(end.stderr.contains(word), "`{word}` is not said: {end}");
    }
}

#[test]
fn small_blocks_in_256_kib() {
    refused(256 << 10, 32);
}

#[test]
fn small_blocks_in_1_mib() {
    refused(1 << 20, 48);
}

#[test]
fn middling_blocks_in_256_kib() {
    refused(256 << 10, 1000);
}

#[test]
fn middling_blocks_in_1_mib() {
    refused(1 << 20, 5000);
}

#[test]
fn large_blocks_in_1_mib() {
    refused(1 << 20, 40_000);
}

/// What managed Kubernetes often has.
#[test]
fn a_thousand_secrets_in_64_kib() {
    need!(secretmem);
    let (count, end) = exhaust(64 << 10, 32, How::HEAP);
    assert!(count >= 1000, "only {count}: {end}");
}

#[test]
fn the_usual_8_mib_hold_190_000_secrets() {
    need!(secretmem);
    let (count, end) = exhaust(8 << 20, 32, How::HEAP);
    assert!(count >= 190_000, "only {count}: {end}");
}
