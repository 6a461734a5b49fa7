//! How many secrets there is room for.

use super::report::{Group, Row, Target};
use super::samples::Samples;
use super::{Bench, Result, process};

const METHOD: &str = "\
`xtask/bench-programs/capacity.c`, as an ordinary user under the named RLIMIT_MEMLOCK: secrets of 32 bytes until malloc \
fails, each filled and checked. libsodium's are counted until the first that is not locked.";

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let workshop = &bench.workshop;
    let program = workshop.compile("capacity", "capacity", &[])?;
    let sodium = workshop.compile("capacity", "capacity-sodium", &["-DSODIUM", "-lsodium"])?;
    let mut rows = Vec::new();
    for (what, memlock, least) in [("8 MiB", 8 << 20, 190_000.0), ("64 KiB", 64 << 10, 1000.0)] {
        let count = |command| -> Result<Samples> {
            let mut command = workshop.as_user(memlock, &command)?;
            Ok(Samples(vec![process::number(&mut command)?]))
        };
        rows.push(Row {
            what: format!("secrets in {what}"),
            peer: "libsodium".into(),
            unit: "",
            theirs: count(workshop.plain(&sodium))?,
            ours: count(workshop.protected(&program))?,
            target: Target::AtLeast(least),
        });
    }
    Ok(Group {
        plot: None,
        title: "Capacity",
        method: METHOD,
        rows,
        notes: Vec::new(),
    })
}
