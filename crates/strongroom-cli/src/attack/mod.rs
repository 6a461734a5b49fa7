//! `strongroom attack`: attackers against victims, and what that proves.

mod guest;
mod program;
mod region;
mod render;

use crate::args::{AttackArgs, VictimArg};
use crate::failure::{self, Failure};
use crate::json;
use crate::locate;
use std::io::{self, IsTerminal, Write};
use strongroom_core::Level;
use strongroom_probe::attack::{NotFound, Report, Selection, Setup, SetupError, Verdict};
use strongroom_probe::victim::{self, Kind};

/// The exit status of a proof that is void.
const VOID: u8 = 3;

/// Makes the attacks and prints what came of them.
pub(crate) fn run(args: &AttackArgs) -> Result<u8, Failure> {
    let selection = Selection::of(&args.only).map_err(|unknown| {
        let names = unknown.names.join(", ");
        Failure::new(unknown.to_string(), format!("name some of: {names}"))
    })?;
    let selection = selection.at(args.level.map(Level::from));
    let program = program::of(args)?;
    let command = std::env::current_exe()
        .map_err(|error| Failure::new(format!("strongroom does not find itself: {error}"), ""))?;
    let unprepared = |error: SetupError| {
        Failure::new(
            error.to_string(),
            "name a directory that can be written by TMPDIR",
        )
    };
    let mut setup = Setup::new(&command).map_err(unprepared)?;
    let mut progress = Progress::new();
    match program {
        Some(program) => {
            setup.attack_program(program).map_err(unprepared)?;
            progress.show("a first start", "plain");
            let rehearsed = setup.rehearse();
            progress.clear();
            rehearsed.map_err(not_found)?;
        }
        None => {
            region::visitors()
                .chain(guest::visitors())
                .for_each(|visitor| setup.invite(visitor));
        }
    }
    let report = Report::of(&setup, &selection, |attack, victim| {
        progress.show(attack, victim);
    });
    progress.clear();
    if report.victims.is_empty() {
        return Err(Failure::new(
            "none of these attacks is made on these victims",
            "attacks on guests need no program and no --level; see strongroom attack --help",
        ));
    }
    let root = setup.is_root();
    // Its directory goes now: whoever reads the table may close the pipe, which ends this process.
    drop(setup);
    print(&report, root, args.json)
        .map_err(|error| Failure::new(format!("the results cannot be written: {error}"), ""))?;
    Ok(match report.verdict() {
        Verdict::Proven => 0,
        Verdict::Leaked => 1,
        Verdict::Void => VOID,
        Verdict::Broken => failure::STATUS,
    })
}

/// There is nothing to attack: no proof can be had.
fn not_found(why: NotFound) -> Failure {
    match &why {
        NotFound::Start(_, error) => {
            let status = match error.kind() {
                io::ErrorKind::NotFound => locate::NOT_FOUND,
                _ => locate::NOT_EXECUTABLE,
            };
            Failure::new(
                why.to_string(),
                "see that the user can run it whom `strongroom attack --help` names",
            )
            .with_status(status)
        }
        NotFound::Secret(_) => Failure::new(
            format!("the plain program does not show its secret: {why}"),
            "see that it runs by itself and has the secret in memory; give it longer by --wait",
        )
        .with_status(VOID),
    }
}

/// Lives as a victim; returns its exit status.
pub(crate) fn victim(victim: VictimArg, kvm: Option<i32>) -> u8 {
    if let Some(kept) = guest::Kept::of(victim) {
        return victim::live_with_guest(|| guest::Machine::new(kept, kvm));
    }
    let kind = match victim {
        VictimArg::Plain => Kind::Plain,
        VictimArg::Locked => Kind::Locked,
        VictimArg::OpenFd => Kind::OpenFd,
        _ => return victim::live(&region::Regions::of(victim)),
    };
    victim::live(kind.store().as_ref())
}

fn print(report: &Report, root: bool, as_json: bool) -> io::Result<()> {
    if as_json {
        return json::print(report);
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
