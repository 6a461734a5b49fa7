//! Allocating, touching, wiping and freeing.

use super::report::{Group, Row, Target};
use super::samples::{Side, interleave};
use super::{Bench, Result, process};
use std::path::Path;

const METHOD: &str = "\
`xtask/bench-programs/malloc.c`: allocate, write one byte in each 64, wipe, free; nanoseconds for all four. Each thread runs \
its own loop; a run is the median of many slices of half a millisecond, the mean over the threads. glibc's blocks are wiped \
by `explicit_bzero`, or not at all where the row says *no wipe*; strongroom runs the latter program, as its heap wipes by \
itself. *Working set*: each thread keeps 1,000 blocks and replaces a random one. libsodium is `sodium_malloc`.";

/// How many times as much as glibc's the same work may take.
const MOST: f64 = 2.0;
/// How many times as fast as libsodium's it must be.
const LEAST: f64 = 1000.0;

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let workshop = &bench.workshop;
    let bare = workshop.compile("malloc", "malloc", &[])?;
    let wiping = workshop.compile("malloc", "malloc-wipe", &["-DWIPE"])?;
    let sodium = workshop.compile("malloc", "malloc-sodium", &["-DSODIUM", "-lsodium"])?;
    let mut rows = Vec::new();
    for (size, set, threads) in [
        (32, 0, 1),
        (32, 0, 2),
        (4096, 0, 1),
        (4096, 0, 2),
        (32, 1000, 1),
        (32, 1000, 2),
        (4096, 1000, 1),
        (4096, 1000, 2),
    ] {
        let what = format!(
            "{size} B, {threads} thread{}{}",
            if threads == 1 { "" } else { "s" },
            if set == 0 { "" } else { ", working set" }
        );
        let arguments = [size, threads, set].map(|number: u32| number.to_string());
        let plain = |program: &Path| -> Side<'_> {
            let (program, arguments) = (program.to_owned(), &arguments);
            Box::new(move || process::number(workshop.plain(&program).args(arguments)))
        };
        let ours: Side<'_> =
            Box::new(|| process::number(workshop.protected(&bare).args(&arguments)));
        let with_sodium = size == 32 && set == 0;
        let [theirs, unwiped, sodiums, ours] = interleave(
            &format!("malloc, {what}"),
            bench.rounds,
            [
                plain(&wiping),
                plain(&bare),
                if with_sodium {
                    plain(&sodium)
                } else {
                    Box::new(|| Ok(f64::NAN))
                },
                ours,
            ],
        )?;
        let row = |peer: &'static str, theirs, target| Row {
            what: what.clone(),
            peer: peer.into(),
            unit: "ns",
            theirs,
            ours: ours.clone(),
            target,
        };
        rows.push(row("glibc", theirs, Target::Times(MOST)));
        rows.push(row("glibc, no wipe", unwiped, Target::None));
        if with_sodium {
            rows.push(row("libsodium", sodiums, Target::Faster(LEAST)));
        }
    }
    Ok(Group {
        plot: None,
        title: "Allocation",
        method: METHOD,
        rows,
        notes: Vec::new(),
    })
}
