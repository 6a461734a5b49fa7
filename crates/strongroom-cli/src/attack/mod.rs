//! `strongroom attack`: attackers against victims, and what that proves.

mod render;

use crate::args::AttackArgs;
use crate::failure::{self, Failure};
use std::io::{self, IsTerminal, Write};
use strongroom_core::Level;
use strongroom_probe::attack::{Report, Selection, Setup, Verdict};

/// Makes the attacks and prints what came of them.
pub(crate) fn run(args: &AttackArgs) -> Result<u8, Failure> {
    let selection = Selection::of(&args.only).map_err(|unknown| {
        let names = unknown.names.join(", ");
        Failure::new(unknown.to_string(), format!("name some of: {names}"))
    })?;
    let selection = selection.at(args.level.map(Level::from));
    let command = std::env::current_exe()
        .map_err(|error| Failure::new(format!("strongroom does not find itself: {error}"), ""))?;
    let setup = Setup::new(&command).map_err(|error| {
        Failure::new(
            error.to_string(),
            "name a directory that can be written by TMPDIR",
        )
    })?;
    let mut progress = Progress::new();
    let report = Report::of(&setup, &selection, |attack, victim| {
        progress.show(attack, victim);
    });
    progress.clear();
    let root = setup.is_root();
    // Its directory goes now: whoever reads the table may close the pipe, which ends this process.
    drop(setup);
    print(&report, root, args.json)
        .map_err(|error| Failure::new(format!("the results cannot be written: {error}"), ""))?;
    Ok(match report.verdict() {
        Verdict::Proven => 0,
        Verdict::Leaked => 1,
        Verdict::Void => 3,
        Verdict::Broken => failure::STATUS,
    })
}

fn print(report: &Report, root: bool, json: bool) -> io::Result<()> {
    if json {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, report)?;
        out.write_all(b"\n")?;
        return out.flush();
    }
    // It drops the colours where they go to no terminal, or NO_COLOR is set.
    let mut out = anstream::stdout().lock();
    render::table(&mut out, report, root)?;
    out.flush()
}

/// A line on a terminal that says what is being tried.
struct Progress {
    shown: bool,
}

impl Progress {
    fn new() -> Self {
        Self {
            shown: io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, attack: &str, victim: &str) {
        if self.shown {
            // Whoever cannot be told goes on without.
            let _ = write!(io::stderr(), "\r\x1b[K{attack} on {victim} …");
        }
    }

    fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
