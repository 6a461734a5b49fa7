//! Every mapping of a live process, and who reaches it.
//!
//! * [`Audit`]: looks at the process, then walks its mappings, one after another; it keeps none.
//! * [`Entry`]: one mapping, of a [`Kind`], with its [`Exposure`].
//! * [`Tally`]: how much each adversary reaches.
//! * [`Hole`]: what lets it, for the process or the machine, and how to close it.
//!
//! What may hold a secret is counted: the pages that the process itself wrote (see [`Entry::own`]).

mod entry;
mod hole;
mod kind;
mod sample;
mod stacks;
mod tally;

pub use entry::Entry;
pub use hole::{Hole, Severity};
pub use kind::Kind;
pub use tally::{Amount, Tally};

use crate::exposure::{self, Adversary, Exposure, Process, Refusal};
use kind::Classes;
use sample::Sampler;

/// A process under audit.
#[derive(Debug)]
pub struct Audit {
    /// What decides for the whole process.
    pub process: Process,
    /// Whether root looks.
    pub as_root: bool,
    /// Why the direct map is not read but inferred; none where it is read.
    pub inferred: Option<String>,
    sampler: Option<Sampler>,
}

/// What comes of a walk.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended early, if it did: what was seen until then is true.
    pub partial: Option<String>,
    /// What each adversary reaches, the one who reaches most first.
    pub summary: Vec<Tally>,
    /// The most severe first.
    pub holes: Vec<Hole>,
    /// How many mappings were seen.
    pub mappings: u64,
}

impl Audit {
    /// Looks at a process.
    ///
    /// # Errors
    /// Where there is none, it has no memory of its own, or this user may not look.
    pub fn of(pid: i32) -> Result<Self, Refusal> {
        let process = Process::read(pid)?;
        // Sooner than the walk: whoever may not look is told so before anything is printed.
        exposure::mappings(pid)?;
        let (sampler, inferred) = match Sampler::new(pid) {
            Ok(sampler) => (Some(sampler), None),
            Err(refusal) => (None, Some(refusal.to_string())),
        };
        Ok(Self {
            process,
            as_root: rustix::process::geteuid().is_root(),
            inferred,
            sampler,
        })
    }

    /// Shows each mapping, in the order of addresses, and says what it all comes to.
    ///
    /// # Errors
    /// Those of `show`, which end the walk. An end of the process is none: see [`Outcome::partial`].
    pub fn walk<E>(&mut self, mut show: impl FnMut(&Entry) -> Result<(), E>) -> Result<Outcome, E> {
        let pid = self.process.pid;
        let mut tallies = Adversary::ALL.map(Tally::new);
        let mut seen = hole::Seen::default();
        let mut mappings = 0;
        let mut partial = None;
        match exposure::mappings(pid) {
            Err(refusal) => partial = Some(refusal),
            Ok(walk) => {
                let mut classes = Classes::new(&self.process, stacks::pointers(pid));
                for mapping in walk {
                    let mapping = match mapping {
                        Ok(mapping) => mapping,
                        Err(refusal) => {
                            partial = Some(refusal);
                            break;
                        }
                    };
                    let entry = self.entry(mapping, &mut classes);
                    mappings += 1;
                    seen.add(&entry);
                    for tally in &mut tallies {
                        tally.add(&entry);
                    }
                    show(&entry)?;
                }
            }
        }
        let mut summary = tallies.to_vec();
        summary.sort_by_key(|tally| std::cmp::Reverse(tally.reachable.bytes));
        Ok(Outcome {
            partial: partial
                .map(|refusal| format!("{refusal}: what follows is what was seen until then")),
            summary,
            holes: hole::of(&self.process, &seen),
            mappings,
        })
    }

    fn entry(&mut self, mapping: exposure::Mapping, classes: &mut Classes) -> Entry {
        let backing = mapping.backing(&self.process.machine);
        let kind = classes.of(&mapping, backing);
        let own = own(&mapping, kind, &self.process);
        let mut measured = Vec::new();
        let exposure = (mapping.rss + mapping.hugetlb + mapping.swap > 0).then(|| {
            let mut exposure: Exposure = exposure::of(&self.process, &mapping);
            let sampled = self.sampler.as_mut().filter(|_| own > 0);
            if let Some(finding) = sampled.and_then(|sampler| sampler.direct_map(&mapping, kind)) {
                exposure.set(Adversary::DirectMap, finding);
                measured.push(Adversary::DirectMap);
            }
            exposure
        });
        Entry {
            mapping,
            kind,
            own,
            exposure,
            measured,
        }
    }
}

/// What may hold a secret: written by the process, and still to be written, or of no file. What the
/// loader made read-only in a program's or a library's data are addresses.
fn own(mapping: &exposure::Mapping, kind: Kind, process: &Process) -> u64 {
    match kind {
        Kind::Program | Kind::Library | Kind::File | Kind::Shared if !mapping.is_writable() => 0,
        _ => mapping.own(&process.machine),
    }
}
