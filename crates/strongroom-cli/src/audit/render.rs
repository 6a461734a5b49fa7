//! The report that people read, 100 columns wide: kinds of memory down, adversaries across.

use super::words::{printable, size};
use anstyle::{AnsiColor, Style};
use std::io::{self, Write};
use strongroom_probe::audit::{Audit, Audited, Group, Measured, Severity};
use strongroom_probe::exposure::{Adversary, Reach};

const WIDTH: usize = 100;
const PAGE: u64 = 4096;
const KIND: usize = 11;
const COUNT: usize = 6;
const SIZE: usize = 10;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

const fn coloured(color: AnsiColor) -> Style {
    Style::new()
        .bold()
        .fg_color(Some(anstyle::Color::Ansi(color)))
}

const GREEN: Style = coloured(AnsiColor::Green);
const RED: Style = coloured(AnsiColor::Red);
const YELLOW: Style = coloured(AnsiColor::Yellow);
const CYAN: Style = coloured(AnsiColor::Cyan);

/// Writes all of it; with `all`, every mapping too.
pub(super) fn report(out: &mut impl Write, audit: &Audit, all: bool) -> io::Result<()> {
    heading(out, audit)?;
    table(out, audit)?;
    if all {
        mappings(out, audit)?;
    }
    holes(out, audit)?;
    notes(out, audit)
}

fn heading(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    let process = &audit.process;
    let (name, pid, user) = (printable(&process.name), process.pid, process.user());
    writeln!(
        out,
        "{BOLD}{name}{BOLD:#} (PID {pid}, user {user}): {} of its own, in {} mappings\n",
        size(audit.own_pages() * PAGE),
        audit.mappings.len()
    )
}

fn width(adversary: Adversary) -> usize {
    adversary.name().len().max(8) + 1
}

fn table(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    write!(
        out,
        "{BOLD}{:KIND$}{:COUNT$}{:SIZE$}",
        "memory", "maps", "own"
    )?;
    for adversary in Adversary::ALL {
        let width = width(adversary);
        write!(out, "{:width$}", adversary.name())?;
    }
    writeln!(out, "{BOLD:#}")?;
    for group in Group::ALL {
        let members: Vec<_> = audit
            .mappings
            .iter()
            .filter(|mapping| mapping.group == group)
            .collect();
        if !members.is_empty() {
            row(out, group, &members)?;
        }
    }
    write!(out, "{BOLD}{:KIND$}{:COUNT$}{:SIZE$}", "reachable", "", "")?;
    for total in &audit.totals {
        let width = width(total.adversary);
        write!(out, "{:width$}", size(total.reachable_bytes))?;
    }
    writeln!(out, "{BOLD:#}")?;
    writeln!(
        out,
        "\n{RED}REACH{RED:#} all of it   {YELLOW}mixed{YELLOW:#} some of it   {GREEN}kept{GREEN:#} none of it   \
         {YELLOW}?{YELLOW:#} cannot be told   {DIM}–{DIM:#} nothing of its own there"
    )
}

fn row(out: &mut impl Write, group: Group, members: &[&Audited]) -> io::Result<()> {
    let own: u64 = members.iter().map(|mapping| mapping.own_pages).sum();
    let (name, count) = (group.name(), members.len());
    write!(out, "{name:KIND$}{count:<COUNT$}{:SIZE$}", size(own * PAGE))?;
    for adversary in Adversary::ALL {
        let (style, word) = cell(members, adversary);
        let width = width(adversary);
        write!(out, "{style}{word:width$}{style:#}")?;
    }
    writeln!(out)
}

/// What an adversary has of the own pages of some mappings.
fn cell(members: &[&Audited], adversary: Adversary) -> (Style, &'static str) {
    let any = |reach| {
        members
            .iter()
            .any(|mapping| mapping.own_pages > 0 && mapping.exposure.get(adversary).reach == reach)
    };
    match (
        any(Reach::Reachable),
        any(Reach::OutOfReach),
        any(Reach::Unknown),
    ) {
        (false, false, false) => (DIM, "–"),
        (true, false, false) => (RED, "REACH"),
        (false, true, false) => (GREEN, "kept"),
        (true, ..) => (YELLOW, "mixed"),
        (false, _, true) => (YELLOW, "?"),
    }
}

