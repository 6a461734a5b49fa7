//! Rounds, medians, and how far to trust them.

use super::Result;
use std::io::{IsTerminal, Write};

/// One measurement's values, in the order of the rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples(pub(super) Vec<f64>);

impl Samples {
    /// The median; NaN without values.
    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Each value combined with the other's of the same round.
    pub(super) fn with(&self, other: &Samples, combine: impl Fn(f64, f64) -> f64) -> Samples {
        let pairs = self.0.iter().zip(&other.0);
        Samples(pairs.map(|(&a, &b)| combine(a, b)).collect())
    }

    /// How far the median may be off by chance: its standard error, for values that scatter normally
    /// but for outliers, from the distance of the quartiles.
    pub(super) fn uncertainty(&self) -> f64 {
        let deviation = (self.quantile(0.75) - self.quantile(0.25)) / 1.349;
        1.2533 * deviation / (self.0.len() as f64).sqrt()
    }

    fn quantile(&self, at: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = at * (sorted.len().max(1) - 1) as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        match (sorted.get(below), sorted.get(above)) {
            (Some(low), Some(high)) => low + (high - low) * place.fract(),
            _ => f64::NAN,
        }
    }
}

/// One side of a comparison: measures once.
pub(super) type Side<'a, T = f64> = Box<dyn FnMut() -> Result<T> + 'a>;

/// Measures the sides in turn, `rounds` times; every second round in reverse, so that none
/// always follows the same other.
pub(super) fn interleave<const N: usize>(
    what: &str,
    rounds: usize,
    sides: [Side<'_>; N],
) -> Result<[Samples; N]> {
    let sides = sides.map(|mut side| -> Side<'_, [f64; 1]> { Box::new(move || Ok([side()?])) });
    let samples = interleave_several(what, rounds, sides)?;
    Ok(samples.map(|[samples]| samples))
}

/// As [`interleave`], where each side measures several things at once.
pub(super) fn interleave_several<const N: usize, const M: usize>(
    what: &str,
    rounds: usize,
    mut sides: [Side<'_, [f64; M]>; N],
) -> Result<[[Samples; M]; N]> {
    let mut samples: [[Samples; M]; N] =
        core::array::from_fn(|_| core::array::from_fn(|_| Samples::default()));
    for round in 0..rounds {
        progress(what, round, rounds);
        for step in 0..N {
            let side = if round % 2 == 0 { step } else { N - 1 - step };
            for (samples, value) in samples[side].iter_mut().zip(sides[side]()?) {
                samples.0.push(value);
            }
        }
    }
    progress(what, rounds, rounds);
    Ok(samples)
}

/// Says on standard error how far a measurement is.
pub(super) fn progress(what: &str, done: usize, all: usize) {
    let mut out = std::io::stderr().lock();
    // Nobody waits for the line; where it cannot be written it is not.
    let _ = if out.is_terminal() {
        let end = if done == all { "\n" } else { "" };
        write!(out, "\r\x1b[K{what}: {done}/{all}{end}")
    } else if done == all {
        writeln!(out, "{what}: {all} rounds")
    } else {
        Ok(())
    };
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn one_outlier_moves_nothing() {
        let calm = Samples(vec![1.0; 9]);
        let mut values = calm.clone();
        values.0[4] = 1000.0;
        assert_eq!(values.median(), 1.0);
        assert_eq!(values.uncertainty(), 0.0);
    }

    #[test]
    fn sides_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name: char| -> Side<'_> {
            let order = &order;
            Box::new(move || {
                order.borrow_mut().push(name);
                Ok(f64::from(u32::from(name)))
            })
        };
        let [a, b] = interleave("test", 3, [side('a'), side('b')]).unwrap();
        assert_eq!(*order.borrow(), "abbaab");
        assert_eq!((a.0.len(), b.median()), (3, 98.0));
    }
}
