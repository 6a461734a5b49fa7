//! Servers and agents: how long they take for a request, by the clock and of the processor.

use super::Result;
use super::report::{Row, Target};
use super::samples::{Side, interleave_several};

/// How many times as long a request to a protected server may take.
const MOST: f64 = 1.05;
/// A twentieth is to be told from chance.
const ROUNDS: usize = 31;

/// Compares a plain and a protected server. Each side measures milliseconds a request: by the
/// clock, and the server's own processor time.
pub(super) fn compare(
    what: &str,
    rounds: usize,
    mut sides: [Side<'_, [f64; 2]>; 2],
) -> Result<[Row; 2]> {
    // What only the first requests cost is not the question.
    for side in &mut sides {
        side()?;
    }
    let [theirs, ours] = interleave_several(what, rounds.max(ROUNDS), sides)?;
    let [[their_clock, their_processor], [our_clock, our_processor]] = [theirs, ours];
    let row = |what: String, theirs, ours, target| Row {
        what,
        peer: "plain".into(),
        unit: "ms",
        theirs,
        ours,
        target,
    };
    Ok([
        row(what.to_owned(), their_clock, our_clock, Target::Times(MOST)),
        row(
            format!("{what}, processor"),
            their_processor,
            our_processor,
            Target::None,
        ),
    ])
}
