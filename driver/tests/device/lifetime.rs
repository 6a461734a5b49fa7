//! When pages are given back: as soon as nothing maps them, wiped.

use crate::object::{Map, Object, alone, errno, free_bytes, state};
use crate::process::{in_child, start, until, wait};
use std::os::fd::AsRawFd;
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const P: usize = PAGE as usize;
const H: usize = HUGE_PAGE as usize;

/// An object that is full of something, and its mapping.
fn full(bytes: u64) -> (Object, Map) {
    let object = Object::with_mode(Mode::EXCLUSIVE, bytes);
    let map = object.map().unwrap();
    map.bytes_mut().fill(0xc3);
    (object, map)
}

/// All that the pool has left is zero.
fn all_free_memory_is_zero() {
    let mut maps = Vec::new();
    loop {
        let size = state("largest_free");
        if size == 0 {
            break;
        }
        let map = Object::with_mode(Mode::EXCLUSIVE, size).map().unwrap();
        let words = map.bytes().chunks_exact(8);
        assert!(words.clone().all(|word| word == [0; 8]));
        maps.push(map);
    }
    assert_eq!(free_bytes(), 0);
}

#[test]
fn a_part_that_is_unmapped_goes_back_and_the_rest_stays() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let (_object, map) = full(8 * PAGE);
    map.unmap(2 * P, 3 * P).unwrap();
    assert_eq!(free_bytes(), before - 5 * PAGE);
    for page in [0, 1, 5, 6, 7] {
        assert!(
            map.bytes()[page * P..][..P]
                .iter()
                .all(|&byte| byte == 0xc3)
        );
    }
    map.unmap(0, P).unwrap();
    map.unmap(7 * P, P).unwrap();
    assert_eq!(free_bytes(), before - 3 * PAGE);
    assert!(
        map.bytes()[5 * P..][..2 * P]
            .iter()
            .all(|&byte| byte == 0xc3)
    );
    drop(map);
    assert_eq!(free_bytes(), before);
    all_free_memory_is_zero();
}

#[test]
fn a_part_of_a_huge_entry_that_is_unmapped_leaves_the_rest_readable() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let (_object, map) = full(3 * HUGE_PAGE);
    map.unmap(H + P, P).unwrap();
    assert_eq!(free_bytes(), before - 3 * HUGE_PAGE + PAGE);
    assert!(map.bytes()[..H + P].iter().all(|&byte| byte == 0xc3));
    assert!(map.bytes()[H + 2 * P..].iter().all(|&byte| byte == 0xc3));
    drop(map);
    assert_eq!(free_bytes(), before);
}

#[test]
fn mprotect_cuts_and_loses_nothing() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    for bytes in [8 * PAGE, 2 * HUGE_PAGE] {
        let (_object, map) = full(bytes);
        let protect = |from: usize, bytes, protection| {
            // SAFETY: the test's own mapping.
            let result =
                unsafe { libc::mprotect((map.address() + from) as *mut _, bytes, protection) };
            assert_eq!(result, 0, "{}", errno());
        };
        protect(2 * P, P, libc::PROT_NONE);
        protect(4 * P, P, libc::PROT_READ);
        assert_eq!(free_bytes(), before - bytes);
        let at = |page: usize| (map.address() + page * P) as *const u8;
        assert!(!is_readable(at(2)) && is_readable(at(1)) && is_readable(at(4)));
        protect(2 * P, P, RW);
        protect(4 * P, P, RW);
        assert!(map.bytes().iter().all(|&byte| byte == 0xc3));
        map.bytes_mut().fill(0x3c);
        assert!(map.bytes().iter().all(|&byte| byte == 0x3c));
        drop(map);
        assert_eq!(free_bytes(), before);
    }
}

/// Whether the kernel can read a byte there for this process.
fn is_readable(byte: *const u8) -> bool {
    let (_reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the kernel checks the address.
    let written = unsafe { libc::write(writer.as_raw_fd(), byte.cast(), 1) };
    assert!(written == 1 || errno() == libc::EFAULT);
    written == 1
}

#[test]
fn a_mapping_that_moves_keeps_its_pages() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    for bytes in [5 * PAGE, 2 * HUGE_PAGE] {
        let (object, map) = full(bytes);
        drop(object);
        let (old, len) = (map.leak(), bytes as usize);
        // To a place that is another mapping's, which goes.
        let (_target, other) = full(bytes);
        let place = other.leak();
        // SAFETY: both are the test's own mappings.
        let moved = unsafe {
            libc::mremap(
                old as *mut _,
                len,
                len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                place as *mut libc::c_void,
            )
        };
        assert_eq!(moved as usize, place);
        assert_eq!(free_bytes(), before - bytes);
        // SAFETY: it is mapped there now.
        let contents = unsafe { std::slice::from_raw_parts(place as *const u8, len) };
        assert!(contents.iter().all(|&byte| byte == 0xc3));
        // A part moves away from the middle.
        // SAFETY: as above; the place is of the kernel's choice.
        let part = unsafe {
            let free = libc::mmap(
                std::ptr::null_mut(),
                P,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            libc::mremap(
                (place + P) as *mut _,
                P,
                P,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                free,
            )
        };
        assert_ne!(part, libc::MAP_FAILED);
        assert_eq!(free_bytes(), before - bytes);
        // SAFETY: it is mapped.
        assert_eq!(unsafe { *part.cast::<u8>() }, 0xc3);
        // SAFETY: the test's own mappings; there is a hole in the first.
        unsafe {
            libc::munmap(place as *mut _, len);
            assert_eq!(free_bytes(), before - PAGE);
            libc::munmap(part, P);
        }
        assert_eq!(free_bytes(), before);
    }
    all_free_memory_is_zero();
}

#[test]
fn shrinking_gives_back_and_growing_is_refused() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let (_object, map) = full(4 * PAGE);
    let remap = |old: usize, new: usize, flags| {
        // SAFETY: the test's own mapping; where it does not move, it is the same.
        let result = unsafe { libc::mremap(map.address() as *mut _, old, new, flags) };
        if result == libc::MAP_FAILED {
            Err(errno())
        } else {
            Ok(())
        }
    };
    assert_eq!(remap(4 * P, 8 * P, libc::MREMAP_MAYMOVE), Err(libc::EFAULT));
    // A second mapping by way of mremap's size 0.
    assert_eq!(remap(0, 4 * P, libc::MREMAP_MAYMOVE), Err(libc::EFAULT));
    let stay = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    assert_eq!(remap(4 * P, 4 * P, stay), Err(libc::EINVAL));
    assert_eq!(remap(4 * P, P, 0), Ok(()));
    assert_eq!(free_bytes(), before - PAGE);
    drop(map);
    assert_eq!(free_bytes(), before);
}

