//! The pool: what `crates/strongroom-core/benches/pool` prints, and what of it was promised.

use super::plot::{Line, Panel, Plot};
use super::report::{Group, Row, Target};
use super::samples::{Samples, progress};
use super::{Bench, Result, process};
use std::path::Path;

const METHOD: &str = "\
`crates/strongroom-core/benches/pool`: strongroom-core's `ChunkPool`, which knows pages and chunks of 2 MiB; no memory is \
behind it. The peer of a call is one `RunPool` that gives everything the lowest run that fits. *Calls*: free pages come in runs of 64 KiB \
at random places; 50,000 random pages are given back, then as many taken; what counts is the processor's time. *A day*: 1 TiB, a fixed seed, from its least load \
(40%) by noon's (91%) to its least. Five kinds of requests, each with exponential lives: 4 to 64 KiB (weights 1/n) for 10 minutes, 1 hour \
and 8 hours on average, with 0.25%, 2% and 10% of the memory in use; 2 MiB for 30 minutes, 30%; 4 to 512 MiB (uniform logarithm) for 3 hours, \
the rest. A large request that no single run serves may have several. *Failed with enough free* is external fragmentation. \
The day begins with its load in place, and the pool is looked at every ten minutes. *memfd_secret* is a model and not a \
measurement: the most that was in use so far, in batches of 64 pages at random places of the memory, as `pcp` lists get them from the buddy \
allocator, splits the entries of the direct map (1 GiB each at first) that it is in; pages given back are taken again first. \
*Packed* is the least that is possible: as many entries as the pages would fill. A carve-out is not in the direct map, so that \
there is nothing to split.";

/// A target of all rows whose names begin so, beside this peer.
const TARGETS: [(&str, &str, Target); 5] = [
    // Linear growth would be 1024 times.
    ("1024 GiB, 90% in use", "1 GiB", Target::Times(10.0)),
    ("8 GiB, metadata, share", "", Target::AtMost(0.2)),
    ("1024 GiB, metadata, share", "", Target::AtMost(0.2)),
    (
        "a day: failed with enough free",
        "one first fit",
        Target::AtMost(0.0),
    ),
    ("a day, ", "memfd_secret, modelled", Target::AtMost(0.0)),
];

/// MiB of memfd_secret that the model is compared with.
const MEASURED: u64 = 256;

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let workshop = &bench.workshop;
    let program = workshop.benches("strongroom-core", "pool")?;
    let secret = workshop.compile("secret_memory", "secret_memory", &[])?;
    progress("pool", 0, 2);
    let mut command = workshop.plain(&program);
    command.args(["--rounds", &bench.rounds.to_string()]);
    let printed = Printed::read(&process::output(&mut command)?)?;
    progress("pool", 1, 2);
    let mut notes = printed.notes;
    let mut command = workshop.plain(&secret);
    match process::output(command.arg(MEASURED.to_string())) {
        Ok(text) => notes.push(compare(bench, &program, &text)?),
        Err(error) => notes.push(format!("memfd_secret was not tried here: {error}")),
    }
    progress("pool", 2, 2);
    Ok(Group {
        plot: Some(plot(&printed.series)?),
        title: "The pool",
        method: METHOD,
        rows: printed.rows,
        notes,
    })
}

/// What a little of the real memfd_secret did here, beside what the model says of as much.
fn compare(bench: &Bench, program: &Path, text: &str) -> Result<String> {
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    let &[
        small,
        middle,
        large,
        small_with,
        _,
        large_with,
        small_after,
        ..,
    ] = numbers.as_slice()
    else {
        return Err(format!("secret_memory printed {text:?}").into());
    };
    let gib = (small + middle + large).div_ceil(1 << 20);
    let mut command = bench.workshop.plain(program);
    command.args(["--model", &MEASURED.to_string(), &gib.to_string()]);
    let model = process::output(&mut command)?;
    let (mib, split) = model
        .trim()
        .split_once(' ')
        .ok_or("the model printed nothing")?;
    Ok(format!(
        "{MEASURED} MiB of the real memfd_secret, on this machine with {gib} GiB of direct map: {} MiB of it were in entries of 4 KiB before, \
         {} MiB with it and {} MiB after it was given back; {} of the entries of 1 GiB were split. The model, for a machine where \
         nothing is split yet: {mib} MiB in entries of 4 KiB and {split} entries of 1 GiB split. Here much was split before, and the kernel hands such \
         pages out again; on the same kernel soon after its start, 64 MiB had put 644 MiB into entries of 4 KiB and split 6 of 1 GiB.",
        small >> 10,
        small_with >> 10,
        small_after >> 10,
        large.saturating_sub(large_with) >> 20,
    ))
}

