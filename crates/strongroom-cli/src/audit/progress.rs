//! A bar on a terminal, by how much of the process's memory was seen.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use strongroom_probe::audit::Entry;

const WIDTH: usize = 30;
/// A short audit shows none.
const PATIENCE: Duration = Duration::from_millis(300);
const BETWEEN: Duration = Duration::from_millis(50);

pub(super) struct Progress {
    /// What the process has present, in bytes; 0 where nothing is to be shown.
    whole: u64,
    seen: u64,
    mappings: u64,
    due: Instant,
    shown: bool,
}

impl Progress {
    pub(super) fn new(pid: i32) -> Self {
        let whole = if io::stderr().is_terminal() {
            present(pid).unwrap_or_default()
        } else {
            0
        };
        Self {
            whole,
            seen: 0,
            mappings: 0,
            due: Instant::now() + PATIENCE,
            shown: false,
        }
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        self.seen += entry.present();
        self.mappings += 1;
        if self.whole == 0 || Instant::now() < self.due {
            return;
        }
        self.due = Instant::now() + BETWEEN;
        self.shown = true;
        let part = (self.seen.min(self.whole) as f64 / self.whole as f64 * WIDTH as f64) as usize;
        let bar = "█".repeat(part);
        // Whoever cannot be told goes on without.
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{bar:░<WIDTH$} {} mappings",
            self.mappings
        );
    }

    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// The second number of /proc/PID/statm, in bytes.
fn present(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
