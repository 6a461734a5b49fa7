//! Forks, and concealing what a program locks.

use super::report::{Group, Row, Target};
use super::samples::{Side, interleave};
use super::{Bench, Result, process};

const METHOD: &str = "\
`xtask/bench-programs/fork.c`: from `fork` until a child that ends at once has been waited for, with so much of the heap in \
use; the child gets a copy of all of it before `fork` returns. `xtask/bench-programs/lock.c`: `mlock` of touched pages, which \
under `--scope locked` moves them into secret memory. There is no target: these are the prices.";

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let workshop = &bench.workshop;
    let forks = workshop.compile("fork", "fork", &[])?;
    let locks = workshop.compile("lock", "lock", &[])?;
    let mut rows = Vec::new();
    for (megabytes, count) in [(1, 60), (8, 30), (64, 8)] {
        let arguments = [megabytes, count].map(|number: u32| number.to_string());
        let plain: Side<'_> = Box::new(|| process::number(workshop.plain(&forks).args(&arguments)));
        let protected: Side<'_> =
            Box::new(|| process::number(workshop.protected(&forks).args(&arguments)));
        let what = format!("fork, {megabytes} MiB in use");
        let [theirs, ours] = interleave(&what, bench.rounds, [plain, protected])?;
        rows.push(Row {
            what,
            peer: "plain".into(),
            unit: "ms",
            theirs,
            ours,
            target: Target::None,
        });
    }
    for (pages, count) in [(1, 200), (16, 100), (1024, 10)] {
        let arguments = [pages, count].map(|number: u32| number.to_string());
        let plain: Side<'_> = Box::new(|| process::number(workshop.plain(&locks).args(&arguments)));
        let protected: Side<'_> =
            Box::new(|| process::number(workshop.protected_as("locked", &locks).args(&arguments)));
        let what = format!("mlock of {pages} page{}", if pages == 1 { "" } else { "s" });
        let [theirs, ours] = interleave(&what, bench.rounds, [plain, protected])?;
        rows.push(Row {
            what: format!("{what}, each"),
            peer: "plain".into(),
            unit: "µs",
            theirs,
            ours,
            target: Target::None,
        });
    }
    Ok(Group {
        plot: None,
        title: "Fork and lock",
        method: METHOD,
        rows,
        notes: Vec::new(),
    })
}
