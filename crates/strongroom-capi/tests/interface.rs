//! The functions as C calls them, in one process without a compiler: `cargo xtask driver test` runs this where the
//! driver is loaded.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

// The process-wide heap has one policy, and a fork copies what other tests hold.
#[path = "../../../tests/alone.rs"]
mod alone;

use alone::alone;
use core::ffi::{CStr, c_char, c_int};
use core::ptr::{null, null_mut};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use strongroom::keeper::{self, DRIVER, DRIVER_UNCACHED, LOCKED, SECRETMEM};
use strongroom_capi::conceal::{strongroom_conceal, strongroom_concealed};
use strongroom_capi::error::*;
use strongroom_capi::heap::*;
use strongroom_capi::malloc::*;
use strongroom_capi::policy::*;
use strongroom_capi::region::*;
use strongroom_capi::wipe::strongroom_wipe;
use strongroom_core::driver::DEVICE;

const HUGE: usize = 2 << 20;

const fn policy(required: u32, preferred: u32, fork: u32) -> strongroom_policy {
    strongroom_policy {
        size: size_of::<strongroom_policy>() as u32,
        required,
        preferred,
        fork,
        besides: 0,
    }
}

const BEST: strongroom_policy = policy(SR_LOCKED, SR_HIDDEN, SR_FORK_COPY);

