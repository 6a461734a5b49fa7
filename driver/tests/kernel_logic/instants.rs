//! Signals, stops and forks at any instant of a mapping's life.

use crate::object::{Object, alone, free_bytes, state};
use crate::process::{in_child, start, wait};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};

const P: usize = PAGE as usize;

/// Maps, fills, checks, cuts and unmaps, so many times.
fn live(turns: usize) {
    for turn in 0..turns {
        let bytes = [3 * PAGE, HUGE_PAGE + PAGE, 40 * PAGE][turn % 3];
        let map = Object::with_mode(Mode::EXCLUSIVE, bytes).map().unwrap();
        let fill = turn as u8 | 1;
        for page in map.bytes_mut().chunks_mut(P) {
            assert_eq!((page[0], page[P - 1]), (0, 0));
            page[0] = fill;
            page[P - 1] = fill;
        }
        map.unmap(P, P).unwrap();
        for page in [0, 2] {
            let page = &map.bytes()[page * P..][..P];
            assert_eq!((page[0], page[P - 1]), (fill, fill));
        }
    }
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn signals_interrupt_nothing() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let code = in_child(|| {
        let every = libc::timeval {
            tv_sec: 0,
            tv_usec: 200,
        };
        let timer = libc::itimerval {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: the handler counts and does nothing else; without SA_RESTART calls end with EINTR.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(i32) as usize;
            assert_eq!(
                libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()),
                0
            );
            assert_eq!(
                libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()),
                0
            );
        }
        while SIGNALS.load(Ordering::Relaxed) < 300 {
            live(6);
        }
        0
    });
    assert_eq!(code, 0);
    assert_eq!(free_bytes(), before);
}

#[test]
fn stops_lose_nothing() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let child = start(|| {
        live(300);
        0
    });
    for _ in 0..100 {
        for signal in [libc::SIGSTOP, libc::SIGCONT] {
            // SAFETY: the test's own child, which was not waited for.
            unsafe { libc::kill(child, signal) };
            std::thread::yield_now();
        }
    }
    assert_eq!(wait(child), 0);
    assert_eq!(free_bytes(), before);
}

#[test]
fn a_child_made_at_any_instant_has_none_of_it() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let done = AtomicBool::new(false);
    let held = Object::with_mode(Mode::EXCLUSIVE, HUGE_PAGE + 9 * PAGE)
        .map()
        .unwrap();
    held.bytes_mut().fill(0x5c);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    live(3);
                }
            });
        }
        let mut seen = 0;
        for _ in 0..60 {
            // SAFETY: the child calls the kernel alone.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let secret = of_the_driver(b"/proc/self/maps\0");
                // SAFETY: it ends the process.
                unsafe { libc::_exit(i32::from(secret != Some(false))) };
            }
            assert!(child > 0);
            assert_eq!(wait(child), 0);
            // The control: this process's list has them.
            seen += usize::from(of_the_driver(b"/proc/self/maps\0") == Some(true));
        }
        assert_eq!(seen, 60);
        done.store(true, Ordering::Relaxed);
    });
    assert!(held.bytes().iter().all(|&byte| byte == 0x5c));
    drop(held);
    assert_eq!(free_bytes(), before);
    assert_eq!(state("objects"), 0);
}

/// Whether a list of mappings names the driver; without an allocation, which a child of several threads
/// should not need.
fn of_the_driver(path: &[u8]) -> Option<bool> {
    const NAME: &[u8] = b"/dev/strongroom";
    let mut text = [0_u8; 256 << 10];
    let mut used = 0;
    // SAFETY: a C string, and a buffer of that length.
    unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        loop {
            let read = libc::read(fd, text[used..].as_mut_ptr().cast(), text.len() - used);
            match usize::try_from(read) {
                Ok(0) => break,
                Ok(read) => used += read,
                Err(_) => return None,
            }
        }
        libc::close(fd);
    }
    let found = text[..used].windows(NAME.len()).any(|part| part == NAME);
    (used > 0 && used < text.len()).then_some(found)
}
