//! What people read, 100 columns wide: kinds of memory down, adversaries across.

use super::groups::{Group, Groups};
use super::text::{head as cut, plain, size, tail};
use crate::style::{BOLD, CYAN, DIM, GREEN, RED, YELLOW};
use crate::wrap::wrap;
use anstyle::Style;
use std::io::{self, Write};
use strongroom_probe::audit::{Audit, Entry, Hole, Kind, Outcome, Severity, Tally};
use strongroom_probe::exposure::{Adversary, Reach};

const WIDTH: usize = 100;
const NAME: usize = 14;
const NUMBER: usize = 9;
const CELL: usize = 9;

/// A column's heading.
const fn heading(adversary: Adversary) -> &'static str {
    match adversary {
        Adversary::SameUser => "user",
        Adversary::Root => "root",
        Adversary::CoreDump => "core",
        Adversary::Swap => "swap",
        Adversary::ForkChild => "fork",
        Adversary::Pin => "pin",
        Adversary::DirectMap => "direct",
    }
}

/// How it gets there, in a few words.
const fn by(adversary: Adversary) -> &'static str {
    match adversary {
        Adversary::SameUser => "/proc/PID/mem, ptrace, process_vm_readv",
        Adversary::Root => "the same; and by injected code, everything",
        Adversary::CoreDump => "a crash, or gcore by the same user",
        Adversary::Swap => "the swap device, a hibernation image",
        Adversary::ForkChild => "a fork by the kernel",
        Adversary::Pin => "vmsplice, O_DIRECT, io_uring's buffers",
        Adversary::DirectMap => "the kernel's own mapping of memory",
    }
}

/// Whom it is about.
pub(super) fn head(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    let process = &audit.process;
    let command = if process.command.is_empty() {
        process.name.clone()
    } else {
        process.command.join(" ")
    };
    let command = cut(&plain(&command), WIDTH - 30);
    let (pid, user) = (process.pid, process.user());
    writeln!(
        out,
        "{BOLD}process {pid}{BOLD:#} of user {user}: {command}\n"
    )
}

/// Above the lines of mappings.
pub(super) fn list_head(out: &mut impl Write) -> io::Result<()> {
    let letters: Vec<_> = Adversary::ALL.map(heading).to_vec();
    writeln!(
        out,
        "{BOLD}{:26}{:7}{:11}{:>7}  {:8}name{BOLD:#}",
        "mapping", "access", "kind", "present", "who"
    )?;
    writeln!(
        out,
        "{DIM}who, from left to right: {}{DIM:#}",
        letters.join(", ")
    )
}

/// A mapping.
pub(super) fn line(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    const USED: usize = 26 + 7 + 11 + 7 + 2 + 8;
    let mapping = &entry.mapping;
    let range = format!("{:x}-{:x}", mapping.start, mapping.end);
    let access = String::from_utf8_lossy(&mapping.access);
    write!(
        out,
        "{range:26}{access:7}{:11}{:>7}  ",
        entry.kind.name(),
        size(entry.present())
    )?;
    for adversary in Adversary::ALL {
        let reach = entry.exposure.as_ref().map(|e| e.get(adversary).reach);
        let (style, sign) = match reach {
            None => (DIM, '·'),
            Some(Reach::Unknown) => (YELLOW, '?'),
            Some(Reach::OutOfReach) => (GREEN, '○'),
            // Nothing of it can be a secret.
            Some(Reach::Reachable) if entry.own == 0 => (DIM, '●'),
            Some(Reach::Reachable) => (RED, '●'),
        };
        write!(out, "{style}{sign}{style:#}")?;
    }
    let name = plain(&String::from_utf8_lossy(&mapping.name));
    writeln!(out, " {}", tail(&name, WIDTH.saturating_sub(USED)))
}

/// The table, and what it comes to.
pub(super) fn result(
    out: &mut impl Write,
    audit: &Audit,
    groups: &Groups,
    outcome: &Outcome,
) -> io::Result<()> {
    if let Some(partial) = &outcome.partial {
        for line in wrap(&format!("Only a part: {}.", plain(partial)), WIDTH) {
            writeln!(out, "{YELLOW}{line}{YELLOW:#}")?;
        }
        writeln!(out)?;
    }
    table(out, groups)?;
    legend(out, audit)?;
    summary(out, &outcome.summary)?;
    holes(out, &outcome.holes)?;
    if !audit.as_root {
        writeln!(
            out,
            "\nRoot can see more, and try the direct map: sudo strongroom audit {}",
            audit.process.pid
        )?;
    }
    Ok(())
}

