//! Waiting on a word that two processes or threads share.

use crate::Errno;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use rustix::thread::futex;

/// Sleeps until `word` is woken, differs from `value` already, or `timeout` has passed. The
/// word may be shared between processes.
///
/// # Errors
/// EAGAIN where the word differs, ETIMEDOUT, EINTR.
pub fn wait(word: &AtomicU32, value: u32, timeout: Duration) -> Result<(), Errno> {
    let timeout = futex::Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    futex::wait(word, futex::Flags::empty(), value, Some(&timeout))
}

/// Wakes everyone who waits on `word`.
///
/// # Errors
/// None in practice.
pub fn wake_all(word: &AtomicU32) -> Result<(), Errno> {
    futex::wake(word, futex::Flags::empty(), i32::MAX as u32)?;
    Ok(())
}
