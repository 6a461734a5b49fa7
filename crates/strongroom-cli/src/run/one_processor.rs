//! While the verifier watches, it and the program take turns: at each system call one waits for
//! the other. On one processor that is a switch; between two it is an interrupt and a wake-up,
//! and a start takes twice as long.

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// The program's own processors, while it has one of them.
pub(super) struct OneProcessor {
    program: Pid,
    before: CpuSet,
}

impl OneProcessor {
    /// Puts the calling process and the program on the processor that this runs on. `None` where
    /// there is nothing to be gained or the kernel refuses; nothing is changed then.
    pub(super) fn share(program: i32) -> Option<Self> {
        let program = Pid::from_raw(program)?;
        let before = sched_getaffinity(Some(program)).ok()?;
        let here = sched_getcpu();
        if before.count() < 2 || !before.is_set(here) {
            return None;
        }
        let mut one = CpuSet::new();
        one.set(here);
        sched_setaffinity(None, &one).ok()?;
        sched_setaffinity(Some(program), &one).ok()?;
        Some(Self { program, before })
    }

    /// Gives the program its processors back: before it runs any code of its own.
    ///
    /// # Errors
    /// ESRCH where the program is gone.
    pub(super) fn end(&self) -> Result<(), Errno> {
        sched_setaffinity(Some(self.program), &self.before)
    }
}
