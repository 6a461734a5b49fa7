//! The pool: what its calls cost, and a simulated day on 1 TiB of it.
//!
//! `cargo xtask bench pool` runs it, and makes the section and the plot of docs/benchmarks.md of what it
//! prints: lines of fields with tabs between them. `cargo bench -p strongroom-core --bench pool` prints the
//! same. `--gib N` makes the day's memory smaller, `--rounds N` the measurements of time more or fewer; `--model
//! MIB GIB` says what the model of the direct map says of so much secret memory on such a machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod day;
mod direct_map;
mod placement;
mod random;
mod timing;
mod trace;

use day::{Day, Look};
use direct_map::DirectMap;
use placement::{FirstFit, Placement};
use strongroom_core::pool::{CHUNK_PAGES, ChunkPool, RunPool};
use timing::Times;

const PAGES_A_GIB: usize = 1 << 18;
/// Of the day, and of all that is random beside it.
const SEED: u64 = 20_190_827;

fn main() {
    // By `cargo test` there are no words: whether it runs at all.
    let (mut gib, mut rounds) = match std::env::args().len() {
        1 => (8, 1),
        _ => (1024, 11),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().unwrap().parse().unwrap();
        if word == "--model" {
            return model(number(), number());
        }
        match word.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--gib" => gib = number(),
            "--rounds" => rounds = number(),
            other => panic!("no option {other}"),
        }
    }
    times(rounds);
    day(gib * PAGES_A_GIB);
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

fn times(rounds: usize) {
    let both = |gib: usize, fill: f64| -> (Vec<Times>, Vec<Times>) {
        let pages = gib * PAGES_A_GIB;
        (0..rounds as u64)
            .map(|seed| {
                (
                    timing::runs(pages, fill, seed),
                    timing::chunks(pages, fill, seed),
                )
            })
            .unzip()
    };
    let part = |times: &[Times], of: fn(&Times) -> f64| times.iter().map(of).collect::<Vec<_>>();
    for fill in [0.1, 0.5, 0.9, 0.99] {
        let (runs, chunks) = both(8, fill);
        for (call, of) in calls() {
            let what = format!("8 GiB, {:.0}% in use, {call}", fill * 100.0);
            row(
                &what,
                "one first fit",
                "ns",
                &part(&runs, of),
                &part(&chunks, of),
            );
        }
    }
    let mut least: Option<Vec<Times>> = None;
    for gib in [1, 8, 64, 1024] {
        let (_, chunks) = both(gib, 0.9);
        let first = least.get_or_insert_with(|| chunks.clone());
        for (call, of) in calls() {
            let what = format!("{gib} GiB, 90% in use, {call}");
            row(&what, "1 GiB", "ns", &part(first, of), &part(&chunks, of));
        }
    }
    for gib in [8, 1024] {
        let chunks = gib * PAGES_A_GIB / CHUNK_PAGES;
        let bytes = ChunkPool::metadata_words(chunks) as f64 * 8.0;
        let share = bytes / (gib << 30) as f64 * 100.0;
        row(
            &format!("{gib} GiB, metadata"),
            "",
            "KiB",
            &[],
            &[bytes / 1024.0],
        );
        row(
            &format!("{gib} GiB, metadata, share"),
            "",
            "%",
            &[],
            &[share],
        );
    }
}

