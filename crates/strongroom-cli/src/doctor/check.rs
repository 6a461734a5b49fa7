//! Findings, as tables and JSON show them.

use serde::Serialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use strongroom_core::Level;

/// A text that is known beforehand or made here.
pub(super) type Text = Cow<'static, str>;

/// Everything found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The version of this form.
    pub(super) schema: u32,
    /// What `strongroom run` reaches here, if it starts programs at all.
    pub(super) level: Option<Level>,
    /// Names of checks that keep `run` from starting programs without --best-effort.
    pub(super) blocked_by: Vec<&'static str>,
    /// The kernel's release.
    pub(super) kernel: String,
    /// The findings, in the order of the table.
    pub(super) checks: Vec<Check>,
}

/// How well something serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// It works, with less than there could be.
    Limited,
    /// It is not there or does not work.
    Missing,
}

impl Status {
    /// The word that is printed.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Limited => "limited",
            Status::Missing => "missing",
        }
    }
}

/// What a check is about: the table's sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    /// The memory that secrets live in.
    Secrets,
    /// The kernel driver.
    Driver,
    /// How much of it there can be.
    Limits,
    /// What `run` needs besides.
    Run,
    /// What happens to all other memory.
    Rest,
}

impl Part {
    /// Every part, in the table's order.
    pub(super) const ALL: [Part; 5] = [
        Part::Secrets,
        Part::Driver,
        Part::Limits,
        Part::Run,
        Part::Rest,
    ];

    /// The section's heading.
    pub(super) const fn heading(self) -> &'static str {
        match self {
            Part::Secrets => "Secret memory",
            Part::Driver => "The kernel driver",
            Part::Limits => "How much of it",
            Part::Run => "What `strongroom run` needs",
            Part::Rest => "Memory that is not secret",
        }
    }
}

/// One finding.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// A stable name.
    #[serde(rename = "check")]
    pub(super) name: &'static str,
    pub(super) part: Part,
    pub(super) status: Status,
    /// What was found.
    pub(super) value: Text,
    /// Why it matters.
    pub(super) why: Text,
    /// What to do about it, where it falls short and something can be done.
    pub(super) fix: Option<Text>,
    /// The same findings for machines; sizes in bytes.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) data: Map<String, Value>,
}

impl Check {
    /// A check that is well so far.
    pub(super) fn new(
        part: Part,
        name: &'static str,
        value: impl Into<Text>,
        why: impl Into<Text>,
    ) -> Self {
        Self {
            name,
            part,
            status: Status::Ok,
            value: value.into(),
            why: why.into(),
            fix: None,
            data: Map::new(),
        }
    }

    /// Falls short. An empty `fix` is one that does not exist; `why` then explains.
    pub(super) fn falls_short(mut self, status: Status, fix: impl Into<Text>) -> Self {
        let fix = fix.into();
        self.status = status;
        self.fix = (!fix.is_empty()).then_some(fix);
        self
    }

    /// The same where `short`, as it was otherwise.
    pub(super) fn falls_short_if(self, short: bool, status: Status, fix: impl Into<Text>) -> Self {
        if short {
            self.falls_short(status, fix)
        } else {
            self
        }
    }

    /// Adds a field for machines.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.data.insert(name.to_owned(), value.into());
        self
    }
}
