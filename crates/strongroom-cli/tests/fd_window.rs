//! While secret memory is made, a descriptor of it exists for some microseconds. Another
//! process of the same user tries to take it in that time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use support::{How, Room, Who, need};

/// How often the thief looks. The control loses its descriptor within the first few thousand.
const ROUNDS: &str = "30000";

/// Lets a thief loose on a victim that makes secret memory all the time; returns what it says.
fn steal(how: How, kind: &str) -> String {
    let room = Room::new(Who::User, how);
    let victim = room.program("secrets_in_a_loop.c", &[]);
    let thief = room.program("thief.c", &[]);
    let mut child = room
        .command(&victim)
        .arg(kind)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "#going\n");
    let said = room.succeed(room.plain(&thief).arg(child.id().to_string()).arg(ROUNDS));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "the victim failed");
    said.stdout.trim().to_owned()
}

#[test]
fn a_descriptor_that_may_be_looked_at_is_taken() {
    need!(root, secretmem);
    assert_eq!(
        steal(How::Plain, "raw"),
        "stolen",
        "the control did not leak: the test proves nothing"
    );
}

#[test]
fn nobody_gets_the_descriptor_of_what_the_program_locks() {
    need!(root, secretmem);
    assert_eq!(steal(How::Run(&["--scope", "locked"]), "lock"), "nothing");
}

#[test]
fn nor_where_the_process_stays_dumpable() {
    need!(root, secretmem);
    assert_eq!(
        steal(How::Run(&["--scope", "locked", "--dumpable"]), "lock"),
        "nothing"
    );
}
