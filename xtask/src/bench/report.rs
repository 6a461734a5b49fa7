//! What was measured: rows, targets, and the table as text, Markdown and JSON.

use super::Result;
use super::machine::Machine;
use super::plot::Plot;
use super::samples::Samples;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt::Write;

/// Everything that was measured.
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) groups: Vec<Group>,
}

/// Figures of one kind.
pub(super) struct Group {
    /// Shown below its table, and a file of its own.
    pub(super) plot: Option<Plot>,
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
    /// Empty where there is none, and no values of theirs.
    pub(super) peer: Cow<'static, str>,
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
    /// Nothing promised: how many times faster is for information.
    Factor,
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
    /// At least so much of theirs, where more is better.
    Share(f64),
    /// At least so much, in the row's unit, or so much of theirs.
    AtLeastOrShare(f64, f64),
}

impl Row {
    /// What the target is about, round by round.
    fn compared(&self) -> Samples {
        match self.target {
            Target::None | Target::Times(_) | Target::Share(_) | Target::AtLeastOrShare(..) => {
                self.ours.with(&self.theirs, |ours, theirs| ours / theirs)
            }
            Target::Faster(_) | Target::Factor => {
                self.ours.with(&self.theirs, |ours, theirs| theirs / ours)
            }
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
            Target::None | Target::Difference | Target::Factor => None,
            Target::Times(most) | Target::More(most) | Target::AtMost(most) => Some(value <= most),
            Target::Faster(least) | Target::AtLeast(least) | Target::Share(least) => {
                Some(value >= least)
            }
            Target::AtLeastOrShare(least, share) => {
                Some(value >= share || self.ours.median() >= least)
            }
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
            Target::Factor => (format!("{}× faster", number(value)), String::new()),
            Target::Difference => (difference(value, off, unit), String::new()),
            Target::More(most) => (difference(value, off, unit), format!("≤ +{most} {unit}")),
            Target::AtLeast(least) => (number(value), format!("≥ {}", number(least))),
            Target::AtMost(most) => (number(value), format!("≤ {}", number(most))),
            Target::Share(least) => (times(value, off), format!("≥ {}×", number(least))),
            Target::AtLeastOrShare(least, share) => (
                times(value, off),
                format!("≥ {} or ≥ {}×", number(least), number(share)),
            ),
        };
        let met = match self.met() {
            None => "",
            Some(true) => "yes",
            Some(false) => "**no**",
        };
        [
            self.what.clone(),
            self.peer.to_string(),
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
    if value.is_nan() {
        return String::new();
    }
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

/// The head of the section of all values.
const ROUNDS: &str = "## Every round";

impl Group {
    /// Its part of docs/benchmarks.md.
    fn section(&self) -> String {
        let mut text = format!("\n## {}\n\n{}\n\n", self.title, self.method);
        let _ = writeln!(text, "| {} |", HEAD.join(" | "));
        let _ = writeln!(text, "|{}", "---|".repeat(HEAD.len()));
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.cells().join(" | "));
        }
        if let Some(plot) = &self.plot {
            let _ = write!(text, "\n{}\n", plot.markdown());
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }

    /// Its values, a line for each side of a row.
    fn rounds(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let sides = [(row.peer.as_ref(), &row.theirs), ("strongroom", &row.ours)];
            for (who, samples) in sides {
                if samples.0.is_empty() {
                    continue;
                }
                let values: Vec<_> = samples.0.iter().map(|&value| number(value)).collect();
                let _ = writeln!(
                    text,
                    "{} | {} | {who}, {}: {}",
                    self.title,
                    row.what,
                    row.unit,
                    values.join(" ")
                );
            }
        }
        text
    }
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
            text.push_str(&group.section());
        }
        let _ = write!(text, "\n{ROUNDS}\n\n```\n");
        for group in &self.groups {
            text.push_str(&group.rounds());
        }
        text.push_str("```\n");
        text
    }

    /// docs/benchmarks.md with the sections of these groups in place of what it says of them: the others stay.
    pub(super) fn put_into(&self, document: &str) -> Result<String> {
        let (sections, rounds) = document
            .split_once(&format!("\n{ROUNDS}\n\n```\n"))
            .and_then(|(sections, rounds)| Some((sections, rounds.strip_suffix("```\n")?)))
            .ok_or("docs/benchmarks.md is not as this writes it: write all of it")?;
        let mut sections: Vec<String> = sections.split("\n## ").map(str::to_owned).collect();
        let mut rounds: Vec<&str> = rounds.lines().collect();
        for group in &self.groups {
            let mut section = group.section();
            let _ = write!(section, "\n{}\n", self.machine.sentence());
            let section = section.trim_start_matches("\n## ").trim_end_matches('\n');
            let old = sections
                .iter_mut()
                .find(|old| old.lines().next() == Some(group.title));
            match old {
                Some(old) => *old = format!("{section}\n"),
                None => sections.push(format!("{section}\n")),
            }
            let begin = format!("{} | ", group.title);
            rounds.retain(|line| !line.starts_with(&begin));
        }
        let mut text = sections.join("\n## ");
        let _ = write!(text, "\n{ROUNDS}\n\n```\n");
        for line in rounds {
            let _ = writeln!(text, "{line}");
        }
        for group in &self.groups {
            text.push_str(&group.rounds());
        }
        text.push_str("```\n");
        Ok(text)
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
            peer: "peer".into(),
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
    fn rates_have_targets_too() {
        assert_eq!(row(&[2.0], &[1.7], Target::Share(0.9)).met(), Some(false));
        let either = Target::AtLeastOrShare(2.0, 0.9);
        assert_eq!(row(&[9.0], &[2.1], either).met(), Some(true));
        assert_eq!(row(&[1.0], &[0.95], either).met(), Some(true));
        assert_eq!(row(&[9.0], &[1.9], either).met(), Some(false));
    }

    #[test]
    fn a_section_is_replaced_and_the_others_stay() {
        let group = |title, ours| Group {
            plot: None,
            title,
            method: "Work.",
            rows: vec![row(&[1.0], &[ours], Target::None)],
            notes: vec!["A note.".to_owned()],
        };
        let report = |groups| Report {
            machine: Machine::of_this().unwrap(),
            groups,
        };
        let whole = report(vec![group("One", 3.0), group("Two", 4.0)]).to_markdown();
        let new = report(vec![group("One", 7.0), group("Three", 8.0)]);
        let once = new.put_into(&whole).unwrap();
        assert_eq!(once.matches("## One").count(), 1);
        assert!(!once.contains("3.000×") && once.contains("7.000×") && once.contains("8.000×"));
        assert!(once.contains("4.000×") && once.contains("Two | work | strongroom, ms: 4\n"));
        assert!(!once.contains("One | work | strongroom, ms: 3\n"));
        // Nothing grows by doing it again.
        let twice = new.put_into(&once).unwrap();
        assert_eq!(once.len(), twice.len());
        assert!(new.put_into("# Benchmarks\n").is_err());
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
