//! Who gets how much, and that what was granted is there.

use crate::object::{Map, Object, alone, errno, free_bytes, skip, state};
use crate::process::{as_user, in_child};
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};

fn memlock(bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: the limit is alive.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
}

fn take(bytes: u64) -> Result<Map, i32> {
    Object::with_mode(Mode::EXCLUSIVE, bytes).map()
}

/// A number of /proc/self/status in bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn the_limit_of_locked_memory_counts_and_is_given_back() {
    let Some(_alone) = alone() else { return };
    let refused = state("refused_limit");
    let code = in_child(|| {
        memlock(4 * PAGE);
        as_user();
        let map = take(3 * PAGE).unwrap();
        assert_eq!(status("VmPin:"), 3 * PAGE);
        assert_eq!(take(2 * PAGE).map(|_| ()), Err(libc::EAGAIN));
        let last = take(PAGE).unwrap();
        assert_eq!(take(PAGE).map(|_| ()), Err(libc::EAGAIN));
        map.unmap(0, PAGE as usize).unwrap();
        drop(last);
        assert_eq!(status("VmPin:"), 2 * PAGE);
        // Together with what is locked.
        let mut page = vec![1_u8; 2 * PAGE as usize];
        let at = page.as_mut_ptr().wrapping_add(PAGE as usize);
        // SAFETY: within the vector.
        assert_eq!(unsafe { libc::mlock(at.cast(), 1) }, 0);
        assert_eq!(take(2 * PAGE).map(|_| ()), Err(libc::EAGAIN));
        drop(take(PAGE).unwrap());
        drop(map);
        assert_eq!(status("VmPin:"), 0);
        0
    });
    assert_eq!(code, 0);
    assert_eq!(state("refused_limit"), refused + 3);
    assert_eq!(state("held"), 0);
}

#[test]
fn a_user_gets_half_of_the_pool_and_root_all_of_it() {
    let Some(_alone) = alone() else { return };
    let (limit, total) = (state("user_limit"), state("total"));
    assert_eq!(limit, total / 2);
    let code = in_child(|| {
        memlock(libc::RLIM_INFINITY);
        as_user();
        let half = take(limit).unwrap();
        assert_eq!(take(PAGE).map(|_| ()), Err(libc::EDQUOT));
        // In another process of the same user, too.
        let other = in_child(|| i32::from(take(PAGE).map(|_| ()) != Err(libc::EDQUOT)));
        assert_eq!(other, 0);
        half.unmap(0, PAGE as usize).unwrap();
        drop(take(PAGE).unwrap());
        0
    });
    assert_eq!(code, 0);
    let all: Vec<Map> = std::iter::from_fn(|| {
        let size = state("largest_free");
        (size > 0).then(|| take(size).unwrap())
    })
    .collect();
    assert_eq!(free_bytes(), 0);
    drop(all);
}

#[test]
fn a_full_pool_refuses_at_mmap_and_what_it_granted_can_be_touched() {
    let Some(_alone) = alone() else { return };
    let total = free_bytes();
    let refused = state("refused_full");
    assert_eq!(take(total + PAGE).map(|_| ()), Err(libc::ENOMEM));
    // Over two ranges, as no run is so long; and nothing of it was touched before.
    let all = take(total).unwrap();
    assert_eq!(free_bytes(), 0);
    assert_eq!(take(PAGE).map(|_| ()), Err(libc::ENOMEM));
    let status = in_child(|| i32::from(take(PAGE).map(|_| ()) != Err(libc::ENOMEM)));
    assert_eq!(status, 0);
    assert_eq!(state("refused_full"), refused + 3);
    for page in all.bytes_mut().chunks_mut(PAGE as usize) {
        page[0] = 1;
    }
    drop(all);
    assert_eq!(free_bytes(), total);
}

#[test]
fn shreds_serve_a_large_object_and_no_huge_one() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    // The pool in pieces of one page and 31, of which every first one is held.
    let mut held = Vec::new();
    let mut rest = Vec::new();
    while free_bytes() >= 32 * PAGE {
        held.push(take(PAGE).unwrap());
        rest.push(take(31 * PAGE).unwrap());
    }
    drop(rest);
    assert!(state("largest_free") < 64 * PAGE);
    let huge = Object::with_mode(Mode::EXCLUSIVE | Mode::HUGE, HUGE_PAGE).map();
    assert_eq!(huge.map(|_| ()), Err(libc::ENOMEM));
    let large = take(2 * HUGE_PAGE).unwrap();
    for (number, page) in large.bytes_mut().chunks_mut(PAGE as usize).enumerate() {
        assert!(page.iter().all(|&byte| byte == 0));
        page.fill(number as u8);
    }
    for (number, page) in large.bytes().chunks(PAGE as usize).enumerate() {
        assert!(page.iter().all(|&byte| byte == number as u8));
    }
    drop(large);
    drop(held);
    assert_eq!(free_bytes(), before);
    let whole = Object::with_mode(Mode::EXCLUSIVE | Mode::HUGE, HUGE_PAGE).map();
    drop(whole.unwrap());
}

#[test]
fn mlock_has_nothing_to_do() {
    let Some(_alone) = alone() else { return };
    let code = in_child(|| {
        memlock(8 * PAGE);
        as_user();
        let map = take(4 * PAGE).unwrap();
        let at = map.address() as *const libc::c_void;
        // SAFETY: the test's own mapping.
        let results = unsafe {
            [
                libc::mlock(at, map.len()),
                libc::mlock2(at, map.len(), libc::MLOCK_ONFAULT),
                libc::munlock(at, map.len()),
                libc::mlock(at, map.len()),
            ]
        };
        assert_eq!(results, [0; 4], "{}", errno());
        assert_eq!(status("VmLck:"), 0);
        map.bytes_mut().fill(1);
        0
    });
    assert_eq!(code, 0);
    // MAP_LOCKED and MAP_POPULATE, too.
    let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
    let flags = libc::MAP_SHARED | libc::MAP_LOCKED | libc::MAP_POPULATE;
    let map = object.map_as(0, PAGE, libc::PROT_READ | libc::PROT_WRITE, flags);
    map.unwrap().bytes_mut().fill(1);
    if state("held") != 0 {
        skip("something else holds memory");
    }
}
