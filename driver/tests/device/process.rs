//! Other processes, as tests need them.

use std::time::{Duration, Instant};

/// Runs `work` in a fork child and returns its exit status; 128 and the signal's number if one ended it.
pub(crate) fn in_child(work: impl FnOnce() -> i32) -> i32 {
    wait(start(work))
}

/// Starts `work` in a fork child.
pub(crate) fn start(work: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs the test's own code, which needs no other thread, and ends by _exit.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: it ends this process.
            unsafe { libc::_exit(status.unwrap_or(101)) }
        }
        child => child,
    }
}

/// Waits for a child's end.
pub(crate) fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is alive.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child);
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    }
}

/// Becomes number 1000, without any capability.
pub(crate) fn as_user() {
    // SAFETY: no memory is involved.
    let became = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(1000, 1000, 1000) == 0
            && libc::setresuid(1000, 1000, 1000) == 0
    };
    assert!(became);
}

/// Waits until `done` holds.
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it does not come"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
