//! What children see, for a library user: heaps, regions, concealed memory.

#![allow(clippy::unwrap_used, reason = "tests")]

// Forks of a process whose other threads run other tests would each copy what those hold.
#[path = "../../../tests/alone.rs"]
mod alone;

use alone::alone;
use std::process::abort;
use strongroom::fork::ForkPolicy;
use strongroom::ledger::Child;
use strongroom::{Heap, Level, Policy, Region, keeper};

/// Forks; the child's `act` returns whether all is well.
fn in_child(act: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child only touches memory, and ends without running anything else.
    match unsafe { libc::fork() } {
        0 => {
            let well = act();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if well { 0 } else { 1 }) }
        }
        -1 => abort(),
        child => {
            let mut status = 0;
            // SAFETY: `status` is a valid place.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

fn copying() -> Policy {
    Policy::prefer(Level::Hidden).on_fork(ForkPolicy::Copy)
}

#[test]
fn a_child_has_its_own_snapshot_of_a_heap() {
    if !alone("a_child_has_its_own_snapshot_of_a_heap") {
        return;
    }
    for policy in [
        copying(),
        Policy::require(Level::Locked).on_fork(ForkPolicy::Copy),
    ] {
        let heap = Heap::new(policy).unwrap();
        let blocks: Vec<_> = [1usize, 30, 500, 5_000, 40_000, 3_000_000]
            .into_iter()
            .map(|size| {
                let block = heap.allocate(size);
                // SAFETY: a block of that size.
                unsafe { block.write_bytes(size as u8 | 1, size) };
                (block, size)
            })
            .collect();
        let same = |bump: u8| {
            blocks.iter().all(|&(block, size)| {
                // SAFETY: as above.
                unsafe { std::slice::from_raw_parts(block, size) }
                    .iter()
                    .all(|&b| b == (size as u8 | 1).wrapping_add(bump))
            })
        };
        assert!(in_child(|| {
            let seen = same(0);
            for &(block, size) in &blocks {
                // SAFETY: as above.
                unsafe { block.write_bytes((size as u8 | 1).wrapping_add(1), size) };
            }
            let nested = in_child(|| same(1) && !heap.allocate(100).is_null());
            let fresh = heap.allocate(77_777);
            // SAFETY: a block of that size.
            let zero = unsafe { std::slice::from_raw_parts(fresh, 77_777) }
                .iter()
                .all(|&b| b == 0);
            seen && nested && zero && same(1)
        }));
        assert!(same(0), "the child's writes reached its parent");
    }
}

#[test]
fn regions_follow_their_policy() {
    if !alone("regions_follow_their_policy") {
        return;
    }
    let mut copied = Region::new(10_000, copying()).unwrap();
    let mut dropped = Region::new(4096, Policy::prefer(Level::Hidden)).unwrap();
    copied.fill(7);
    dropped.fill(8);
    assert!(in_child(|| {
        let seen = copied.iter().all(|&b| b == 7) && dropped.iter().all(|&b| b == 0);
        copied.fill(1);
        dropped.fill(1);
        seen
    }));
    assert!(copied.iter().all(|&b| b == 7));
    assert!(dropped.iter().all(|&b| b == 8));

    let denied = Region::new(1, Policy::prefer(Level::Hidden).on_fork(ForkPolicy::Deny)).unwrap();
    // SAFETY: no child comes of it.
    assert_eq!(unsafe { libc::fork() }, -1);
    assert_eq!(
        std::io::Error::last_os_error().raw_os_error(),
        Some(libc::EPERM)
    );
    drop(denied);
    assert!(in_child(|| true));
}

#[test]
fn concealed_memory_stays_where_it_is_and_is_copied() {
    if !alone("concealed_memory_stays_where_it_is_and_is_copied") {
        return;
    }
    if keeper::probe(keeper::SECRETMEM).is_err() {
        eprintln!("SKIPPED: no memfd_secret on this kernel");
        return;
    }
    let len = 5 * 4096;
    // SAFETY: a new mapping.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    let start = start.cast::<u8>();
    // SAFETY: mapped above.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start, len) };
    bytes[4096..].fill(9);
    let range = start as usize..start as usize + len;
    // SAFETY: nobody else uses the range.
    let outcome = unsafe { strongroom::conceal::conceal(range, keeper::SECRETMEM, Child::Copy) };
    assert_eq!(outcome.unwrap().secret, len);
    assert!(bytes[..4096].iter().all(|&b| b == 0) && bytes[4096..].iter().all(|&b| b == 9));
    let mut secret = false;
    strongroom_sys::maps::each(|mapping| {
        secret |= mapping.start == start as usize && mapping.is_secretmem();
        true
    })
    .unwrap();
    assert!(secret, "the mapping is not secret memory");
    assert!(in_child(|| {
        let seen = bytes[4096..].iter().all(|&b| b == 9);
        bytes.fill(1);
        seen
    }));
    assert!(bytes[4096..].iter().all(|&b| b == 9));
}

#[test]
fn a_parent_with_busy_threads_forks() {
    if !alone("a_parent_with_busy_threads_forks") {
        return;
    }
    let heap = strongroom::heap::global();
    heap.start(copying()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 1..=3u8 {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let blocks: Vec<_> = (0..200usize)
                        .map(|n| (heap.allocate(n * 17), n * 17))
                        .collect();
                    for (block, size) in blocks {
                        // SAFETY: a block of that size, freed once.
                        unsafe {
                            block.write_bytes(seed, size);
                            heap.free(block);
                        }
                    }
                }
            });
        }
        for _ in 0..100 {
            assert!(in_child(|| {
                // Free memory must be zero in the child too, whatever the threads were writing.
                (0..2000usize).all(|n| {
                    let size = n % 700;
                    let block = heap.allocate(size);
                    // SAFETY: a block of that size.
                    !block.is_null()
                        && unsafe { std::slice::from_raw_parts(block, size) }
                            .iter()
                            .all(|&b| b == 0)
                })
            }));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
