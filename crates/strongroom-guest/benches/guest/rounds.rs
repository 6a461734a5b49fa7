//! Rounds: ours and the peer in turn, so that a noisy machine disturbs both alike.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, Instant};

/// How long a slice of a side takes, about, where it repeats something short: shorter than a thread runs before
/// another one has its turn.
const SLICE: Duration = Duration::from_micros(400);
/// How many slices make a round's value, their median.
const SLICES: usize = 15;

/// How a part measures, and where its figures go.
pub(crate) struct Rounds {
    part: &'static str,
    pub(crate) count: usize,
    /// For xtask: every value; for people: medians.
    samples: bool,
}

/// What one row compares.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) what: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) unit: &'a str,
}

impl Rounds {
    pub(crate) fn new(part: &'static str, count: usize, samples: bool) -> Self {
        Self {
            part,
            count,
            samples,
        }
    }

    /// Measures both sides in turn; every second round the other one is first.
    pub(crate) fn compare(
        &self,
        row: Row<'_>,
        mut ours: impl FnMut() -> f64,
        mut theirs: impl FnMut() -> f64,
    ) {
        let (mut our, mut their) = (Vec::new(), Vec::new());
        for round in 0..self.count {
            if round % 2 == 0 {
                our.push(ours());
                their.push(theirs());
            } else {
                their.push(theirs());
                our.push(ours());
            }
        }
        self.tell(row, &our, &their);
    }

    /// Compares nanoseconds of short actions. Each is told how often it was made before, from 0 on in each slice.
    pub(crate) fn short(
        &self,
        what: &str,
        peer: &str,
        mut ours: impl FnMut(usize),
        mut theirs: impl FnMut(usize),
    ) {
        let unit = "ns";
        let (our_times, their_times) = (times(&mut ours), times(&mut theirs));
        let (mut our, mut their) = (Vec::new(), Vec::new());
        for _ in 0..self.count {
            let (mut our_slices, mut their_slices) = (Vec::new(), Vec::new());
            for slice in 0..SLICES {
                // Who is first changes.
                if slice % 2 == 0 {
                    our_slices.push(time(our_times, &mut ours));
                    their_slices.push(time(their_times, &mut theirs));
                } else {
                    their_slices.push(time(their_times, &mut theirs));
                    our_slices.push(time(our_times, &mut ours));
                }
            }
            our.push(median(&our_slices));
            their.push(median(&their_slices));
        }
        self.tell(Row { what, peer, unit }, &our, &their);
    }

    /// A figure that stands alone.
    pub(crate) fn alone(&self, what: &str, unit: &str, mut ours: impl FnMut() -> f64) {
        let values: Vec<_> = (0..self.count).map(|_| ours()).collect();
        self.tell(
            Row {
                what,
                peer: "",
                unit,
            },
            &values,
            &[],
        );
    }

    /// A row's values, by round.
    pub(crate) fn tell(&self, row: Row<'_>, ours: &[f64], theirs: &[f64]) {
        let Row { what, peer, unit } = row;
        let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>();
        if self.samples {
            let (ours, theirs) = (list(ours).join(" "), list(theirs).join(" "));
            line(format_args!(
                "row\t{}\t{what}\t{peer}\t{unit}\t{theirs}\t{ours}",
                self.part
            ));
            return;
        }
        let ratios: Vec<_> = ours
            .iter()
            .zip(theirs)
            .map(|(our, their)| our / their)
            .collect();
        let mut text = format!("{what:<44} {:>10.2} {unit}", median(ours));
        if !theirs.is_empty() {
            text += &format!(
                "  {peer} {:>10.2}  ratio {:.3}",
                median(theirs),
                median(&ratios)
            );
        }
        line(text);
    }

    /// What there is to say, such as why a row is missing.
    pub(crate) fn note(&self, text: impl Display) {
        match self.samples {
            true => line(format_args!("note\t{}\t{text}", self.part)),
            false => line(text),
        }
    }
}

fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// How often an action fits into a slice.
fn times(action: &mut impl FnMut(usize)) -> usize {
    let mut times = 1;
    loop {
        let each = time(times, &mut *action);
        if each * times as f64 * 4.0 > SLICE.as_nanos() as f64 {
            return ((SLICE.as_nanos() as f64 / each) as usize).max(1);
        }
        times *= 2;
    }
}

/// Nanoseconds of each of `times` actions.
pub(crate) fn time(times: usize, mut action: impl FnMut(usize)) -> f64 {
    let begin = Instant::now();
    for n in 0..times {
        action(n);
    }
    begin.elapsed().as_nanos() as f64 / times as f64
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
