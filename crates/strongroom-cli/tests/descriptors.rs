//! A program that has used up its descriptors still gets secret memory.

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
fn memory_needs_no_descriptor_of_the_programs() {
    need!(secretmem);
    for &who in WHO() {
        let said = |how| {
            let room = Room::new(who, how);
            let program = room.program("no_descriptors.c", &[]);
            room.succeed(&mut room.command(program)).stdout
        };
        let plain = said(How::Plain);
        assert_eq!(plain, "child 0, limit 40, open -1\n");
        for how in [How::HEAP, How::LOCKED] {
            assert_eq!(said(how), plain, "as {who:?} with {how:?}");
        }
    }
}
