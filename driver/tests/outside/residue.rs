//! What is left in the machine's memory when secret memory ends, by whatever ends it.

use crate::memory::{Outside, Pattern, pool};
use crate::object::{Object, alone, free_bytes, state};
use crate::process::{start, until, wait};
use std::os::fd::AsRawFd;
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};

const P: usize = PAGE as usize;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Memory with the pattern in each page.
fn full(pattern: &Pattern, mode: Mode, bytes: u64) -> crate::object::Map {
    let map = Object::with_mode(mode, bytes).map().unwrap();
    pattern.write(map.address(), map.len() / P);
    map
}

fn kill(child: i32) {
    // SAFETY: the test's own child, which was not waited for.
    unsafe { libc::kill(child, libc::SIGKILL) };
    assert_eq!(wait(child), 128 + libc::SIGKILL);
}

/// A child that has done something, and waits to be killed.
fn ready(work: impl FnOnce()) -> i32 {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = start(|| {
        work();
        // SAFETY: a byte.
        unsafe { libc::write(writer.as_raw_fd(), [1_u8].as_ptr().cast(), 1) };
        loop {
            std::thread::park();
        }
    });
    drop(writer);
    std::io::Read::read_exact(&mut reader, &mut [0]).unwrap();
    child
}

/// The control: what is seen of ordinary memory, of a process that lives and of one that was killed.
#[test]
fn ordinary_memory_is_seen_from_outside_also_after_its_process_was_killed() {
    let Some(_alone) = alone() else { return };
    let Some(mut outside) = Outside::connect() else {
        return;
    };
    // The kernel may need the pages before they are looked at.
    let found = (0..10).any(|_| {
        let pattern = Pattern::new();
        let child = ready(|| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let map = crate::object::map(-1, 0, 64 * PAGE, RW, flags).unwrap();
            pattern.write(map.address(), 64);
            std::mem::forget(map);
        });
        assert_eq!(outside.count_elsewhere(&pattern), 64);
        assert_eq!(outside.count_in_pool(&pattern), 0);
        kill(child);
        outside.count_elsewhere(&pattern) > 0
    });
    assert!(found, "an ordinary page of a killed process was never seen");
}

/// The other control: the pool is seen while it is held, and there is no second place that has its contents.
#[test]
fn secret_memory_is_seen_from_outside_in_the_pool_and_nowhere_else() {
    let Some(_alone) = alone() else { return };
    let Some(mut outside) = Outside::connect() else {
        return;
    };
    for (mode, bytes) in [
        (Mode::EXCLUSIVE, 50 * PAGE),
        (Mode::EXCLUSIVE | Mode::HUGE, HUGE_PAGE),
        (Mode::EXCLUSIVE | Mode::UNCACHED, 9 * PAGE),
        (Mode::EXCLUSIVE | Mode::WRITE_COMBINING, 9 * PAGE),
    ] {
        let pattern = Pattern::new();
        let map = full(&pattern, mode, bytes);
        assert_eq!(outside.count_in_pool(&pattern), map.len() / P, "{mode:?}");
        assert_eq!(outside.count_elsewhere(&pattern), 0, "{mode:?}");
        // munmap returns when it is wiped.
        map.unmap(0, map.len()).unwrap();
        assert_eq!(outside.count_in_pool(&pattern), 0, "{mode:?}");
    }
}

