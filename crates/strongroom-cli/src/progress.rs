//! A bar on a terminal, for work that takes long.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: u64 = 30;
/// Short work shows none, and long work not all the time.
const PAUSE: Duration = Duration::from_millis(100);

/// The bar; nothing where standard error is no terminal.
pub(crate) struct Bar {
    is_terminal: bool,
    last: Instant,
    shown: bool,
}

impl Bar {
    pub(crate) fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            last: Instant::now(),
            shown: false,
        }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_seen(&self) -> bool {
        self.is_terminal
    }

    /// So much of so much is done.
    pub(crate) fn show(&mut self, done: u64, total: u64, text: impl fmt::Display) {
        if !self.is_terminal || self.last.elapsed() < PAUSE {
            return;
        }
        self.last = Instant::now();
        self.shown = true;
        let part = u128::from(done.min(total)) * u128::from(WIDTH);
        let full = part.checked_div(u128::from(total)).unwrap_or(0);
        let bar: String = (0..u128::from(WIDTH))
            .map(|at| if at < full { '█' } else { '░' })
            .collect();
        // Whoever cannot be told goes on without.
        let _ = write!(io::stderr(), "\r\x1b[K{bar} {text}");
    }

    /// Takes it away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
