//! What was measured: rows, targets, and the table as text, Markdown and JSON.

use super::machine::Machine;
use super::samples::Samples;
use serde_json::{Value, json};
use std::fmt::Write;

/// Everything that was measured.
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) groups: Vec<Group>,
}

/// Figures of one kind.
pub(super) struct Group {
    pub(super) title: &'static str,
    /// What is done and how it is measured, in Markdown.
    pub(super) method: &'static str,
    pub(super) rows: Vec<Row>,
    /// What there is to say about this run, such as why a row is missing.
    pub(super) notes: Vec<String>,
}

/// One comparison.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) peer: &'static str,
    pub(super) unit: &'static str,
    pub(super) theirs: Samples,
    pub(super) ours: Samples,
    pub(super) target: Target,
}

/// What ours is to be, compared with theirs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// Nothing promised: the ratio is for information.
    None,
    /// Nothing promised: the difference is for information.
    Difference,
    /// At most so many times theirs.
    Times(f64),
    /// At least so many times faster.
    Faster(f64),
    /// At most so much more than theirs, in the row's unit.
    More(f64),
    /// At least so much, in the row's unit.
    AtLeast(f64),
    /// At most so much, in the row's unit.
    AtMost(f64),
}

impl Row {
    /// What the target is about, round by round.
    fn compared(&self) -> Samples {
        match self.target {
            Target::None | Target::Times(_) => self.ours.with(&self.theirs, |ours, t| ours / t),
            Target::Faster(_) => self.ours.with(&self.theirs, |ours, theirs| theirs / ours),
            Target::More(_) | Target::Difference => {
                self.ours.with(&self.theirs, |ours, theirs| ours - theirs)
            }
            Target::AtLeast(_) | Target::AtMost(_) => self.ours.clone(),
        }
    }

    /// Whether the target is met; `None` where there is none.
    fn met(&self) -> Option<bool> {
        let value = self.compared().median();
        match self.target {
            Target::None | Target::Difference => None,
            Target::Times(most) | Target::More(most) | Target::AtMost(most) => Some(value <= most),
            Target::Faster(least) | Target::AtLeast(least) => Some(value >= least),
        }
    }

    fn cells(&self) -> [String; 7] {
        let compared = self.compared();
        let (value, off) = (compared.median(), compared.uncertainty());
        let unit = self.unit;
        let (result, target) = match self.target {
            Target::None if !value.is_finite() => (String::new(), String::new()),
            Target::None => (times(value, off), String::new()),
            Target::Times(most) => (times(value, off), format!("≤ {most}×")),
            Target::Faster(least) => (
                format!("{}× faster", number(value)),
                format!("≥ {}× faster", number(least)),
            ),
            Target::Difference => (difference(value, off, unit), String::new()),
            Target::More(most) => (difference(value, off, unit), format!("≤ +{most} {unit}")),
            Target::AtLeast(least) => (number(value), format!("≥ {}", number(least))),
            Target::AtMost(most) => (number(value), format!("≤ {}", number(most))),
        };
        let met = match self.met() {
            None => "",
            Some(true) => "yes",
            Some(false) => "**no**",
        };
        [
            self.what.clone(),
            self.peer.to_owned(),
            with_unit(self.theirs.median(), unit),
            with_unit(self.ours.median(), unit),
            result,
            target,
            met.to_owned(),
        ]
    }
}

const HEAD: [&str; 7] = [
    "what",
    "peer",
    "peer's",
    "strongroom",
    "compared",
    "target",
    "met",
];

fn times(value: f64, off: f64) -> String {
    format!("{value:.3}× ± {off:.3}")
}

fn difference(value: f64, off: f64, unit: &str) -> String {
    format!("{value:+.2} ± {off:.2} {unit}")
        .trim_end()
        .to_owned()
}

fn with_unit(value: f64, unit: &str) -> String {
    format!("{} {unit}", number(value)).trim_end().to_owned()
}