#[test]
fn whatever_ends_it_nothing_is_left() {
    let Some(_alone) = alone() else { return };
    let Some(mut outside) = Outside::connect() else {
        return;
    };
    let before = free_bytes();
    let pattern = Pattern::new();
    let bytes = HUGE_PAGE + 5 * PAGE;
    // A mapping over it.
    let map = full(&pattern, Mode::EXCLUSIVE, bytes);
    // SAFETY: over the test's own mapping.
    unsafe {
        libc::mmap(
            map.address() as *mut _,
            map.len(),
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    assert_eq!(outside.count_in_pool(&pattern), 0);
    drop(map);
    // A part: the rest stays.
    let map = full(&pattern, Mode::EXCLUSIVE, bytes);
    map.unmap(P, 100 * P).unwrap();
    assert_eq!(outside.count_in_pool(&pattern), map.len() / P - 100);
    // mremap that shrinks.
    let address = map.leak();
    // SAFETY: the test's own mapping, of which the beginning stays.
    let left = unsafe { libc::mremap(address as *mut _, P, P, 0) };
    assert_eq!(left as usize, address);
    // SAFETY: as above.
    unsafe { libc::munmap(address as *mut _, bytes as usize) };
    assert_eq!(outside.count_in_pool(&pattern), 0);
    // Exit, a signal, exec, each of a process of its own.
    let ends: [(&str, fn(), i32); 3] = [
        ("exit", || (), 0),
        (
            "abort",
            || {
                // SAFETY: it ends the process.
                unsafe { libc::abort() }
            },
            128 + libc::SIGABRT,
        ),
        (
            "exec",
            || {
                let arguments = [c"/bin/busybox".as_ptr(), c"true".as_ptr(), std::ptr::null()];
                // SAFETY: C strings, and a null at the end.
                unsafe { libc::execv(arguments[0], arguments.as_ptr()) };
            },
            0,
        ),
    ];
    for (name, end, expected) in ends {
        let child = start(|| {
            std::mem::forget(full(&pattern, Mode::EXCLUSIVE, bytes));
            end();
            0
        });
        assert_eq!(wait(child), expected, "{name}");
        assert_eq!(outside.count_in_pool(&pattern), 0, "{name}");
    }
    assert_eq!(free_bytes(), before);
}

/// What a process does until it is killed, with the pattern in everything that it has.
fn everything(pattern: &Pattern) -> i32 {
    std::thread::scope(|scope| {
        for number in 0..3_u64 {
            scope.spawn(move || {
                let mut turn = number;
                loop {
                    turn += 1;
                    one_turn(pattern, turn);
                }
            });
        }
    });
    0
}

fn one_turn(pattern: &Pattern, turn: u64) {
    let sizes = [PAGE, 7 * PAGE, 60 * PAGE, HUGE_PAGE, HUGE_PAGE + 3 * PAGE];
    let bytes = sizes[(turn % 5) as usize];
    let object = Object::with_mode(Mode::EXCLUSIVE, bytes);
    let map = object.map().unwrap();
    pattern.write(map.address(), map.len() / P);
    let half = map.len() / P / 2 * P;
    match turn % 7 {
        0 => map.unmap(0, half.max(P)).unwrap(),
        1 => {
            let again = object.map_as(0, PAGE, RW, libc::MAP_SHARED).unwrap();
            pattern.write(again.address(), 1);
        }
        2 => {
            let status = crate::process::in_child(|| 0);
            assert_eq!(status, 0);
        }
        3 => {
            // SAFETY: the test's own mapping.
            unsafe { libc::mprotect(map.address() as *mut _, P, libc::PROT_NONE) };
        }
        4 if half > 0 => {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let place = crate::object::map(-1, 0, bytes, libc::PROT_NONE, flags)
                .unwrap()
                .leak();
            // SAFETY: both are the test's own mappings.
            unsafe {
                libc::mremap(
                    map.address() as *mut _,
                    half,
                    half,
                    libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                    place as *mut libc::c_void,
                );
                libc::munmap(place as *mut _, bytes as usize);
            }
        }
        5 => drop(object),
        _ => {
            let (_reader, writer) = std::io::pipe().unwrap();
            // A page of zeros, but for the pattern, would be a copy outside of the pool.
            let zeros = map.address() + 1024;
            // SAFETY: within the first page.
            unsafe { libc::write(writer.as_raw_fd(), zeros as *const _, 512) };
        }
    }
}

#[test]
fn killed_in_the_middle_of_everything_it_leaves_nothing() {
    const ROUNDS: u32 = 12;
    let Some(_alone) = alone() else { return };
    let Some(mut outside) = Outside::connect() else {
        return;
    };
    let total = free_bytes();
    let pattern = Pattern::new();
    let mut seen = 0;
    for round in 0..ROUNDS {
        let child = start(|| everything(&pattern));
        until(|| free_bytes() < total);
        // Wherever it is then; each time somewhere else.
        std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 7919));
        if round % 4 == 0 {
            // Stopped, it is seen: what is looked for is there until the end.
            // SAFETY: the test's own child.
            unsafe { libc::kill(child, libc::SIGSTOP) };
            seen += outside.count_in_pool(&pattern);
        }
        kill(child);
        // Its children hold nothing, and may take a moment to go.
        assert_eq!(free_bytes(), total, "round {round}");
        assert_eq!(state("objects"), 0, "round {round}");
        assert_eq!(outside.count_in_pool(&pattern), 0, "round {round}");
    }
    assert!(seen > 0, "no look at a stopped process saw the pattern");
    // Nor did the kernel copy any of it elsewhere.
    assert_eq!(outside.count_elsewhere(&pattern), 0);
}

#[test]
fn the_pool_is_where_the_kernel_says_it_was_set_aside() {
    let Some(_alone) = alone() else { return };
    let size: u64 = pool().iter().map(|range| range.end - range.start).sum();
    assert_eq!(size, state("total"));
    let map = std::fs::read_to_string("/proc/iomem").unwrap();
    for range in pool() {
        let line = format!("{:08x}-{:08x} : strongroom", range.start, range.end - 1);
        assert!(map.contains(&line), "{line} is not in\n{map}");
    }
}