/// A line for each mapping: a letter for each adversary that reaches it.
fn mappings(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    let letters: Vec<_> = Adversary::ALL.into_iter().map(letter).collect();
    writeln!(
        out,
        "\n{BOLD}{:33}{:6}{:10}{:10}{:9}name{BOLD:#}",
        "mapping", "may", "present", "own", "reached"
    )?;
    for audited in &audit.mappings {
        let mapping = &audited.mapping;
        let range = format!("{:012x}-{:012x}", mapping.start, mapping.end);
        let access = String::from_utf8_lossy(&mapping.access);
        let name = printable(&String::from_utf8_lossy(&mapping.name));
        let present = size(audited.present_pages * PAGE);
        let own = size(audited.own_pages * PAGE);
        write!(out, "{DIM}{range:33}{DIM:#}{access:6}{present:10}{own:10}")?;
        for (letter, (_, finding)) in letters.iter().zip(audited.exposure.iter()) {
            let (style, shown) = match finding.reach {
                _ if audited.own_pages == 0 => (DIM, '–'),
                Reach::Reachable => (RED, *letter),
                Reach::OutOfReach => (GREEN, '·'),
                Reach::Unknown => (YELLOW, '?'),
            };
            write!(out, "{style}{shown}{style:#}")?;
        }
        let kind = audited.group.name();
        if name.is_empty() {
            writeln!(out, "  {DIM}{kind}{DIM:#}")?;
        } else {
            writeln!(out, "  {name}")?;
        }
    }
    let legend: Vec<_> = letters
        .iter()
        .zip(Adversary::ALL)
        .map(|(letter, adversary)| format!("{letter} {}", adversary.name()))
        .collect();
    writeln!(out, "{DIM}{}   · kept{DIM:#}", legend.join("   "))
}

fn letter(adversary: Adversary) -> char {
    match adversary {
        Adversary::SameUser => 'U',
        Adversary::Root => 'R',
        Adversary::CoreDump => 'C',
        Adversary::Swap => 'S',
        Adversary::ForkChild => 'F',
        Adversary::Pin => 'P',
        Adversary::DirectMap => 'D',
    }
}

fn holes(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    const LABEL: usize = 8;
    if audit.holes.is_empty() {
        return writeln!(
            out,
            "\n{GREEN}No hole of the whole process was found.{GREEN:#}"
        );
    }
    writeln!(out, "\n{BOLD}holes{BOLD:#}")?;
    for hole in &audit.holes {
        let (style, word) = match hole.severity {
            Severity::High => (RED, "high"),
            Severity::Medium => (YELLOW, "medium"),
            Severity::Low => (DIM, "low"),
        };
        let mut label = word;
        let text = format!("{}: {}", hole.hole, printable(&hole.what));
        for line in wrap(&text, WIDTH - LABEL - 2) {
            writeln!(out, "  {style}{label:LABEL$}{style:#}{line}")?;
            label = "";
        }
        for (place, fix) in hole.fixes.iter().enumerate() {
            let label = if place == 0 { "fix:" } else { "or:" };
            writeln!(
                out,
                "  {:LABEL$}{CYAN}{label:5}{CYAN:#}{}",
                "",
                printable(fix)
            )?;
        }
    }
    Ok(())
}

fn notes(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    writeln!(out)?;
    let direct_map = match &audit.direct_map {
        Measured::Mappings(count) => {
            format!("direct-map: measured on pages of {count} mappings; the rest is inferred.")
        }
        Measured::Inferred(why) => format!("direct-map: inferred, not measured ({why})."),
    };
    let injection = "Not counted: code that root injects, which reaches everything.".to_owned();
    for note in [direct_map, injection] {
        for line in wrap(&note, WIDTH) {
            writeln!(out, "{DIM}{line}{DIM:#}")?;
        }
    }
    match &audit.partial {
        Some(why) => writeln!(out, "{YELLOW}This is not all of it: {why}.{YELLOW:#}"),
        None => Ok(()),
    }
}

/// Breaks `text` into lines at blanks; a word longer than a line has a line to itself.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}
