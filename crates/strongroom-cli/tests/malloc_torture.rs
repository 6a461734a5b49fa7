//! Millions of allocations of every kind, size and alignment by several threads that
//! free each other's blocks and fork in the middle; every block is checked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use support::{How, Room, Who, need};

fn torture(who: Who, how: How, threads: &str, operations: &str, live: &str, seed: &str) {
    let room = Room::new(who, how);
    let program = room.program("torture.c", &[]);
    let end = room.succeed(
        room.command(program)
            .args([threads, operations, live, seed]),
    );
    let expected = format!("{threads} threads, {operations} operations, ");
    assert!(end.stdout.starts_with(&expected), "{end}");
    assert!(
        end.stdout.ends_with("forks, many blocks\nrefused 0\n"),
        "{end}"
    );
    assert_eq!(end.stderr, "", "{end}");
}

#[test]
fn four_threads() {
    need!(root);
    for how in [How::Plain, How::HEAP] {
        torture(Who::Root, how, "4", "2000000", "67108864", "1");
    }
}

#[test]
fn one_thread() {
    need!(root);
    for how in [How::Plain, How::HEAP] {
        torture(Who::Root, how, "1", "1000000", "33554432", "2");
    }
}

/// In 8 MiB of locked memory, with room for what an allocator does not get to use.
#[test]
fn two_threads_of_an_ordinary_user() {
    for how in [How::Plain, How::HEAP] {
        torture(Who::User, how, "2", "1000000", "2097152", "3");
    }
}
