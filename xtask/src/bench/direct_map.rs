//! What becomes of the kernel's direct map.

use super::report::{Group, Row, Target};
use super::samples::{Samples, progress};
use super::{Bench, Result, process};
use std::process::Command;

const METHOD: &str = "\
`xtask/bench-programs/direct_map.c`: 64 MiB in blocks of 32 KiB to 1 MiB, all touched, then all freed, ten times, in one \
process. What counts is in how many of the ten rounds `DirectMap4k` of /proc/meminfo grew. The kernel never joins what it has \
split until the next boot, so a machine where secret memory was used before may show no growth at all.";

const ROUNDS: usize = 10;

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let program = bench.workshop.compile("direct_map", "direct_map", &[])?;
    let series = |mut command: Command| -> Result<Vec<f64>> {
        let text = process::output(command.args(["64", &ROUNDS.to_string()]))?;
        Ok(text
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?)
    };
    progress("direct map", 0, 2);
    let ours = series(bench.workshop.protected(&program))?;
    progress("direct map", 1, 2);
    let theirs = series(bench.workshop.plain(&program))?;
    progress("direct map", 2, 2);
    let growths = |series: &[f64]| {
        let grew = series.windows(2).filter(|pair| pair[1] > pair[0]).count();
        Samples(vec![grew as f64])
    };
    let growth = |series: &[f64]| match series {
        [first, .., last] => Samples(vec![last - first]),
        _ => Samples::default(),
    };
    let list: Vec<_> = ours.iter().map(f64::to_string).collect();
    Ok(Group {
        plot: None,
        title: "Direct map",
        method: METHOD,
        rows: vec![
            Row {
                what: "rounds of ten in which DirectMap4k grew".to_owned(),
                peer: "glibc".into(),
                unit: "",
                theirs: growths(&theirs),
                ours: growths(&ours),
                target: Target::AtMost(1.0),
            },
            Row {
                what: "growth over all ten rounds".to_owned(),
                peer: "glibc".into(),
                unit: "KiB",
                theirs: growth(&theirs),
                ours: growth(&ours),
                target: Target::Difference,
            },
        ],
        notes: vec![format!(
            "DirectMap4k before and after each round, KiB: {}.",
            list.join(" ")
        )],
    })
}
