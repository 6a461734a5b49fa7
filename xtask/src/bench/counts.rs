//! What can be counted: system calls and page faults.

use super::report::{Group, Row, Target};
use super::samples::{Samples, progress};
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
                peer: "plain",
                unit: "",
                theirs,
                ours,
                target: Target::None,
            });
        }
    };
    let repeated = |what, command: &dyn Fn() -> Command| {
        medians(bench, what, 1.0, || Ok((command(), None)))
    };
    rows(
        "true",
        repeated("counts, true", &|| workshop.plain("true"))?,
        repeated("counts, run -- true", &|| workshop.protected("true"))?,
    );
    let difference = |what, command: &dyn Fn() -> Command, fixed: &[&str], short: u32| {
        let with = |times: u32| {
            let mut command = command();
            command.args(fixed).arg((short * times).to_string());
            command
        };
        medians(bench, what, f64::from(short), || Ok((with(2), Some(with(1)))))
    };
    let fixed = ["32", "1", "1000"];
    rows(
        "32 B working set, an operation",
        difference("counts, malloc", &|| workshop.plain(&malloc), &fixed, 1_000_000)?,
        difference("counts, malloc, ours", &|| workshop.protected(&malloc), &fixed, 1_000_000)?,
    );
    rows(
        "fork with 1 MiB in use",
        difference("counts, fork", &|| workshop.plain(&fork), &["1"], 50)?,
        difference("counts, fork, ours", &|| workshop.protected(&fork), &["1"], 50)?,
    );
    Ok(group)
}

/// The counts of each round's first command, less the second's where there is one, by `per`.
fn medians(
    bench: &Bench,
    what: &str,
    per: f64,
    commands: impl Fn() -> Result<(Command, Option<Command>)>,
) -> Result<[Samples; 3]> {
    let mut samples: [Samples; 3] = core::array::from_fn(|_| Samples::default());
    for round in 0..bench.rounds {
        progress(what, round, bench.rounds);
        let (whole, less) = commands()?;
        let whole = count(bench, &whole)?;
        let less = less.map_or(Ok([0.0; 3]), |command| count(bench, &command))?;
        for ((samples, whole), less) in samples.iter_mut().zip(whole).zip(less) {
            samples.0.push((whole - less) / per);
        }
    }
    progress(what, bench.rounds, bench.rounds);
    Ok(samples)
}

/// Runs a command and counts the events.
fn count(bench: &Bench, command: &Command) -> Result<[f64; 3]> {
    let file = bench.workshop.path().join("counts");
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", &EVENTS.join(","), "-o"])
        .arg(&file)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    process::output(&mut perf)?;
    let text = std::fs::read_to_string(&file)?;
    let mut counts = [0.0; 3];
    for (event, count) in EVENTS.into_iter().zip(&mut counts) {
        let line = text.lines().find(|line| line.split(',').nth(2) == Some(event));
        *count = line
            .and_then(|line| line.split(',').next()?.parse().ok())
            .ok_or_else(|| format!("perf did not count {event} of {:?}", command.get_program() as &OsStr))?;
    }
    Ok(counts)
}
