//! A bar on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: u64 = 30;
const PAUSE: Duration = Duration::from_millis(100);

/// The bar; nothing where standard error is no terminal.
pub(super) struct Progress {
    is_terminal: bool,
    last: Instant,
    shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            last: Instant::now(),
            shown: false,
        }
    }

    /// So many bytes of so many are done.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        if !self.is_terminal || self.last.elapsed() < PAUSE {
            return;
        }
        self.last = Instant::now();
        self.shown = true;
        let full = (done.min(total) * WIDTH).checked_div(total).unwrap_or(0);
        let bar: String = (0..WIDTH)
            .map(|at| if at < full { '█' } else { '░' })
            .collect();
        // Whoever cannot be told goes on without.
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{bar} {} of {} MiB",
            done >> 20,
            total >> 20
        );
    }

    pub(super) fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
