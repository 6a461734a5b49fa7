//! What a program locks becomes secret in place, at the same address, and everything
//! it may do with locked memory goes on to work: each program here says the same
//! protected as plain, and is looked at from outside whenever it holds its secret.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use support::room::WHO;
use support::{How, Inside, Outside, Room, Transcript, Who, chance, need};

/// Runs a case of locked.c; at each of its stages its secret is looked for.
#[track_caller]
fn run(case: &str, who: Who, how: How) -> (usize, Transcript) {
    let room = Room::new(who, how);
    let secret = chance::bytes::<64>();
    let file = room.file("secret", secret);
    let program = room.program("locked.c", &[]);
    let mut session = room.session(room.command(program).arg(case).arg(file));
    let mut stages = 0;
    while let Some(stage) = session.any_stage() {
        assert_eq!(stage.name, "secret");
        stages += 1;
        let outside = Outside::of(stage.pid);
        if how.is_protected() {
            let mapping = outside.mapping_at(stage.address);
            let when = format!("{case}, stage {stages}, as {who:?} with {how:?}");
            assert!(
                mapping.is_secret(),
                "{when}: not secret memory: {mapping:x?}"
            );
            let error = outside.peek(stage.address).expect_err("unreadable memory");
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{when}");
            assert_eq!(
                Inside::of(stage.pid).bytes(stage.address, stage.length),
                secret,
                "{when}"
            );
            support::assert_hidden(stage.pid, &format!("the secret ({when})"), &secret);
        } else {
            support::assert_leaks(stage.pid, "the secret", &secret);
        }
        session.go();
    }
    let end = session.finish();
    assert_eq!(
        end.status, "exit 0",
        "{case} as {who:?} with {how:?}: {end}"
    );
    (stages, end)
}

/// Cases where some of what the program locks cannot be secret.
const NOTICED: [&str; 4] = ["stack", "others", "limit", "mlockall"];

#[track_caller]
fn same(case: &str, stages: usize) {
    need!(root, secretmem);
    for &who in WHO() {
        let plain = run(case, who, How::Plain);
        assert_eq!(plain.0, stages, "{case} as {who:?}: {}", plain.1);
        for how in [How::LOCKED, How::HEAP] {
            let mut protected = run(case, who, how);
            // What cannot be made secret is said, in one line.
            if NOTICED.contains(&case) && protected.1.stderr.lines().count() == 1 {
                assert!(
                    protected.1.stderr.starts_with("strongroom: "),
                    "{}",
                    protected.1
                );
                protected.1.stderr.clear();
            }
            assert_eq!(plain, protected, "{case} as {who:?} with {how:?}");
        }
    }
}

macro_rules! cases {
    ($($(#[$doc:meta])* $name:ident: $case:literal, $stages:literal;)*) => {
        $($(#[$doc])* #[test] fn $name() { same($case, $stages); })*
    };
}

cases! {
    mlock: "mlock", 1;
    mlock2: "mlock2", 2;
    /// As OpenSSL's secure heap does it.
    through_syscall: "syscall", 2;
    map_locked: "map-locked", 1;
    mlockall: "mlockall", 2;
    unaligned_ranges: "unaligned", 1;
    a_buffer_of_the_heap: "heap", 1;
    static_buffers: "static", 2;
    /// Not secret, and not harmed.
    a_buffer_of_the_stack: "stack", 0;
    /// Shared memory, code, files: not secret, and not harmed.
    what_cannot_be_concealed: "others", 0;
    what_cannot_be_locked: "wrong", 0;
    while_others_write_to_it: "busy", 0;
    munlock: "munlock", 2;
    munmap: "munmap", 5;
    mmap_over_it: "mmap-over", 1;
    mprotect: "mprotect", 2;
    read_only: "read-only", 1;
    madvise_for_children: "madvise-fork", 1;
    madvise_for_dumps: "madvise-dump", 3;
    madvise_away: "madvise-need", 2;
    mremap: "mremap", 7;
    more_than_the_limit: "limit", 0;
}