type Call = (&'static str, fn(&Times) -> f64);

fn calls() -> [Call; 2] {
    [
        ("take of a page", |times| times.take),
        ("give of a page", |times| times.give),
    ]
}

fn day(pages: usize) {
    let mut metadata = vec![0; RunPool::metadata_words(pages)];
    let mut pool = RunPool::new(pages, &mut metadata);
    assert!(pool.give(0, pages));
    let first_fit = run("one first fit", &mut FirstFit(pool), pages);
    drop(metadata);

    let chunks = pages / CHUNK_PAGES;
    let mut metadata = vec![0; ChunkPool::metadata_words(chunks)];
    let mut pool = ChunkPool::new(chunks, &mut metadata);
    assert!(pool.give(0, pages));
    let ours = run("strongroom", &mut pool, pages);

    let peer = "one first fit";
    let compare = |what: &str, unit: &str, of: &dyn Fn(&Day) -> f64| {
        row(what, peer, unit, &[of(&first_fit)], &[of(&ours)]);
    };
    compare("a day: failed with enough free", "", &|day| {
        day.fragmented as f64
    });
    compare("a day: failed, memory full", "", &|day| day.full as f64);
    compare("a day: large ones placed in several runs", "", &|day| {
        day.in_pieces as f64
    });
    let worst = |day: &Day| {
        let shares = day.looks.iter().map(|look| whole_share(look) * 100.0);
        shares.fold(100.0, f64::min)
    };
    compare("a day: free memory in whole chunks, least", "%", &worst);
    compare(
        "a day: free memory in whole chunks, at its end",
        "%",
        &|day| day.looks.last().map_or(0.0, whole_share) * 100.0,
    );
    let gib = |pages: usize| pages as f64 / PAGES_A_GIB as f64;
    compare("a day: longest free run, least", "GiB", &|day| {
        day.looks
            .iter()
            .map(|look| gib(look.largest))
            .fold(f64::MAX, f64::min)
    });
    compare("a day: longest free run, at its end", "GiB", &|day| {
        day.looks.last().map_or(0.0, |look| gib(look.largest))
    });
    let requests: usize = ours.requests.iter().sum();
    let most = ours.looks.last().map_or(0, |look| look.most_used);
    println!(
        "note\tThe day: {:.1} million requests ({}); at most {:.1}% in use; {:.0} ns a call with the simulation's own work, one first fit {:.0} ns.",
        requests as f64 / 1e6,
        trace::KINDS
            .iter()
            .zip(ours.requests)
            .map(|(kind, count)| format!("{}: {count}", kind.name))
            .collect::<Vec<_>>()
            .join("; "),
        most as f64 / pages as f64 * 100.0,
        ours.took.as_secs_f64() * 1e9 / ours.calls as f64,
        first_fit.took.as_secs_f64() * 1e9 / first_fit.calls as f64,
    );
    blast_radius(&ours, pages);
}

fn whole_share(look: &Look) -> f64 {
    look.whole as f64 / look.free.max(1) as f64
}

fn run(name: &str, pool: &mut impl Placement, pages: usize) -> Day {
    let day = day::run(pool, SEED);
    let line = |what: &str, of: &dyn Fn(&Look) -> f64| {
        let values: Vec<_> = day
            .looks
            .iter()
            .map(|look| format!("{}:{:.3}", look.second, of(look)))
            .collect();
        println!("series\t{what}\t{name}\t{}", values.join(" "));
    };
    let percent = |part: usize| part as f64 / pages as f64 * 100.0;
    line("in use", &|look| 100.0 - percent(look.free));
    line("whole", &|look| whole_share(look) * 100.0);
    line("largest", &|look| percent(look.largest));
    day
}

/// What of a look counts, and its name.
type Most = (&'static str, fn(&Look) -> usize);

/// The same day's high-water marks, on memfd_secret.
fn blast_radius(day: &Day, pages: usize) {
    let chunks = pages / CHUNK_PAGES;
    let percent = |split: usize| split as f64 / chunks as f64 * 100.0;
    let most: [Most; 2] = [
        ("all", |look| look.most_used),
        ("small ones alone", |look| look.most_small),
    ];
    let peer = "memfd_secret, modelled";
    for (what, of) in most {
        let mut map = DirectMap::new(pages, SEED);
        let mut line = Vec::new();
        let mut least = Vec::new();
        for look in &day.looks {
            map.reach(of(look));
            line.push(format!("{}:{:.3}", look.second, percent(map.split().0)));
            let packed = percent(of(look).div_ceil(CHUNK_PAGES));
            least.push(format!("{}:{packed:.3}", look.second));
        }
        println!("series\tsplit\t{what}\t{}", line.join(" "));
        println!("series\tsplit\t{what}, packed\t{}", least.join(" "));
        let (mib, gib) = map.split();
        let used = day.looks.last().map_or(0, of);
        let packed = |unit: usize| used.div_ceil(unit) as f64;
        for (entries, scattered, packed) in [
            ("2 MiB", mib, packed(CHUNK_PAGES)),
            ("1 GiB", gib, packed(PAGES_A_GIB)),
        ] {
            let what = format!("a day, {what}: entries of {entries} split");
            row(&what, peer, "", &[scattered as f64], &[0.0]);
            row(&what, "memfd_secret, packed", "", &[packed], &[0.0]);
        }
    }
}

/// What the model says of so many MiB, on a machine with so many GiB of direct map.
fn model(mib: usize, gib: usize) {
    let mut map = DirectMap::new(gib * PAGES_A_GIB, SEED);
    map.reach(mib * 256);
    let (chunks, split) = map.split();
    println!("{} {split}", chunks * 2);
}
