//! Every edge of the exported allocation functions that the C standard and POSIX name:
//! the same protected as with glibc's own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use support::room::{WHO, same_as_plain};
use support::{How, Inside, Outside, Room, Who, chance, need};

#[track_caller]
fn same(case: &str) {
    same_as_plain(WHO(), &["--scope", "heap"], |room| {
        let program = room.program("edges.c", &["-Wno-alloc-size-larger-than"]);
        let mut end = room.succeed(room.command(program).arg(case));
        // Why memory was refused is said, in one line.
        if case == "large" && room.is_protected() && end.stderr.lines().count() == 1 {
            assert!(end.stderr.starts_with("strongroom: "), "{end}");
            end.stderr.clear();
        }
        end
    });
}

#[test]
fn zero_sizes() {
    same("zero");
}

#[test]
fn sizes_that_cannot_be() {
    same("large");
}

#[test]
fn products_that_overflow() {
    same("overflow");
}

/// Alignments up to 1 MiB: an ordinary user's 8 MiB suffice.
#[test]
fn alignments() {
    same("alignment");
}

#[test]
fn usable_sizes() {
    same("usable");
}

#[test]
fn resizing() {
    same("resize");
}

#[test]
fn calloc_is_zero() {
    same("calloc");
}

#[test]
fn errno_is_kept() {
    same("errno");
}

/// Runs a case that stops at stages, and looks at it there.
fn staged(case: &str, who: Who, how: How, mut look: impl FnMut(usize, &str, i32, u64, &[u8])) {
    let room = Room::new(who, how);
    // Text on one line: getline and strdup are to take it whole.
    let secret = chance::letters::<64>();
    let file = room.file("secret", format!("{secret}\n"));
    let program = room.program("edges.c", &["-Wno-alloc-size-larger-than"]);
    let mut session = room.session(room.command(program).arg(case).arg(file));
    let mut stages = 0;
    while let Some(stage) = session.any_stage() {
        look(
            stages,
            &stage.name,
            stage.pid,
            stage.address,
            secret.as_bytes(),
        );
        stages += 1;
        session.go();
    }
    let end = session.finish();
    assert_eq!(end.status, "exit 0", "{end}");
}

/// strdup, strndup, asprintf, getline, getdelim, open_memstream.
#[test]
fn what_libc_allocates_is_secret_too() {
    need!(root, secretmem);
    for &who in WHO() {
        staged("family", who, How::Plain, |_, _, pid, _, secret| {
            support::assert_leaks(pid, "the text", secret);
        });
        staged(
            "family",
            who,
            How::HEAP,
            |number, _, pid, address, secret| {
                let mapping = Outside::of(pid).mapping_at(address);
                assert!(mapping.is_secret(), "copy {number} is in {mapping:x?}");
                assert_eq!(Inside::of(pid).bytes(address, secret.len()), secret);
            },
        );
    }
}

/// After free, realloc to less and realloc to elsewhere nothing is left, not even where
/// only the process itself can see it.
#[test]
fn freed_memory_is_wiped() {
    need!(root, secretmem);
    for &who in WHO() {
        staged("wiped", who, How::Plain, |_, stage, pid, _, secret| {
            if stage == "freed" {
                support::assert_leaks(pid, "the freed secret", secret);
            }
        });
        staged("wiped", who, How::HEAP, |_, stage, pid, _, secret| {
            if stage == "secret" {
                support::assert_kept(pid, "the secret", secret);
            } else {
                support::assert_hidden(pid, "the freed secret", secret);
                let left: usize = Inside::of(pid)
                    .secret_memory()
                    .iter()
                    .map(|(_, bytes)| support::outside::count(bytes, secret))
                    .sum();
                assert_eq!(left, 0, "copies left in secret memory after free");
            }
        });
    }
}

/// What glibc ends a program for ends it here too, with a message on stderr.
#[track_caller]
fn ends(case: &str) {
    for &who in WHO() {
        for how in [How::Plain, How::HEAP] {
            let room = Room::new(who, how);
            let program = room.program("edges.c", &["-Wno-alloc-size-larger-than"]);
            let end = room.run(room.command(program).arg(case));
            let is_abort =
                end.status == "signal 6" && end.stdout.is_empty() && !end.stderr.is_empty();
            // An unmapped header may fault first, in glibc.
            let is_fault = how == How::Plain && end.status == "signal 11";
            assert!(
                is_abort || is_fault,
                "{case} as {who:?} with {how:?}: {end}"
            );
        }
    }
}

#[test]
fn double_free_aborts() {
    ends("double");
}

#[test]
fn double_free_of_much_aborts() {
    ends("double-large");
}

#[test]
fn free_of_an_inner_address_aborts() {
    ends("invalid");
}

#[test]
fn free_of_foreign_memory_aborts() {
    ends("foreign");
}

#[test]
fn realloc_of_foreign_memory_aborts() {
    ends("foreign-realloc");
}