/// Lines of the bench program, by their first field.
#[derive(Default)]
struct Printed {
    rows: Vec<Row>,
    notes: Vec<String>,
    series: Vec<Series>,
}

/// Values over the hours.
struct Series {
    what: String,
    whose: String,
    points: Vec<(f64, f64)>,
}

impl Printed {
    fn read(text: &str) -> Result<Self> {
        let mut printed = Self::default();
        for line in text.lines() {
            match line.split('\t').collect::<Vec<_>>().as_slice() {
                ["row", what, peer, unit, theirs, ours] => printed.rows.push(Row {
                    what: (*what).to_owned(),
                    peer: (*peer).to_owned().into(),
                    unit: known(unit)?,
                    theirs: samples(theirs)?,
                    ours: samples(ours)?,
                    target: target(what, peer),
                }),
                ["note", note] => printed.notes.push((*note).to_owned()),
                ["series", what, whose, values] => {
                    printed.series.push(Series {
                        what: (*what).to_owned(),
                        whose: (*whose).to_owned(),
                        points: values
                            .split_whitespace()
                            .map(point)
                            .collect::<Result<_>>()?,
                    });
                }
                _ => return Err(format!("the bench printed {line:?}").into()),
            }
        }
        Ok(printed)
    }
}

fn known(unit: &str) -> Result<&'static str> {
    let known = ["", "ns", "KiB", "GiB", "%"];
    let found = known.into_iter().find(|known| *known == unit);
    found.ok_or_else(|| format!("the bench has a unit {unit:?}").into())
}

fn samples(text: &str) -> Result<Samples> {
    let values = text.split_whitespace().map(str::parse);
    Ok(Samples(values.collect::<std::result::Result<_, _>>()?))
}

fn point(text: &str) -> Result<(f64, f64)> {
    let (second, value) = text.split_once(':').ok_or("a point is two numbers")?;
    Ok((second.parse::<f64>()? / 3600.0, value.parse()?))
}

/// What is promised of a row; else times are compared by their ratio, counts by their difference.
fn target(what: &str, peer: &str) -> Target {
    let promised = TARGETS
        .iter()
        .find(|(begin, whose, _)| what.starts_with(begin) && *whose == peer);
    match promised {
        Some(&(.., target)) => target,
        None if peer.is_empty() || what.ends_with("of a page") => Target::None,
        None => Target::Difference,
    }
}

fn plot(series: &[Series]) -> Result<Plot> {
    let line = |what: &str, whose: &str, name: &str, dashed| -> Result<Line> {
        let found = series
            .iter()
            .find(|series| series.what == what && series.whose == whose);
        let series = found.ok_or_else(|| format!("the bench printed no {what} of {whose}"))?;
        Ok(Line {
            name: name.to_owned(),
            dashed,
            points: series.points.clone(),
        })
    };
    Ok(Plot {
        file: "pool-day.svg",
        alt: "A simulated day on 1 TiB: how much of the free memory is in whole chunks of 2 MiB, and what of the direct map is split.",
        panels: vec![
            Panel {
                title: "Free memory that lies in whole chunks of 2 MiB",
                lines: vec![
                    line("whole", "strongroom", "strongroom", false)?,
                    line("whole", "one first fit", "one first fit for all", false)?,
                    line("in use", "strongroom", "in use, of 1 TiB", true)?,
                ],
            },
            Panel {
                title: "Direct map in entries of 4 KiB (memfd_secret: modelled)",
                lines: vec![
                    Line {
                        name: "carve-out".to_owned(),
                        dashed: false,
                        points: vec![(0.0, 0.0), (24.0, 0.0)],
                    },
                    line("split", "all", "memfd_secret", false)?,
                    line("split", "small ones alone", "small ones alone", false)?,
                    line("split", "small ones alone, packed", "these, packed", true)?,
                ],
            },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_bench_prints_is_read() {
        let text = "row\ta day: failed with enough free\tone first fit\t\t3\t0\n\
                    row\t8 GiB, metadata, share\t\t%\t\t0.0035\nnote\tA note.\nseries\twhole\tx\t0:1.5 3600:2\n";
        let printed = Printed::read(text).unwrap();
        assert_eq!(printed.rows[0].target, Target::AtMost(0.0));
        assert_eq!(printed.rows[1].theirs, Samples::default());
        assert_eq!(printed.series[0].points, [(0.0, 1.5), (1.0, 2.0)]);
        assert!(plot(&printed.series).is_err());
        assert!(Printed::read("row\tx").is_err());
        assert_eq!(
            target("8 GiB, 50% in use, take of a page", "x"),
            Target::None
        );
    }
}
