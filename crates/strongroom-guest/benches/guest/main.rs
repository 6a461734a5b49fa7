//! What guest memory costs: each figure beside a peer's, or beside what it cannot do without, done by hand.
//!
//! `cargo xtask bench guest` runs it, and makes the tables of docs/benchmarks.md of what it prints.
//! `cargo bench -p strongroom-guest -- NAME…` runs parts of it and prints medians; in a virtual machine it runs by
//! `cargo xtask vm --kernel built strongroom-guest/bench:guest`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bare;
mod bounces;
mod by_hand;
mod contexts;
mod conversions;
mod guards;
mod libraries;
mod queue;
mod ram;
mod rounds;
mod state;

use rounds::Rounds;

/// A group of figures: its name here and in the report.
type Part = (&'static str, fn(&Rounds));

const PARTS: [Part; 8] = [
    ("ram", ram::measure),
    ("libraries", libraries::measure),
    ("queue", queue::measure),
    ("guards", guards::measure),
    ("conversions", conversions::measure),
    ("state", state::measure),
    ("contexts", contexts::measure),
    ("bounces", bounces::measure),
];

fn main() {
    let mut rounds = 15;
    let mut samples = false;
    let mut names = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--samples" => samples = true,
            "--rounds" => rounds = words.next().unwrap().parse().unwrap(),
            name => {
                assert!(PARTS.iter().any(|part| part.0 == name), "no part {name}");
                names.push(word);
            }
        }
    }
    for (name, measure) in PARTS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            measure(&Rounds::new(name, rounds, samples));
        }
    }
}
