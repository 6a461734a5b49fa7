//! The table that people read, 80 columns wide.

use super::check::{Check, Part, Report, Status};
use crate::style::{BOLD, CYAN, DIM, GREEN, RED, YELLOW};
use crate::wrap::wrap;
use anstyle::Style;
use std::io::{self, Write};
use strongroom_core::Level;

const WIDTH: usize = 80;
const STATUS: usize = 9;
const NAME: usize = 16;
/// Where values start.
const INDENT: usize = 2 + STATUS + NAME;

const fn style(status: Status) -> Style {
    match status {
        Status::Ok => GREEN,
        Status::Limited => YELLOW,
        Status::Missing => RED,
    }
}

/// Writes all of it.
pub(super) fn table(out: &mut impl Write, report: &Report) -> io::Result<()> {
    for part in Part::ALL {
        writeln!(out, "{BOLD}{}{BOLD:#}", part.heading())?;
        for check in report.checks.iter().filter(|check| check.part == part) {
            row(out, check)?;
        }
        writeln!(out)?;
    }
    verdict(out, report)
}

fn row(out: &mut impl Write, check: &Check) -> io::Result<()> {
    let style = style(check.status);
    let word = check.status.word();
    let mut lines = wrap(&check.value, WIDTH - INDENT).into_iter();
    let first = lines.next().unwrap_or_default();
    let name = check.name;
    writeln!(out, "  {style}{word:STATUS$}{style:#}{name:NAME$}{first}")?;
    for line in lines {
        writeln!(out, "{:INDENT$}{line}", "")?;
    }
    for line in wrap(&check.why, WIDTH - INDENT) {
        writeln!(out, "{:INDENT$}{DIM}{line}{DIM:#}", "")?;
    }
    check.fix.as_deref().map_or(Ok(()), |text| fix(out, text))
}

/// The ways to mend it, each on a line of its own that can be copied.
fn fix(out: &mut impl Write, text: &str) -> io::Result<()> {
    const LABEL: &str = "fix: ";
    let style = CYAN;
    let mut label = LABEL;
    for way in text.split("; ") {
        for line in wrap(way, WIDTH - INDENT - LABEL.len()) {
            let pad = LABEL.len();
            writeln!(out, "{:INDENT$}{style}{label:pad$}{style:#}{line}", "")?;
            label = "";
        }
    }
    Ok(())
}

/// What it comes to.
fn verdict(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let (status, text) = if report.blocked_by.is_empty() {
        match report.level {
            Some(Level::Hidden | Level::Closed) => (
                Status::Ok,
                "`strongroom run` reaches the level hidden here: secrets leave the kernel's direct map, and \
                 cannot be read or pinned from outside, not even by root, short of injecting code."
                    .to_owned(),
            ),
            Some(Level::Locked) => (
                Status::Limited,
                "`strongroom run` reaches the level locked here: secrets are never swapped, dumped, \
                 shared with a child or left behind, but root and the kernel can read them."
                    .to_owned(),
            ),
            None => (
                Status::Missing,
                "`strongroom run` cannot keep secrets here: no keeper works.".to_owned(),
            ),
        }
    } else {
        (
            Status::Missing,
            format!(
                "`strongroom run` starts no program here without --best-effort, because of: {}.",
                report.blocked_by.join(", ")
            ),
        )
    };
    let style = style(status);
    for line in wrap(&text, WIDTH) {
        writeln!(out, "{style}{line}{style:#}")?;
    }
    let short = report
        .checks
        .iter()
        .filter(|check| check.fix.is_some())
        .count();
    match short {
        0 => Ok(()),
        1 => writeln!(out, "1 fix above."),
        _ => writeln!(out, "{short} fixes above."),
    }
}
