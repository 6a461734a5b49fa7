//! Waiting for a page's word, by futex(2).

use core::sync::atomic::AtomicU32;
use rustix::thread::futex;
use std::time::{Duration, Instant};
use strongroom_core::page::Parking;

/// How often slots are looked at before the first sleep: about as long as an access takes.
const SPINS: u32 = 100;

/// How a conversion waits for guards: it sleeps in the kernel, until the last one goes or the deadline
/// is past. The words are this process's own.
#[derive(Clone, Copy, Debug)]
pub struct Futex;

impl Parking<AtomicU32> for Futex {
    type Deadline = Instant;

    fn park(&self, word: &AtomicU32, seen: u32, deadline: Instant) -> bool {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return false;
        };
        // The kernel takes no more seconds than an i64; a longer wait is as good as endless.
        let timeout = rustix::fs::Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        // The caller looks at the word and the clock again, whatever this says.
        let _ = futex::wait(word, futex::Flags::PRIVATE, seen, Some(&timeout));
        true
    }

    fn unpark(&self, word: &AtomicU32) {
        // One conversion has the page: one waits.
        let _ = futex::wake(word, futex::Flags::PRIVATE, 1);
    }

    fn pause(&self, looks: u32, deadline: Instant) -> bool {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return false;
        };
        match looks.checked_sub(SPINS) {
            None => core::hint::spin_loop(),
            // 1, 2, 4 … µs, up to 1 ms.
            Some(sleeps) => {
                let moment = Duration::from_micros(1 << sleeps.min(10));
                std::thread::sleep(moment.min(left));
            }
        }
        true
    }
}
