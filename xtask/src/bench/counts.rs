//! What can be counted: system calls and page faults.

use super::report::{Group, Row, Target};
use super::samples::{Samples, Side, interleave_several};
use super::{Bench, Result, process};
use std::ffi::OsStr;
use std::process::Command;

const METHOD: &str = "\
By `perf stat`, of the whole process tree. The start's verifier counts too, and each stop that it makes. Of `malloc` and `fork` \
it is the difference between a long and a short run, for each operation: what repeats, without the start.";

const EVENTS: [&str; 3] = ["raw_syscalls:sys_enter", "page-faults", "context-switches"];
const NAMES: [&str; 3] = ["system calls", "page faults", "context switches"];

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let workshop = &bench.workshop;
    let mut group = Group {
        plot: None,
        title: "Counts",
        method: METHOD,
        rows: Vec::new(),
        notes: Vec::new(),
    };
    if let Err(error) = count(bench, &workshop.plain("true")) {
        group.notes.push(format!(
            "Not counted: this wants root and `perf` (linux-perf): {error}"
        ));
        return Ok(group);
    }
    let malloc = workshop.compile("malloc", "malloc-count", &[])?;
    let fork = workshop.compile("fork", "fork-count", &[])?;
    let mut rows = |what: &str, theirs: [Samples; 3], ours: [Samples; 3]| {
        for ((name, theirs), ours) in NAMES.into_iter().zip(theirs).zip(ours) {
            group.rows.push(Row {
                what: format!("{what}: {name}"),
                peer: "plain".into(),
                unit: "",
                theirs,
                ours,
                target: Target::Difference,
            });
        }
    };
    let starts = [workshop.plain("true"), workshop.protected("true")]
        .map(|command| -> Side<'_, _> { Box::new(move || count(bench, &command)) });
    let [theirs, ours] = interleave_several("counts, start", bench.rounds, starts)?;
    rows("start of true", theirs, ours);
    for (what, program, fixed, times) in [
        (
            "32 B, working set, an operation",
            &malloc,
            &["32", "1", "1000"][..],
            1_000_000,
        ),
        ("a fork with 1 MiB in use", &fork, &["1"], 50),
    ] {
        let sides = [workshop.plain(program), workshop.protected(program)].map(|command| {
            let with = |factor: u32| {
                let mut whole = Command::new(command.get_program());
                whole.args(command.get_args()).args(fixed);
                whole.arg((times * factor).to_string());
                whole
            };
            let (more, less) = (with(2), with(1));
            let side: Side<'_, _> = Box::new(move || {
                let (more, less) = (count(bench, &more)?, count(bench, &less)?);
                Ok(core::array::from_fn(|i| {
                    (more[i] - less[i]) / f64::from(times)
                }))
            });
            side
        });
        let [theirs, ours] = interleave_several(&format!("counts, {what}"), bench.rounds, sides)?;
        rows(what, theirs, ours);
    }
    Ok(group)
}

/// Runs a command and counts the events.
fn count(bench: &Bench, command: &Command) -> Result<[f64; 3]> {
    let file = bench.workshop.path().join("counts");
    let mut perf = Command::new("perf");
    perf.env_remove("LD_LIBRARY_PATH");
    perf.args(["stat", "-x,", "-e", &EVENTS.join(","), "-o"])
        .arg(&file)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    process::output(&mut perf)?;
    let text = std::fs::read_to_string(&file)?;
    let mut counts = [0.0; 3];
    for (event, count) in EVENTS.into_iter().zip(&mut counts) {
        let line = text
            .lines()
            .find(|line| line.split(',').nth(2) == Some(event));
        *count = line
            .and_then(|line| line.split(',').next()?.parse().ok())
            .ok_or_else(|| {
                format!(
                    "perf did not count {event} of {:?}",
                    command.get_program() as &OsStr
                )
            })?;
    }
    Ok(counts)
}
