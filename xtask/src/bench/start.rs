//! Starting a program.

use super::report::{Group, Row, Target};
use super::samples::{Side, interleave};
use super::{Bench, Result, process};
use std::process::Command;
use std::time::Instant;

const METHOD: &str = "\
`strongroom run -- true` beside `true`: from starting the process until it has been waited for; each round is the median \
of several starts.";

/// How much longer a start may take, in milliseconds.
const MOST: f64 = 15.0;
const STARTS: usize = 15;

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let start = |make: &dyn Fn() -> Command| -> Result<f64> {
        let mut times = super::samples::Samples::default();
        for _ in 0..STARTS {
            let begin = Instant::now();
            process::output(&mut make())?;
            times.0.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times.median())
    };
    let plain: Side<'_> = Box::new(|| start(&|| bench.workshop.plain("true")));
    let protected: Side<'_> = Box::new(|| start(&|| bench.workshop.protected("true")));
    let [theirs, ours] = interleave("start", bench.rounds.max(21), [plain, protected])?;
    Ok(Group {
        plot: None,
        title: "Start",
        method: METHOD,
        rows: vec![Row {
            what: "run -- true".to_owned(),
            peer: "true".into(),
            unit: "ms",
            theirs,
            ours,
            target: Target::More(MOST),
        }],
        notes: Vec::new(),
    })
}
