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
    if std::env::args().len() == 1 {
        // `cargo test` runs it where no driver is.
        return println!("for `cargo xtask bench driver`");
    }
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
    let mut direct_map = DirectMap::default();
    // Alone, memfd_secret has nobody to wait for, who on a busy host is late.
    counters::second_processor(false);
    times(rounds, &mut direct_map);
    counters::second_processor(true);
    effects(rounds, &mut direct_map);
    direct_map.print();
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

fn times(rounds: usize, direct_map: &mut DirectMap) {
    for (pages, size, piece) in [
        ("2 MiB pages", SIZE, SIZE),
        ("4 KiB pages", SIZE, MIB),
        ("objects of 4 KiB", SINGLE, memory::PAGE),
    ] {
        let before = (
            counters::driver("huge_entries"),
            counters::driver("small_entries"),
        );
        let (theirs, ours) = both(rounds, Kind::SecretFile, |kind| {
            let before = Counters::read();
            let times = life(kind, size, piece);
            direct_map.add(kind, &Counters::read().since(&before));
            times
        });
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

/// What objects of several sizes do to the machine, while something runs on the other processor.
fn effects(rounds: usize, direct_map: &mut DirectMap) {
    let mut work = |kind| {
        let before = Counters::read();
        for (count, piece) in [(32, memory::PAGE), (4, 16 * memory::PAGE), (1, 2 * MIB)] {
            let pieces: Vec<Memory> = (0..count).map(|_| Memory::take(kind, piece)).collect();
            pieces.iter().for_each(Memory::touch);
        }
        let counters = Counters::read().since(&before);
        direct_map.add(kind, &counters);
        counters
    };
    let part = |all: &[Counters], of: fn(&Counters) -> u64| {
        all.iter()
            .map(|counters| of(counters) as f64)
            .collect::<Vec<_>>()
    };
    let other = counters::busy_process(1);
    let (theirs, ours) = both(rounds, Kind::SecretFile, &mut work);
    drop(other);
    assert!(theirs.iter().all(|c| c.calls > 0), "nothing is counted");
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
    // A processor that runs another thread of this process must forget what is unmapped, whatever it is.
    let other = counters::busy_thread(1);
    let (theirs, ours) = both(rounds, Kind::Anonymous, &mut work);
    drop(other);
    row(
        "the same with a thread of this process there: shootdowns (TLB)",
        "anonymous memory",
        "",
        &part(&theirs, |c| c.shootdowns),
        &part(&ours, |c| c.shootdowns),
    );
}

/// What became of the direct map, over everything: what is split stays so.
#[derive(Default)]
struct DirectMap {
    theirs: Changes,
    ours: Changes,
}

/// Of entries and of KiB.
#[derive(Default)]
struct Changes {
    splits: i64,
    small: i64,
    large: i64,
}

impl DirectMap {
    fn add(&mut self, kind: Kind, counters: &Counters) {
        let sum = match kind {
            Kind::Driver => &mut self.ours,
            Kind::SecretFile => &mut self.theirs,
            Kind::Anonymous => return,
        };
        sum.splits += counters.splits;
        sum.small += counters.small;
        sum.large += counters.large;
    }

    fn print(&self) {
        let line = |what: &str, unit: &str, of: fn(&Changes) -> i64| {
            let value = |changes| [of(changes) as f64];
            row(
                what,
                "memfd_secret",
                unit,
                &value(&self.theirs),
                &value(&self.ours),
            );
        };
        line("direct map: entries split", "", |sum| sum.splits);
        line("direct map: growth of DirectMap4k", "KiB", |sum| sum.small);
        line("direct map: loss of DirectMap2M and 1G", "KiB", |sum| {
            -sum.large
        });
    }
}
