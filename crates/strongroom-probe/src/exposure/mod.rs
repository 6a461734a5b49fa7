//! Who can reach a mapping of a live process, from what the kernel tells about it.
//!
//! * [`Adversary`]: those who may want it.
//! * [`Process`]: what decides for the whole process; [`Machine`]: for all processes.
//! * [`Mapping`]: one mapping, from [`mappings`], which walks /proc/PID/smaps.
//! * [`of`]: who reaches it, and why or why not.
//!
//! What is told is the state at that moment. Where a rule cannot be decided from outside, the answer
//! is [`Reach::Unknown`], never "out of reach".

mod adversary;
mod machine;
mod mapping;
mod process;
mod rules;

pub use adversary::Adversary;
pub use machine::{CorePattern, Machine};
pub use mapping::{Backing, Mapping, Mappings, mappings};
pub use process::{Environment, Limit, Process, SecretDescriptor};
pub use rules::{kernel_dump, of, same_user};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::io;

/// Whether an adversary gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// It does.
    Reachable,
    /// It does not.
    OutOfReach,
    /// It cannot be told from here.
    Unknown,
}

/// An answer and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The answer.
    pub reach: Reach,
    /// The reason, in a few words.
    pub why: Cow<'static, str>,
}

impl Finding {
    pub(crate) fn reachable(why: impl Into<Cow<'static, str>>) -> Self {
        let (reach, why) = (Reach::Reachable, why.into());
        Self { reach, why }
    }

    pub(crate) fn out_of_reach(why: impl Into<Cow<'static, str>>) -> Self {
        let (reach, why) = (Reach::OutOfReach, why.into());
        Self { reach, why }
    }

    pub(crate) fn unknown(why: impl Into<Cow<'static, str>>) -> Self {
        let (reach, why) = (Reach::Unknown, why.into());
        Self { reach, why }
    }
}

/// Who reaches a mapping: a finding for each adversary. It serializes as an object by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    findings: [Finding; Adversary::ALL.len()],
}

impl Exposure {
    /// Asks for each adversary.
    pub(crate) fn by(find: impl FnMut(Adversary) -> Finding) -> Self {
        let findings = Adversary::ALL.map(find);
        Self { findings }
    }

    /// What is found for an adversary.
    pub fn get(&self, adversary: Adversary) -> &Finding {
        // An adversary's index is its place in ALL, and there is a finding for each.
        &self.findings[adversary.index()]
    }

    /// Puts what was measured in the place of what was inferred.
    pub fn set(&mut self, adversary: Adversary, finding: Finding) {
        self.findings[adversary.index()] = finding;
    }

    /// All findings, in the order of [`Adversary::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Adversary, &Finding)> {
        Adversary::ALL.into_iter().zip(&self.findings)
    }

    /// Those who reach it.
    pub fn reached_by(&self) -> impl Iterator<Item = Adversary> {
        self.iter()
            .filter(|(_, finding)| finding.reach == Reach::Reachable)
            .map(|(adversary, _)| adversary)
    }

    /// Whether every adversary is known not to get there.
    pub fn is_out_of_reach(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.reach == Reach::OutOfReach)
    }
}

impl Serialize for Exposure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.findings.len()))?;
        for (adversary, finding) in self.iter() {
            map.serialize_entry(adversary.name(), finding)?;
        }
        map.end()
    }
}

/// Why a process cannot be looked at, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such process.
    #[error("there is no process {0}")]
    Absent(i32),
    /// A kernel thread has no memory of its own.
    #[error("process {pid} ({name}) is a kernel thread and has no memory of its own")]
    KernelThread {
        /// The process.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// It has ended, and its parent has not waited for it.
    #[error("process {pid} ({name}) has ended and has no memory any more (a zombie)")]
    Zombie {
        /// The process.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// Its first thread has ended, and its memory is to be found under another thread's number.
    #[error(
        "the first thread of process {pid} ({name}) has ended; thread {thread} goes on with its memory"
    )]
    Headless {
        /// The process.
        pid: i32,
        /// Its name.
        name: String,
        /// A thread that has not ended.
        thread: i32,
    },
    /// The kernel does not let this user look.
    #[error("{file} of process {pid} ({name}) may not be read: {error}")]
    Denied {
        /// The process.
        pid: i32,
        /// Its name.
        name: String,
        /// The file of /proc/PID.
        file: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// It ended while it was looked at.
    #[error("process {0} ended meanwhile")]
    Ended(i32),
    /// It became another program (exec) while it was looked at: its memory is not the one that was asked about.
    #[error("process {0} became another program meanwhile")]
    Replaced(i32),
    /// Something else.
    #[error("{path}: {error}")]
    Io {
        /// What was read.
        path: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// A line that is not understood.
    #[error("{path}: a line is not understood: {line}")]
    Line {
        /// What was read.
        path: String,
        /// The line.
        line: String,
    },
}