/// Forks; the child's `act` returns whether all is well.
fn in_child(act: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child only touches memory, and ends without running anything else.
    match unsafe { libc::fork() } {
        0 => {
            let well = act();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(c_int::from(!well)) }
        }
        child => {
            let mut status = 0;
            // SAFETY: `status` is a valid place.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

/// The keeper that stands behind `hidden` memory where it is preferred, and behind what no other keeper is
/// there for.
fn best_keeper() -> &'static str {
    [DRIVER, SECRETMEM]
        .into_iter()
        .find(|keeper| keeper::probe(*keeper).is_ok())
        .unwrap_or(LOCKED)
        .name()
}

fn has_driver() -> bool {
    Path::new(DEVICE).exists()
}

/// What a function writes as snprintf(3) would.
fn text(write: impl Fn(*mut c_char, usize) -> usize) -> String {
    let len = write(null_mut(), 0);
    let mut buffer = vec![b'x'; len + 9];
    assert_eq!(write(buffer.as_mut_ptr().cast(), buffer.len()), len);
    assert_eq!(&buffer[len..], b"\0xxxxxxxx", "what is past the text");
    // Cut off wherever the buffer ends, with a zero, and nothing past it.
    for room in [0, 1, 2, len / 2, len, len + 1] {
        let mut cut = vec![b'x'; len + 9];
        assert_eq!(write(cut.as_mut_ptr().cast(), room), len);
        let kept = room.saturating_sub(1).min(len);
        assert_eq!(cut[..kept], buffer[..kept], "in {room} of {len}");
        if room > 0 {
            assert_eq!(cut[kept], 0);
        }
        assert!(cut[room.min(kept + 1)..].iter().all(|&byte| byte == b'x'));
    }
    buffer.truncate(len);
    String::from_utf8(buffer).unwrap()
}

fn message() -> String {
    // SAFETY: `text` gives writable buffers.
    text(|buffer, len| unsafe { strongroom_error_message(buffer, len) })
}

fn receipt_of_region(region: *const strongroom_region) -> Value {
    // SAFETY: `text` gives writable buffers.
    serde_json::from_str(&text(|buffer, len| unsafe {
        strongroom_region_receipt(region, buffer, len)
    }))
    .unwrap()
}

fn receipt_of_heap(heap: *const strongroom_heap) -> Value {
    // SAFETY: `text` gives writable buffers.
    serde_json::from_str(&text(|buffer, len| unsafe {
        strongroom_heap_receipt(heap, buffer, len)
    }))
    .unwrap()
}

fn names(set: u32) -> Vec<String> {
    (0..32)
        .map(|bit| 1u32 << bit)
        .filter(|bit| set & bit != 0)
        .map(|bit| {
            let name = strongroom_protection_name(bit);
            assert!(!name.is_null());
            // SAFETY: a static text.
            unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned()
        })
        .collect()
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_region_is_what_its_receipt_says() {
    // SAFETY: each pointer is a region until it is freed, and each memory the region's.
    unsafe {
        let region = strongroom_region_new(&BEST, 5000);
        assert!(!region.is_null(), "{}", message());
        let (start, len) = (
            strongroom_region_address(region),
            strongroom_region_length(region),
        );
        assert_eq!((len, start as usize % 4096), (8192, 0));
        let bytes = std::slice::from_raw_parts_mut(start.cast::<u8>(), len);
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(7);
        assert!(bytes.iter().all(|&byte| byte == 7));

        let (held, receipt) = (strongroom_region_held(region), receipt_of_region(region));
        assert_eq!(strings(&receipt["held"]), names(held));
        assert_eq!(
            strings(&receipt["asked"]),
            names(strongroom_level_protections(SR_HIDDEN))
        );
        assert_eq!(receipt["schema"], 1);
        assert_eq!(receipt["bytes"], 8192);
        assert_eq!(receipt["keeper"], best_keeper());
        assert_eq!(receipt["kept"][best_keeper()], 8192);
        let hidden = best_keeper() != LOCKED.name();
        assert_eq!(
            strongroom_level_reached(held),
            if hidden { SR_HIDDEN } else { SR_LOCKED }
        );
        assert_eq!(receipt["level"], if hidden { "hidden" } else { "locked" });
        assert_eq!(receipt["missing"].as_object().unwrap().is_empty(), hidden);
        for missing in receipt["missing"].as_object().unwrap().values() {
            assert_ne!(missing["cause"], "");
        }
        assert_ne!(held & SR_BOUNDED, 0);
        strongroom_region_free(region);

        // At a lower level the same questions have other answers.
        let locked = policy(SR_LOCKED, SR_LOCKED, SR_FORK_DROP);
        let region = strongroom_region_new(&locked, 1);
        assert_eq!(receipt_of_region(region)["keeper"], LOCKED.name());
        assert_eq!(
            strongroom_region_held(region) & (SR_NO_PEEK | SR_NO_SWAP),
            SR_NO_SWAP
        );
        strongroom_region_free(region);
        strongroom_region_free(null_mut());
    }
}

#[test]
fn what_the_driver_alone_has_is_had_of_it_or_refused() {
    let uncached = strongroom_policy {
        besides: SR_UNCACHED,
        ..policy(SR_HIDDEN, SR_HIDDEN, SR_FORK_COPY)
    };
    // SAFETY: as above.
    unsafe {
        let region = strongroom_region_new(&uncached, 1);
        if has_driver() {
            assert_eq!(receipt_of_region(region)["keeper"], DRIVER_UNCACHED.name());
            assert_ne!(strongroom_region_held(region) & SR_UNCACHED, 0);
            strongroom_region_free(region);
        } else {
            assert!(region.is_null());
            assert_eq!(strongroom_last_error(), SR_E_NO_DRIVER);
            assert!(message().ends_with("modprobe strongroom`"), "{}", message());
        }
        let hidden = policy(SR_HIDDEN, SR_HIDDEN, SR_FORK_DROP);
        let region = strongroom_region_new_huge(&hidden, HUGE + 1);
        if has_driver() {
            assert_eq!(receipt_of_region(region)["keeper"], "driver-huge");
            let (start, len) = (
                strongroom_region_address(region),
                strongroom_region_length(region),
            );
            assert_eq!((len, start as usize % HUGE), (2 * HUGE, 0));
            start.cast::<u8>().add(len - 1).write(3);
            assert_eq!(start.cast::<u8>().add(len - 1).read(), 3);
            strongroom_region_free(region);
        } else {
            assert!(region.is_null());
            assert_eq!(strongroom_last_error(), SR_E_NO_DRIVER);
        }
    }
}

#[test]
fn what_cannot_be_had_is_refused_and_named() {
    // SAFETY: policies that live, and no pointer is used.
    unsafe {
        let closed = policy(SR_CLOSED, SR_CLOSED, SR_FORK_DROP);
        let mut held = 77;
        let code = strongroom_policy_check(&closed, &raw mut held);
        assert_eq!((code, held), (SR_E_NOT_ARRANGED, 77));
        assert!(message().contains("`closed`"), "{}", message());
        assert!(
            strongroom_region_new(&closed, 1).is_null() && strongroom_heap_new(&closed).is_null()
        );

        assert_eq!(strongroom_policy_check(&BEST, &raw mut held), SR_OK);
        assert_eq!(
            held & strongroom_level_protections(SR_LOCKED),
            strongroom_level_protections(SR_LOCKED)
        );
        assert_eq!(strongroom_policy_check(&BEST, null_mut()), SR_OK);
        assert_eq!(
            strongroom_last_error(),
            SR_E_NOT_ARRANGED,
            "what succeeds leaves it"
        );

        assert!(strongroom_region_new(&BEST, usize::MAX).is_null());
        assert_eq!(strongroom_last_error(), SR_E_OUT_OF_MEMORY);
        assert!(strongroom_region_new_huge(&BEST, usize::MAX).is_null());
    }
}

#[test]
fn misuse_is_an_error_and_changes_nothing() {
    let refused = |code| code == SR_E_ARGUMENT && strongroom_last_error() == SR_E_ARGUMENT;
    let wrong = [
        strongroom_policy { size: 0, ..BEST },
        strongroom_policy { size: 24, ..BEST },
        strongroom_policy {
            required: 0,
            ..BEST
        },
        strongroom_policy {
            required: 4,
            ..BEST
        },
        strongroom_policy {
            preferred: 0,
            ..BEST
        },
        strongroom_policy { fork: 0, ..BEST },
        strongroom_policy { fork: 4, ..BEST },
        strongroom_policy {
            besides: 1 << 14,
            ..BEST
        },
        policy(SR_HIDDEN, SR_LOCKED, SR_FORK_COPY),
    ];
    let mut texts = std::collections::BTreeSet::new();
    // SAFETY: what is wrong is refused before it is used.
    unsafe {
        for policy in wrong.iter().map(std::ptr::from_ref).chain([null()]) {
            assert!(
                refused(strongroom_policy_check(policy, null_mut())),
                "{policy:?}"
            );
            texts.insert(message());
            assert!(refused(strongroom_start(policy)));
            assert!(
                strongroom_region_new(policy, 1).is_null()
                    && strongroom_region_new_huge(policy, 1).is_null()
            );
            assert!(strongroom_heap_new(policy).is_null());
            let mut page = [1u8; 10];
            let outcome = strongroom_conceal(page.as_mut_ptr().cast(), 10, policy, null_mut());
            assert!(refused(outcome) && page == [1; 10]);
        }
        assert!(
            strongroom_region_new(&BEST, 0).is_null()
                && strongroom_region_new_huge(&BEST, 0).is_null()
        );
        texts.insert(message());

        assert!(strongroom_region_address(null()).is_null());
        assert_eq!(
            (
                strongroom_region_length(null()),
                strongroom_region_held(null())
            ),
            (0, 0)
        );
        let mut buffer = [b'x' as c_char; 4];
        assert_eq!(strongroom_region_receipt(null(), buffer.as_mut_ptr(), 4), 0);
        texts.insert(message());
        assert_eq!(strongroom_heap_receipt(null(), buffer.as_mut_ptr(), 4), 0);
        assert_eq!(buffer, [b'x' as c_char; 4]);
        texts.insert(message());

        let heap = null_mut();
        assert!(
            strongroom_heap_malloc(heap, 1).is_null()
                && strongroom_heap_calloc(heap, 1, 1).is_null()
        );
        assert!(strongroom_heap_realloc(heap, null_mut(), 1).is_null());
        assert!(strongroom_heap_aligned_alloc(heap, 16, 1).is_null());
        assert_eq!(strongroom_heap_usable_size(heap, null_mut()), 0);
        assert_eq!(strongroom_heap_held(heap), 0);
        strongroom_heap_free(heap, null_mut());
        strongroom_heap_trim(heap);
        assert_eq!(strongroom_heap_delete(heap), SR_OK);
        assert!(refused(strongroom_heap_delete(strongroom_process_heap())));
        texts.insert(message());

        for alignment in [0, 3, 24, usize::MAX] {
            assert!(strongroom_aligned_alloc(alignment, 16).is_null());
            assert!(refused(strongroom_last_error()));
            assert_eq!(
                std::io::Error::last_os_error().raw_os_error(),
                Some(libc::EINVAL)
            );
        }
        texts.insert(message());
        assert!(strongroom_calloc(usize::MAX / 2, 3).is_null() && refused(strongroom_last_error()));
        texts.insert(message());

        let start = (&raw mut buffer).cast();
        for (start, len) in [
            (null_mut(), 1),
            (start, 0),
            (start, usize::MAX),
            (start, usize::MAX - 8),
        ] {
            assert!(refused(strongroom_conceal(start, len, &BEST, null_mut())));
        }
        texts.insert(message());
        let block = strongroom_malloc(9);
        assert!(refused(strongroom_conceal(block, 9, &BEST, null_mut())));
        texts.insert(message());
        strongroom_free(block);
        strongroom_wipe(null_mut(), 10);
    }
    assert_eq!(texts.len(), 14, "each has a text of its own: {texts:#?}");
    // A cause, and what to do about it.
    for text in texts {
        assert!(text.contains("; "), "{text}");
    }
}

#[test]
fn sizes_at_the_edge_of_what_there_is_are_refused_or_served() {
    // SAFETY: blocks are freed once; a heap is deleted when it is empty.
    unsafe {
        let heap = strongroom_heap_new(&BEST);
        let kept = strongroom_heap_malloc(heap, 40);
        kept.cast::<u8>().write_bytes(9, 40);
        let mut refused = 0;
        for shift in 4..64u32 {
            for size in [
                0,
                1,
                1 << shift,
                (1usize << shift) - 1,
                usize::MAX >> (shift - 4),
            ] {
                for alignment in [1, 16, 1 << shift] {
                    // What there is room for is another test's.
                    let served = size < 1 << 16 && alignment < 1 << 16;
                    if !served && size < 1 << 37 && alignment < 1 << 37 {
                        continue;
                    }
                    let block = strongroom_heap_aligned_alloc(heap, alignment, size);
                    assert_eq!(!block.is_null(), served, "{size} aligned to {alignment}");
                    if served {
                        assert_eq!(block as usize % alignment.max(16), 0);
                        assert!(strongroom_heap_usable_size(heap, block) >= size);
                        strongroom_heap_free(heap, block);
                    } else {
                        refused += 1;
                    }
                }
                if size >= 1 << 37 {
                    assert!(strongroom_heap_realloc(heap, kept, size).is_null());
                    assert_eq!(
                        std::io::Error::last_os_error().raw_os_error(),
                        Some(libc::ENOMEM)
                    );
                    let block = std::slice::from_raw_parts(kept.cast::<u8>(), 40);
                    assert_eq!(block, [9; 40], "a failed realloc changes nothing");
                }
            }
        }
        assert!(refused > 100);
        strongroom_heap_free(heap, kept);
        assert_eq!(strongroom_heap_delete(heap), SR_OK);
    }
}

#[test]
fn a_child_sees_what_the_policy_says() {
    if !alone("a_child_sees_what_the_policy_says") {
        return;
    }
    // SAFETY: memory of this test's own, freed once.
    unsafe {
        assert_eq!(strongroom_start(&BEST), SR_OK, "{}", message());
        let block = strongroom_malloc(100).cast::<u8>();
        block.write_bytes(5, 100);
        let copied = strongroom_region_new(&BEST, 1);
        let dropped = strongroom_region_new(&policy(SR_LOCKED, SR_HIDDEN, SR_FORK_DROP), 1);
        let address = |region| strongroom_region_address(region).cast::<u8>();
        let (copy, drop) = (address(copied), address(dropped));
        copy.write(6);
        drop.write(7);
        assert!(in_child(|| {
            let seen = (block.read(), copy.read(), drop.read()) == (5, 6, 0);
            block.write(1);
            copy.write(1);
            drop.write(1);
            seen
        }));
        assert_eq!((block.read(), copy.read(), drop.read()), (5, 6, 7));

        let denied = strongroom_region_new(&policy(SR_LOCKED, SR_HIDDEN, SR_FORK_DENY), 1);
        assert_eq!(libc::fork(), -1);
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::EPERM)
        );
        for region in [denied, copied, dropped] {
            strongroom_region_free(region);
        }
        assert!(in_child(|| block.read() == 5));
        strongroom_free(block.cast());
    }
}

