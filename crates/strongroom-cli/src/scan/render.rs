//! What people read: hits by key, and under each by mapping, 100 columns wide.

use crate::style::{BOLD, DIM, GREEN, RED, YELLOW};
use std::fmt::Write as _;
use std::io::{self, Write};
use strongroom_probe::scan::{Hit, Place, Report, Subject, Target};
use strongroom_probe::size::size;

/// Hits of one mapping that are told one by one; the others are counted.
const MOST: usize = 20;
/// Bytes of a hit in one line.
const ROW: usize = 32;

/// Writes all of it.
pub(super) fn report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let target = match &report.target {
        Target::Process { pid, name } => format!("process {pid} ({name})"),
        Target::Core { path } => format!("core {path}"),
        Target::File { path } => format!("file {path}"),
    };
    writeln!(out, "{BOLD}{target}{BOLD:#}")?;
    for (index, subject) in report.subjects.iter().enumerate() {
        if subject.hits > 0 {
            writeln!(out)?;
            group(out, report, index, subject)?;
        }
    }
    writeln!(out)?;
    for subject in report.subjects.iter().filter(|subject| subject.hits == 0) {
        writeln!(out, "{GREEN}not found{GREEN:#} {}", title(subject))?;
    }
    coverage(out, report)?;
    verdict(out, report)
}

fn title(subject: &Subject) -> String {
    let mut title = match (&subject.given, subject.algorithm.as_str()) {
        (Some(given), "pattern") => given.clone(),
        (Some(given), algorithm) => format!("{given} ({algorithm})"),
        (None, "") => "a key that does not tell whose it is".to_owned(),
        (None, algorithm) => format!("a key that was not given ({algorithm})"),
    };
    if let Some(fingerprint) = &subject.fingerprint {
        let _ = write!(title, " {fingerprint}");
    }
    title
}

fn group(out: &mut impl Write, report: &Report, index: usize, subject: &Subject) -> io::Result<()> {
    writeln!(out, "{RED}FOUND{RED:#} {BOLD}{}{BOLD:#}", title(subject))?;
    let hits: Vec<&Hit> = report
        .hits
        .iter()
        .filter(|hit| hit.subject == index)
        .collect();
    for group in hits.chunk_by(|one, other| one.place == other.place) {
        let first = group.first().and_then(|hit| report.places.get(hit.place?));
        place(out, first)?;
        for hit in group.iter().take(MOST) {
            let (address, length) = (hit.address, hit.length);
            writeln!(out, "    {address:#014x} {length:>6} B  {}", hit.what)?;
            for row in hit.bytes.iter().flat_map(|bytes| bytes.chunks(ROW)) {
                writeln!(out, "      {DIM}{}{DIM:#}", hexadecimal(row))?;
            }
        }
        if let Some(more @ 1..) = group.len().checked_sub(MOST) {
            writeln!(
                out,
                "    {DIM}… and {more} more here (--json has all){DIM:#}"
            )?;
        }
    }
    Ok(())
}

fn place(out: &mut impl Write, place: Option<&Place>) -> io::Result<()> {
    let Some(place) = place else {
        return writeln!(out, "  in no segment of the core");
    };
    let name = match place.name.as_str() {
        "" => "(no name)",
        name => name,
    };
    let (start, end) = (place.start, place.end);
    writeln!(
        out,
        "  {start:x}-{end:x} {} {BOLD}{name}{BOLD:#}",
        place.access
    )?;
    if let Some(exposure) = &place.exposure {
        let reached: Vec<_> = exposure
            .reached_by()
            .map(|adversary| adversary.name())
            .collect();
        if reached.is_empty() {
            writeln!(out, "    {DIM}reached by nobody{DIM:#}")?;
        } else {
            let list = reached.join(", ");
            writeln!(out, "    {YELLOW}reached by{YELLOW:#} {list}")?;
        }
    }
    Ok(())
}

fn coverage(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let coverage = &report.coverage;
    writeln!(out, "searched: {}", size(coverage.scanned))?;
    if coverage.unreadable > 0 {
        writeln!(
            out,
            "not readable: {} in {} mappings (secret memory)",
            size(coverage.unreadable),
            coverage.unreadable_mappings
        )?;
    }
    if coverage.absent > 0 {
        let why = match report.target {
            Target::Process { .. } => "mapped and never touched",
            _ => "not in the dump",
        };
        writeln!(out, "{DIM}{why}: {}{DIM:#}", size(coverage.absent))?;
    }
    for gap in &report.gaps {
        writeln!(out, "{YELLOW}partial{YELLOW:#} {gap}")?;
    }
    if report.omitted > 0 {
        writeln!(
            out,
            "{YELLOW}{} more hits are not told{YELLOW:#}",
            report.omitted
        )?;
    }
    Ok(())
}

fn verdict(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let hits = report.hits.len();
    let (style, text) = match (hits, report.complete) {
        (0, true) => (
            GREEN,
            "Nothing was found in anything that can be read.".to_owned(),
        ),
        (0, false) => (
            YELLOW,
            "Nothing was found, but not all could be seen.".to_owned(),
        ),
        (1, _) => (RED, "1 hit.".to_owned()),
        _ => (RED, format!("{hits} hits.")),
    };
    writeln!(out, "\n{style}{text}{style:#}")
}

/// Two digits a byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