/// Three digits that count, or all of a larger number's, in groups of three.
fn number(value: f64) -> String {
    let size = value.abs();
    if size < 0.0005 {
        return "0".to_owned();
    }
    if size < 1000.0 {
        let digits = match size {
            _ if value.fract() == 0.0 => 0,
            s if s >= 100.0 => 0,
            s if s >= 10.0 => 1,
            s if s >= 1.0 => 2,
            _ => 3,
        };
        return format!("{value:.digits$}");
    }
    let plain = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

impl Report {
    /// Whether no target was missed.
    pub(super) fn all_met(&self) -> bool {
        let mut rows = self.groups.iter().flat_map(|group| &group.rows);
        rows.all(|row| row.met() != Some(false))
    }

    /// For a terminal.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.machine.sentence());
        for group in &self.groups {
            let _ = write!(text, "\n{}\n", group.title);
            let mut lines = vec![HEAD.map(str::to_owned)];
            lines.extend(
                group
                    .rows
                    .iter()
                    .map(|row| row.cells().map(|c| c.replace('*', ""))),
            );
            let widths: [usize; 7] = core::array::from_fn(|column| {
                let cells = lines.iter().map(|line| line[column].chars().count());
                cells.max().unwrap_or_default()
            });
            for line in lines {
                let mut row = String::new();
                for (cell, width) in line.iter().zip(widths) {
                    let _ = write!(row, "  {cell:width$}");
                }
                let _ = writeln!(text, "{}", row.trim_end());
            }
            for note in &group.notes {
                let _ = writeln!(text, "  {note}");
            }
        }
        text
    }

    /// For docs/benchmarks.md.
    pub(super) fn to_markdown(&self) -> String {
        let mut text = format!(
            "# Benchmarks\n\n\
             Written by `cargo xtask bench --write`. {}\n\n\
             Each figure stands beside a peer's, measured in the same run: the sides take turns, and what is \
             *compared* is the median over the rounds of each round's ratio (or difference), ± its standard error. \
             The other columns are the medians of each side alone. Trust the ratios more than the absolute times.\n",
            self.machine.sentence(),
        );
        for group in &self.groups {
            let _ = write!(text, "\n## {}\n\n{}\n\n", group.title, group.method);
            let _ = writeln!(text, "| {} |", HEAD.join(" | "));
            let _ = writeln!(text, "|{}", "---|".repeat(HEAD.len()));
            for row in &group.rows {
                let _ = writeln!(text, "| {} |", row.cells().join(" | "));
            }
            for note in &group.notes {
                let _ = write!(text, "\n{note}\n");
            }
        }
        text.push_str("\n## Every round\n\n```\n");
        for group in &self.groups {
            for row in &group.rows {
                for (who, samples) in [(row.peer, &row.theirs), ("strongroom", &row.ours)] {
                    let values: Vec<_> = samples.0.iter().map(|&value| number(value)).collect();
                    let _ = writeln!(
                        text,
                        "{} | {} | {who}, {}: {}",
                        group.title,
                        row.what,
                        row.unit,
                        values.join(" ")
                    );
                }
            }
        }
        text.push_str("```\n");
        text
    }

    /// For machines.
    pub(super) fn to_json(&self) -> Value {
        let side = |samples: &Samples| json!({"median": samples.median(), "rounds": samples.0});
        let figures = self.groups.iter().flat_map(|group| {
            group.rows.iter().map(move |row| {
                let compared = row.compared();
                json!({
                    "group": group.title,
                    "what": row.what,
                    "unit": row.unit,
                    "peer": row.peer,
                    "theirs": side(&row.theirs),
                    "ours": side(&row.ours),
                    "compared": compared.median(),
                    "uncertainty": compared.uncertainty(),
                    "target": row.cells()[5],
                    "met": row.met(),
                })
            })
        });
        json!({
            "schema": 1,
            "machine": self.machine.to_json(),
            "figures": figures.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(theirs: &[f64], ours: &[f64], target: Target) -> Row {
        Row {
            what: "work".into(),
            peer: "peer",
            unit: "ms",
            theirs: Samples(theirs.to_vec()),
            ours: Samples(ours.to_vec()),
            target,
        }
    }

    #[test]
    fn a_slow_round_for_both_changes_no_ratio() {
        let row = row(
            &[10.0, 100.0, 10.0],
            &[11.0, 110.0, 11.0],
            Target::Times(1.2),
        );
        assert!((row.compared().median() - 1.1).abs() < 1e-9);
        assert_eq!(row.met(), Some(true));
    }

    #[test]
    fn targets_have_a_direction() {
        assert_eq!(row(&[1.0], &[3.0], Target::Times(2.0)).met(), Some(false));
        assert_eq!(
            row(&[3000.0], &[1.0], Target::Faster(1000.0)).met(),
            Some(true)
        );
        assert_eq!(row(&[1.0], &[17.0], Target::More(15.0)).met(), Some(false));
        assert_eq!(
            row(&[0.0], &[190.0], Target::AtLeast(190.0)).met(),
            Some(true)
        );
        assert_eq!(row(&[0.0], &[2.0], Target::AtMost(1.0)).met(), Some(false));
        assert_eq!(row(&[1.0], &[9.0], Target::None).met(), None);
    }

    #[test]
    fn numbers_are_read_by_people() {
        assert_eq!(number(5.0421), "5.04");
        assert_eq!(number(0.37704), "0.377");
        assert_eq!(number(1234567.8), "1,234,568");
        assert_eq!(number(22840.0), "22,840");
        assert_eq!(number(0.0), "0");
        assert_eq!(number(-0.000_01), "0");
    }
}
