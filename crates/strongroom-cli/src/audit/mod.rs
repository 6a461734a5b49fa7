//! `strongroom audit`: who reaches what of a running process.

mod html;
mod render;
mod words;

use crate::args::AuditArgs;
use crate::failure::Failure;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use strongroom_probe::audit::Audit;
use strongroom_probe::exposure::Refusal;

/// What is left where the process went away.
const PARTIAL: u8 = 1;

/// Audits a process and prints what was found.
pub(crate) fn run(args: &AuditArgs) -> Result<u8, Failure> {
    let mut progress = Progress::new();
    let audit = Audit::of(args.pid, |done, total| progress.show(done, total));
    progress.clear();
    let audit = audit.map_err(|refusal| failure(&refusal))?;
    if let Some(path) = &args.html {
        html::write(path, &audit).map_err(|error| {
            Failure::new(
                format!("{}: {error}", path.display()),
                "name a file in a directory that you may write",
            )
        })?;
    }
    print(&audit, args)
        .map_err(|error| Failure::new(format!("the results cannot be written: {error}"), ""))?;
    Ok(if audit.partial.is_some() { PARTIAL } else { 0 })
}

fn failure(refusal: &Refusal) -> Failure {
    let fix = match refusal {
        Refusal::Absent(_) => "`ps -e` lists the processes",
        Refusal::KernelThread { .. } => {
            "name a process of a program; `ps -e` has kernel threads too"
        }
        Refusal::Zombie { .. } | Refusal::Ended(_) | Refusal::Replaced(_) => {
            "name a process that still runs"
        }
        Refusal::Denied { .. } => {
            "run it as root: another user's process, or one that is not dumpable, shows its mappings to nobody else"
        }
        Refusal::Io { .. } | Refusal::Line { .. } => "",
    };
    Failure::new(words::printable(&refusal.to_string()), fix)
}

fn print(audit: &Audit, args: &AuditArgs) -> io::Result<()> {
    if args.json {
        let mut out = io::BufWriter::new(io::stdout().lock());
        serde_json::to_writer_pretty(&mut out, audit)?;
        out.write_all(b"\n")?;
        return out.flush();
    }
    // It drops the colours where they go to no terminal, or NO_COLOR is set.
    let mut out = anstream::stdout().lock();
    render::report(&mut out, audit, args.all)?;
    out.flush()
}

/// A bar on a terminal, for large processes.
struct Progress {
    shown: bool,
    last: Option<Instant>,
}

impl Progress {
    fn new() -> Self {
        Self {
            shown: io::stderr().is_terminal(),
            last: None,
        }
    }

    fn show(&mut self, done: u64, total: u64) {
        const EVERY: Duration = Duration::from_millis(50);
        const WIDTH: u64 = 30;
        if !self.shown || self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let full = (done * WIDTH).checked_div(total).unwrap_or_default();
        let bar = "█".repeat(full as usize) + &"░".repeat((WIDTH - full) as usize);
        let (done, total) = (words::size(done), words::size(total));
        // Whoever cannot be told goes on without.
        let _ = write!(io::stderr(), "\r\x1b[K{bar} {done} of {total}");
    }

    fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