#[test]
fn a_mapping_put_over_it_ends_it() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let (_object, map) = full(4 * PAGE);
    // SAFETY: over the test's own mapping.
    let over = unsafe {
        libc::mmap(
            map.address() as *mut _,
            map.len(),
            RW,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    assert_eq!(over as usize, map.address());
    assert_eq!(free_bytes(), before);
    assert!(map.bytes().iter().all(|&byte| byte == 0));
}

#[test]
fn pages_that_two_mappings_have_stay_until_both_are_gone() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let (object, map) = full(4 * PAGE);
    let other = object.map_as(PAGE, 2 * PAGE, RW, libc::MAP_SHARED).unwrap();
    drop(map);
    assert_eq!(free_bytes(), before - 2 * PAGE);
    assert!(other.bytes().iter().all(|&byte| byte == 0xc3));
    // What is gone is not mapped again; what is there is.
    let again = object.map_as(0, PAGE, RW, libc::MAP_SHARED);
    assert_eq!(again.map(|_| ()), Err(libc::ENXIO));
    let third = object.map_as(2 * PAGE, PAGE, RW, libc::MAP_SHARED).unwrap();
    drop(other);
    assert_eq!(free_bytes(), before - PAGE);
    assert_eq!(third.bytes()[0], 0xc3);
    drop(third);
    assert_eq!(free_bytes(), before);
    let again = object.map_as(0, 4 * PAGE, RW, libc::MAP_SHARED);
    assert_eq!(again.map(|_| ()), Err(libc::ENXIO));
    all_free_memory_is_zero();
}

#[test]
fn whatever_ends_a_process_gives_all_of_it_back_wiped() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let hold = || {
        let (object, map) = full(HUGE_PAGE + 3 * PAGE);
        (object, map.leak())
    };
    assert_eq!(in_child(|| i32::from(hold().1 == 0)), 0);
    assert_eq!(free_bytes(), before);
    let child = start(|| {
        hold();
        loop {
            std::thread::park();
        }
    });
    until(|| free_bytes() < before);
    // SAFETY: the test's own child.
    unsafe { libc::kill(child, libc::SIGKILL) };
    assert_eq!(wait(child), 128 + libc::SIGKILL);
    assert_eq!(free_bytes(), before);
    assert_eq!(state("objects"), 0);
    all_free_memory_is_zero();
}

#[test]
fn a_huge_object_is_cut_at_its_entries_only() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let small = state("small_entries");
    let object = Object::with_mode(Mode::EXCLUSIVE | Mode::HUGE, 3 * HUGE_PAGE);
    let map = object.map().unwrap();
    map.bytes_mut().fill(1);
    assert_eq!(map.unmap(P, P), Err(libc::EINVAL));
    assert_eq!(map.unmap(0, H + P), Err(libc::EINVAL));
    // SAFETY: the test's own mapping.
    let result = unsafe { libc::mprotect(map.address() as *mut _, P, libc::PROT_NONE) };
    assert_eq!((result, errno()), (-1, libc::EINVAL));
    // Nor does it move to where no such entry can be.
    let odd = map.address() + 8 * H + P;
    // SAFETY: as above; nothing is mapped at the target, or it is refused before.
    let moved = unsafe {
        libc::mremap(
            map.address() as *mut _,
            H,
            H,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            odd as *mut libc::c_void,
        )
    };
    assert_eq!((moved, errno()), (libc::MAP_FAILED, libc::EINVAL));
    map.unmap(H, H).unwrap();
    assert_eq!(free_bytes(), before - 2 * HUGE_PAGE);
    assert!(map.bytes()[..H].iter().all(|&byte| byte == 1));
    assert_eq!(state("small_entries"), small);
}

#[test]
fn a_process_that_asks_to_be_told_of_writes_can_write() {
    let Some(_alone) = alone() else { return };
    for mode in [Mode::EXCLUSIVE, Mode::EXCLUSIVE | Mode::HUGE] {
        let status = in_child(|| {
            let map = Object::with_mode(mode, 2 * HUGE_PAGE).map().unwrap();
            map.bytes_mut()[0] = 1;
            // The second block has no entry yet when this forgets all writes.
            std::fs::write("/proc/self/clear_refs", "4").unwrap();
            // SAFETY: an alarm ends this process if a write never comes to its end.
            unsafe { libc::alarm(60) };
            map.bytes_mut().fill(2);
            i32::from(!map.bytes().iter().all(|&byte| byte == 2))
        });
        assert_eq!(status, 0);
    }
}