fn table(out: &mut impl Write, groups: &Groups) -> io::Result<()> {
    write!(
        out,
        "{BOLD}{:NAME$}{:>NUMBER$}{:>NUMBER$}  ",
        "memory", "mappings", "pages"
    )?;
    let [adversaries @ .., last] = Adversary::ALL;
    for adversary in adversaries {
        write!(out, "{:CELL$}", heading(adversary))?;
    }
    writeln!(out, "{}{BOLD:#}", heading(last))?;
    let counted = |group: &&Group| group.own > 0;
    for group in groups.0.iter().filter(counted) {
        row(out, group)?;
    }
    // What holds nothing of the process's own.
    let present = groups
        .0
        .iter()
        .map(|group| group.present.saturating_sub(group.own));
    let [.., reserved] = &groups.0;
    let rest = format!(
        "not counted: {} of code and unchanged pages of files, {} of reserved address space",
        size(present.sum()),
        size(reserved.size)
    );
    for line in wrap(&rest, WIDTH) {
        writeln!(out, "{DIM}{line}{DIM:#}")?;
    }
    writeln!(out)
}

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Stack => "stacks",
        Kind::Program => "program data",
        Kind::Library => "library data",
        Kind::File => "other files",
        Kind::Kernel => "kernel",
        other => other.name(),
    }
}

fn row(out: &mut impl Write, group: &Group) -> io::Result<()> {
    write!(
        out,
        "{:NAME$}{:>NUMBER$}{:>NUMBER$}  ",
        label(group.kind),
        group.counted,
        size(group.own)
    )?;
    let [tallies @ .., last] = &group.tallies;
    for tally in tallies {
        let (style, text) = cell(tally);
        write!(out, "{style}{text:CELL$}{style:#}")?;
    }
    let (style, text) = cell(last);
    writeln!(out, "{style}{text}{style:#}")
}

fn cell(tally: &Tally) -> (Style, String) {
    let of = [&tally.reachable, &tally.unknown, &tally.out_of_reach].map(|amount| amount.bytes);
    match of {
        [0, 0, 0] => (DIM, "·".to_owned()),
        [0, 0, _] => (GREEN, "○".to_owned()),
        [0, bytes, _] => (YELLOW, format!("? {}", size(bytes))),
        [_, 0, 0] => (RED, "●".to_owned()),
        [bytes, ..] => (RED, format!("◐ {}", size(bytes))),
    }
}

fn legend(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    writeln!(
        out,
        "{RED}●{RED:#} in reach   {RED}◐{RED:#} so much of it in reach   {GREEN}○{GREEN:#} out of reach   \
         {YELLOW}?{YELLOW:#} cannot be told   {DIM}·{DIM:#} nothing there"
    )?;
    let direct = match &audit.inferred {
        None => "direct was read through the kernel, on some pages of each mapping; the other columns are \
                 inferred from /proc."
            .to_owned(),
        Some(why) => format!(
            "All is inferred from /proc; direct could not be read: {}.",
            plain(why)
        ),
    };
    for line in wrap(&direct, WIDTH) {
        writeln!(out, "{DIM}{line}{DIM:#}")?;
    }
    Ok(())
}

fn summary(out: &mut impl Write, summary: &[Tally]) -> io::Result<()> {
    writeln!(
        out,
        "\n{BOLD}{:NAME$}{:>NUMBER$}{:>NUMBER$}{:>NUMBER$}{BOLD:#}",
        "who reaches", "in reach", "out of", "unknown"
    )?;
    for tally in summary {
        let amounts = [&tally.reachable, &tally.out_of_reach, &tally.unknown].map(|a| a.bytes);
        write!(out, "{:NAME$}", tally.adversary.name())?;
        for (bytes, style) in amounts.into_iter().zip([RED, GREEN, YELLOW]) {
            let style = if bytes == 0 { DIM } else { style };
            write!(out, "{style}{:>NUMBER$}{style:#}", size(bytes))?;
        }
        writeln!(out, "  {DIM}{}{DIM:#}", by(tally.adversary))?;
    }
    Ok(())
}

fn holes(out: &mut impl Write, holes: &[Hole]) -> io::Result<()> {
    const SEVERITY: usize = 8;
    const FIX: &str = "fix: ";
    if holes.is_empty() {
        return writeln!(out, "\n{GREEN}No hole was found.{GREEN:#}");
    }
    writeln!(out, "\n{BOLD}holes{BOLD:#}")?;
    for hole in holes {
        let style = match hole.severity {
            Severity::High => RED,
            Severity::Medium => YELLOW,
            Severity::Low => DIM,
        };
        let mut severity = hole.severity.name();
        for line in wrap(&plain(&hole.what), WIDTH - SEVERITY) {
            writeln!(out, "{style}{severity:SEVERITY$}{style:#}{line}")?;
            severity = "";
        }
        let mut label = FIX;
        for way in plain(&hole.fix).split("; ") {
            for line in wrap(way, WIDTH - SEVERITY - FIX.len()) {
                let pad = FIX.len();
                writeln!(out, "{:SEVERITY$}{CYAN}{label:pad$}{CYAN:#}{line}", "")?;
                label = "";
            }
        }
    }
    Ok(())
}
