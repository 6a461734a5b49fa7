//! The driver's memory beside memfd_secret's: first touch, the direct map, interrupts of other processors.
//!
//! `cargo xtask bench driver` runs it in a virtual machine that has the driver loaded, and makes a section of
//! docs/benchmarks.md of what it prints: lines of fields with tabs between them. Both sides take turns; every second
//! round is in reverse. `--rounds N` makes them more or fewer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod counters;
mod memory;

use counters::Counters;
use memory::{Kind, MIB, Memory};
use std::time::Instant;

/// Memory of one measurement.
const SIZE: usize = 8 * MIB;
/// Of objects of one page.
const SINGLE: usize = MIB;

fn main() {
    let mut rounds = 11;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--rounds" => rounds = words.next().unwrap().parse().unwrap(),
            other => panic!("no option {other}"),
        }
    }
    let metadata = counters::driver("metadata") as f64;
    let total = counters::driver("total") as f64;
    counters::stay_on(0);
    times(rounds);
    effects(rounds);
    println!(
        "note\tOf the driver's pool of {:.0} MiB, {:.4}% describes it.",
        total / MIB as f64,
        metadata / total * 100.0
    );
}

/// A line for the table: what, the peer, the unit, the peer's values, ours.
fn row(what: &str, peer: &str, unit: &str, theirs: &[f64], ours: &[f64]) {
    let list = |values: &[f64]| -> String {
        let values: Vec<_> = values.iter().map(f64::to_string).collect();
        values.join(" ")
    };
    println!(
        "row\t{what}\t{peer}\t{unit}\t{}\t{}",
        list(theirs),
        list(ours)
    );
}

/// Microseconds, for 1 MiB.
#[derive(Clone, Copy)]
struct Times {
    touch: f64,
    /// From nothing to nothing.
    all: f64,
}

/// Takes `size` bytes in pieces, touches each page, and gives all back.
fn life(kind: Kind, size: usize, piece: usize) -> Times {
    let start = Instant::now();
    let pieces: Vec<Memory> = (0..size / piece)
        .map(|_| Memory::take(kind, piece))
        .collect();
    let taken = Instant::now();
    for piece in &pieces {
        piece.touch();
    }
    let touch = taken.elapsed();
    drop(pieces);
    let all = start.elapsed();
    let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / (size / MIB) as f64;
    Times {
        touch: each(touch),
        all: each(all),
    }
}

/// Both sides `rounds` times, in turn.
fn both<T>(rounds: usize, peer: Kind, mut measure: impl FnMut(Kind) -> T) -> (Vec<T>, Vec<T>) {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            theirs.push(measure(peer));
            ours.push(measure(Kind::Driver));
        } else {
            ours.push(measure(Kind::Driver));
            theirs.push(measure(peer));
        }
    }
    (theirs, ours)
}

fn times(rounds: usize) {
    for (pages, size, piece) in [
        ("2 MiB pages", SIZE, SIZE),
        ("4 KiB pages", SIZE, MIB),
        ("objects of 4 KiB", SINGLE, memory::PAGE),
    ] {
        let before = (
            counters::driver("huge_entries"),
            counters::driver("small_entries"),
        );
        let (theirs, ours) = both(rounds, Kind::SecretFile, |kind| life(kind, size, piece));
        let huge = counters::driver("huge_entries") - before.0;
        let small = counters::driver("small_entries") - before.1;
        // What was measured is what it is called.
        let expected = if piece == SIZE {
            (rounds * SIZE / memory::HUGE, 0)
        } else {
            (0, rounds * size / memory::PAGE)
        };
        assert_eq!((huge as usize, small as usize), expected, "{pages}");
        let part =
            |times: &[Times], of: fn(&Times) -> f64| times.iter().map(of).collect::<Vec<_>>();
        let line = |what: &str, of: fn(&Times) -> f64| {
            row(
                &format!("{what}, {pages}"),
                "memfd_secret",
                "µs",
                &part(&theirs, of),
                &part(&ours, of),
            );
        };
        line("first touch of 1 MiB", |times| times.touch);
        line("1 MiB taken, touched and given back", |times| times.all);
    }
}

/// What 8 MiB in several sizes do to the machine, while something runs on the other processor.
fn effects(rounds: usize) {
    let work = |kind| {
        let before = Counters::read();
        for piece in [memory::PAGE, 16 * memory::PAGE, MIB, 2 * MIB] {
            drop(
                (0..2 * MIB / piece)
                    .map(|_| {
                        let memory = Memory::take(kind, piece);
                        memory.touch();
                        memory
                    })
                    .collect::<Vec<_>>(),
            );
        }
        Counters::read().since(&before)
    };
    let part = |all: &[Counters], of: fn(&Counters) -> u64| {
        all.iter()
            .map(|counters| of(counters) as f64)
            .collect::<Vec<_>>()
    };
    let other = counters::busy_process(1);
    let (theirs, ours) = both(rounds, Kind::SecretFile, work);
    drop(other);
    let line = |what: &str, of: fn(&Counters) -> u64| {
        row(
            what,
            "memfd_secret",
            "",
            &part(&theirs, of),
            &part(&ours, of),
        );
    };
    line("shootdowns (TLB) on the other processor", |c| c.shootdowns);
    line("calls (CAL) of the other processor", |c| c.calls);
    // What is split stays so: the sum counts, and not the median.
    let sum =
        |all: &[Counters], of: fn(&Counters) -> i64| vec![all.iter().map(of).sum::<i64>() as f64];
    for (what, unit, of) in [
        (
            "direct map: entries split",
            "",
            (|c| c.splits) as fn(&Counters) -> i64,
        ),
        ("direct map: growth of DirectMap4k", "KiB", |c| c.small),
        ("direct map: loss of DirectMap2M and 1G", "KiB", |c| {
            -c.large
        }),
    ] {
        row(
            what,
            "memfd_secret",
            unit,
            &sum(&theirs, of),
            &sum(&ours, of),
        );
    }
    // A processor that runs another thread of this process must forget what is unmapped, whatever it is.
    let other = counters::busy_thread(1);
    let (theirs, ours) = both(rounds, Kind::Anonymous, work);
    drop(other);
    row(
        "the same with a thread of this process there: shootdowns (TLB)",
        "anonymous memory",
        "",
        &part(&theirs, |c| c.shootdowns),
        &part(&ours, |c| c.shootdowns),
    );
}
