//! libc unmaps memory by calls that nobody sees; what comes to the same address is left alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use support::room::WHO;
use support::{How, Room, need};

#[test]
fn what_comes_after_locked_memory_is_not_taken_for_it() {
    need!(secretmem);
    for &who in WHO() {
        for how in [How::Plain, How::LOCKED] {
            let room = Room::new(who, how);
            let program = room.program("reused_address.c", &[]);
            let said = room.succeed(&mut room.command(program)).stdout;
            let expected =
                "same address: 1\nchild: 0\nadvice: 0\nintact: 1\nunmapped: 0\nintact: 1\n";
            assert_eq!(said, expected, "as {who:?} with {how:?}");
        }
    }
}
