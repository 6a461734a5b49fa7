//! The driver through its device file, on a kernel that has it loaded: `cargo xtask driver test`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own helpers fail the test"
)]

mod dump;
mod hiding;
mod lifetime;
mod limits;
mod memory_error;
mod nodes;
mod object;
mod owner;
mod page_tables;
mod process;
mod processors;
mod requests;
mod state;

use object::{Object, alone, free_bytes, skip, state};
use processors::{interrupted, touch_secret_memory};
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};

#[test]
fn a_small_object_is_zero_and_keeps_what_is_written() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let object = Object::with_mode(Mode::EXCLUSIVE, 3 * PAGE);
    let map = object.map().unwrap();
    assert_eq!(free_bytes(), before - 3 * PAGE);
    assert!(map.bytes().iter().all(|&byte| byte == 0));
    map.bytes_mut().fill(0xa5);
    assert!(map.bytes().iter().all(|&byte| byte == 0xa5));
    drop(object);
    assert!(map.bytes().iter().all(|&byte| byte == 0xa5));
    drop(map);
    assert_eq!(free_bytes(), before);
}

#[test]
fn a_large_object_is_mapped_by_huge_entries() {
    let Some(_alone) = alone() else { return };
    let (huge, small) = (state("huge_entries"), state("small_entries"));
    let map = Object::with_mode(Mode::EXCLUSIVE, 4 * HUGE_PAGE)
        .map()
        .unwrap();
    assert_eq!(map.address() % HUGE_PAGE as usize, 0);
    map.bytes_mut().fill(1);
    assert_eq!(state("huge_entries") - huge, 4);
    assert_eq!(state("small_entries") - small, 0);
    drop(map);
    // And what comes after it at the same place is zero.
    let map = Object::with_mode(Mode::EXCLUSIVE, 4 * HUGE_PAGE)
        .map()
        .unwrap();
    assert!(map.bytes().iter().all(|&byte| byte == 0));
}

#[test]
fn no_other_processor_is_interrupted() {
    let Some(_alone) = alone() else { return };
    // The control: the kernel's own secret memory, mostly one interrupt a page.
    if !touch_secret_memory(1, |_| ()) {
        return skip("the kernel has no memfd_secret");
    }
    let Some(control) = interrupted(|| assert!(touch_secret_memory(64, |_| ()))) else {
        return skip("there is one processor");
    };
    assert!(control >= 32, "{control}");
    for (mode, bytes) in [
        (Mode::empty(), 64 * PAGE),
        (Mode::HUGE, HUGE_PAGE),
        (Mode::UNCACHED, 64 * PAGE),
    ] {
        let count = interrupted(|| {
            let map = Object::with_mode(Mode::EXCLUSIVE | mode, bytes)
                .map()
                .unwrap();
            map.bytes_mut().fill(1);
        });
        // The kernel's own of that time, on a slow kernel; one a page would be as many as the control's.
        assert!(count.is_some_and(|count| count < 8), "{mode:?}: {count:?}");
    }
}