#[test]
fn memory_that_is_there_becomes_secret() {
    if !alone("memory_that_is_there_becomes_secret") {
        return;
    }
    let len = 4 * 4096;
    // SAFETY: a mapping of this test's own.
    unsafe {
        let map = |flags| {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let start = libc::mmap(null_mut(), len, access, flags | libc::MAP_ANONYMOUS, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            start.cast::<u8>()
        };
        let start = map(libc::MAP_PRIVATE);
        start.add(4000).write_bytes(8, 200);
        let mut outcome = strongroom_concealed::default();
        // Both pages that the range is in.
        let code = strongroom_conceal(start.add(4000).cast(), 200, &BEST, &raw mut outcome);
        assert_eq!(code, SR_OK, "{}", message());
        assert_eq!((outcome.secret, outcome.locked), (2 * 4096, 0));
        let bytes = std::slice::from_raw_parts(start, len);
        assert!(bytes[4000..4200].iter().all(|&byte| byte == 8) && bytes[0] == 0);
        assert!(in_child(|| bytes[4000] == 8));
        let kept_by = |address: *const u8| {
            strongroom_sys::maps::covering_or_next(address as usize, |mapping| {
                (mapping.is_driver(), mapping.is_secretmem())
            })
            .unwrap()
            .unwrap()
        };
        let by = best_keeper();
        assert_eq!(
            kept_by(start),
            (by == DRIVER.name(), by == SECRETMEM.name())
        );
        assert_eq!(
            kept_by(start.add(2 * 4096)),
            (false, false),
            "the pages beside it"
        );

        let shared = map(libc::MAP_SHARED);
        let code = strongroom_conceal(shared.cast(), len, &BEST, &raw mut outcome);
        assert_eq!(
            (code, outcome.secret, outcome.locked),
            (SR_E_NOT_CONCEALABLE, 0, len)
        );
        assert!(message().contains("strongroom_malloc"));

        libc::munmap(start.cast(), len);
        libc::munmap(shared.cast(), len);
        outcome = strongroom_concealed {
            secret: 1,
            locked: 2,
        };
        let code = strongroom_conceal(shared.cast(), len, &BEST, &raw mut outcome);
        assert_eq!(
            (code, outcome.secret, outcome.locked),
            (SR_E_UNMAPPED, 1, 2)
        );
    }
}

#[test]
fn the_process_wide_heap_has_one_policy() {
    if !alone("the_process_wide_heap_has_one_policy") {
        return;
    }
    let heap = strongroom_process_heap();
    // SAFETY: the heap lives as long as the process; blocks are freed once.
    unsafe {
        assert_eq!(strongroom_last_error(), SR_OK);
        assert_eq!(strongroom_heap_held(heap), 0, "it does not run yet");
        assert_eq!(strongroom_heap_receipt(heap, null_mut(), 0), 0);
        assert_eq!(strongroom_last_error(), SR_E_ARGUMENT);
        let locked = policy(SR_LOCKED, SR_LOCKED, SR_FORK_DROP);
        assert_eq!(
            (strongroom_start(&locked), strongroom_start(&locked)),
            (SR_OK, SR_OK)
        );
        assert_eq!(strongroom_start(&BEST), SR_E_STARTED);
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::EBUSY)
        );
        let block = strongroom_malloc(10);
        assert_eq!(
            strongroom_heap_held(heap),
            strongroom_level_protections(SR_LOCKED)
        );
        let receipt = receipt_of_heap(heap);
        assert_eq!(receipt["keeper"], LOCKED.name());
        assert!(receipt["bytes"].as_u64().unwrap() > 0 && receipt["chunks"] == 1);
        assert_eq!(receipt["kept"][LOCKED.name()], receipt["bytes"]);

        // Blocks of this heap are both families'.
        let block = strongroom_heap_realloc(heap, block, 100_000);
        assert!(strongroom_usable_size(block) >= 100_000);
        strongroom_free(block);
        strongroom_heap_trim(heap);
        assert_eq!(receipt_of_heap(heap)["bytes"], 0);
    }
}

