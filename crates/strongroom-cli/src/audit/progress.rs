//! How much of the process's memory was seen.

use crate::progress::Bar;
use strongroom_probe::audit::Entry;

pub(super) struct Progress {
    /// What the process has present, in bytes.
    whole: u64,
    seen: u64,
    mappings: u64,
    bar: Bar,
}

impl Progress {
    pub(super) fn new(pid: i32) -> Self {
        let bar = Bar::new();
        let whole = if bar.is_seen() { present(pid) } else { None };
        Self {
            whole: whole.unwrap_or_default(),
            seen: 0,
            mappings: 0,
            bar,
        }
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        self.seen += entry.present();
        self.mappings += 1;
        let text = format_args!("{} mappings", self.mappings);
        self.bar.show(self.seen, self.whole, text);
    }

    pub(super) fn clear(&mut self) {
        self.bar.clear();
    }
}

/// The second number of /proc/PID/statm, in bytes.
fn present(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
