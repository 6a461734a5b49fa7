//! What a scan came to.

use super::find::{Identity, Kind};
use super::source::window::{Catch, Catches};
use super::source::{Coverage, Outcome, Place, hexadecimal};
use super::{Key, Scan};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

/// What was scanned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Target {
    /// A live process.
    Process {
        /// Its number.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// An ELF core.
    Core {
        /// Where it is.
        path: String,
    },
    /// Any other file; addresses are offsets.
    File {
        /// Where it is.
        path: String,
    },
}

/// A key or a pattern: one that was given, or one that the memory told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// What it was given as; none for one that was found.
    pub given: Option<String>,
    /// As `ssh-rsa`, `ssh-ed25519`, `AES-256`, `pattern`; empty where it is not known.
    pub algorithm: String,
    /// `SHA256:…` of the public half, as `ssh-keygen -l` has it; of the key itself for AES.
    pub fingerprint: Option<String>,
    /// How many hits it has.
    pub hits: usize,
}

/// Something that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Hit {
    /// What kind of thing it is.
    #[serde(serialize_with = "kind")]
    pub kind: Kind,
    /// What it is, in words.
    pub what: String,
    /// Where it starts: an address, or an offset in the file.
    #[serde(serialize_with = "hexadecimal")]
    pub address: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Whose it is: an index of the report's subjects.
    pub subject: usize,
    /// Where it is: an index of the report's places. None where a core's heads contradict each other.
    pub place: Option<usize>,
    /// The bytes, where they were asked for.
    #[serde(skip)]
    pub bytes: Option<Zeroizing<Vec<u8>>>,
}

fn kind<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

/// What a scan came to.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    /// What was scanned.
    pub target: Target,
    /// Whether everything that can be reached was seen.
    pub complete: bool,
    /// Why not.
    pub gaps: Vec<String>,
    /// How much was seen.
    pub coverage: Coverage,
    /// Keys and patterns: all that were given, then those that were found.
    pub subjects: Vec<Subject>,
    /// The mappings, segments or files that have hits.
    pub places: Vec<Place>,
    /// The hits, by address.
    pub hits: Vec<Hit>,
    /// How many more hits there were than are told.
    pub omitted: u64,
}

impl Report {
    /// Whether anything was found.
    pub fn has_hits(&self) -> bool {
        !self.hits.is_empty()
    }
}

pub(super) fn of(scan: &Scan, target: Target, outcome: Outcome, catches: Catches) -> Report {
    let Catches {
        mut list,
        omitted,
        scanned,
    } = catches;
    list.sort_by_key(|catch| (catch.found.address, u64::MAX - catch.found.length));
    let mut subjects = given(scan);
    let mut places: Vec<(usize, Place)> = Vec::new();
    let mut hits: Vec<Hit> = Vec::new();
    // The last thing that has parts of its own: its parts are not told again.
    let mut whole: Option<(std::ops::Range<u64>, usize)> = None;
    for Catch { found, bytes } in list {
        let end = found.address.saturating_add(found.length);
        let inside = whole
            .as_ref()
            .filter(|(range, _)| range.start <= found.address && end <= range.end);
        let subject = subject(&mut subjects, &found.identity, scan);
        if let Some(&(_, hit)) = inside {
            let is_part = matches!(found.kind, Kind::Component | Kind::OpenSsh | Kind::Der);
            // What the whole did not tell, its parts do: an encoding without the public half.
            if let Some(hit) = hits.get_mut(hit).filter(|_| is_part) {
                let unknown = subjects.get(hit.subject).is_some_and(Subject::is_unknown);
                if unknown {
                    hit.subject = subject;
                }
                continue;
            }
        }
        if matches!(found.kind, Kind::Der | Kind::OpenSsh) {
            whole = Some((found.address..end, hits.len()));
        }
        let place = outcome
            .places
            .partition_point(|place| place.end <= found.address);
        let place = outcome
            .places
            .get(place)
            .filter(|there| there.start <= found.address)
            .map(
                |there| match places.iter().position(|(index, _)| *index == place) {
                    Some(known) => known,
                    None => {
                        places.push((place, there.clone()));
                        places.len() - 1
                    }
                },
            );
        hits.push(Hit {
            kind: found.kind,
            what: found.what,
            address: found.address,
            length: found.length,
            subject,
            place,
            bytes,
        });
    }
    for hit in &hits {
        if let Some(subject) = subjects.get_mut(hit.subject) {
            subject.hits += 1;
        }
    }
    let mut coverage = outcome.coverage;
    coverage.scanned = scanned;
    drop_unused(&mut subjects, &mut hits);
    Report {
        schema: 1,
        target,
        complete: outcome.gaps.is_empty(),
        gaps: outcome.gaps,
        coverage,
        subjects,
        places: places.into_iter().map(|(_, place)| place).collect(),
        hits,
        omitted,
    }
}

impl Subject {
    fn is_unknown(&self) -> bool {
        self.given.is_none() && self.fingerprint.is_none()
    }

    fn of_key(key: &Key) -> Self {
        Self {
            given: Some(key.name.clone()),
            algorithm: key.algorithm.clone(),
            fingerprint: key.fingerprint.clone(),
            hits: 0,
        }
    }
}

fn given(scan: &Scan) -> Vec<Subject> {
    let patterns = scan.patterns.iter().map(|pattern| Subject {
        given: Some(pattern.name.clone()),
        algorithm: "pattern".to_owned(),
        fingerprint: None,
        hits: 0,
    });
    scan.keys
        .iter()
        .map(Subject::of_key)
        .chain(patterns)
        .collect()
}

fn subject(subjects: &mut Vec<Subject>, identity: &Identity, scan: &Scan) -> usize {
    match identity {
        Identity::Given(number) => *number,
        Identity::Pattern(number) => scan.keys.len() + number,
        Identity::Found {
            algorithm,
            fingerprint,
        } => {
            let same = |subject: &Subject| match fingerprint {
                Some(print) => subject.fingerprint.as_ref() == Some(print),
                // Those that tell nothing stand together.
                None => subject.is_unknown() && subject.algorithm == *algorithm,
            };
            subjects.iter().position(same).unwrap_or_else(|| {
                subjects.push(Subject {
                    given: None,
                    algorithm: algorithm.clone(),
                    fingerprint: fingerprint.clone(),
                    hits: 0,
                });
                subjects.len() - 1
            })
        }
    }
}

/// Those that were found and have come to be another's.
fn drop_unused(subjects: &mut Vec<Subject>, hits: &mut [Hit]) {
    let mut at = 0;
    while let Some(subject) = subjects.get(at) {
        if subject.hits > 0 || subject.given.is_some() {
            at += 1;
            continue;
        }
        subjects.remove(at);
        for hit in hits.iter_mut().filter(|hit| hit.subject > at) {
            hit.subject -= 1;
        }
    }
}