#[test]
fn a_start_that_failed_stays_one() {
    if !alone("a_start_that_failed_stays_one") {
        return;
    }
    // SAFETY: policies that live.
    unsafe {
        assert_eq!(
            strongroom_start(&policy(SR_CLOSED, SR_CLOSED, SR_FORK_DROP)),
            SR_E_NOT_ARRANGED
        );
        assert_eq!(strongroom_start(&BEST), SR_E_NOT_ARRANGED);
    }
    assert!(strongroom_malloc(1).is_null(), "less than was required");
    assert_eq!(strongroom_last_error(), SR_E_NOT_ARRANGED);
}

/// The rule that this crate counts on, tried with the compiler at hand.
#[test]
fn a_panic_ends_the_process_and_does_not_unwind_out() {
    extern "C" fn in_c() {
        std::panic::panic_any(1);
    }
    extern "C-unwind" fn unwinding() {
        std::panic::panic_any(2);
    }
    if std::env::var_os("STRONGROOM_TEST_PANIC").is_some() {
        // The control: what may unwind does, and is caught here.
        assert!(std::panic::catch_unwind(|| unwinding()).is_err());
        let _ = std::panic::catch_unwind(|| in_c());
        // SAFETY: ends the process as nothing else here does.
        unsafe { libc::_exit(33) };
    }
    let test = "a_panic_ends_the_process_and_does_not_unwind_out";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env("STRONGROOM_TEST_PANIC", "1")
        .output()
        .unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(libc::SIGABRT), "{output:?}");
}
