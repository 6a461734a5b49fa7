//! An audit: every mapping of a live process, and who reaches how many of its pages.

mod direct_map;
mod holes;
mod pages;

pub use holes::{Hole, Severity};

use crate::exposure::{self, Adversary, Backing, Exposure, Mapping, Process, Reach, Refusal};
use direct_map::{SAMPLES, Sampler};
use pages::{Found, Pagemap};
use serde::Serialize;
use strongroom_sys::PAGE;

/// What a mapping is to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The program break.
    Heap,
    /// The main thread's stack.
    Stack,
    /// Private memory of no file: allocators' arenas, other threads' stacks.
    Anonymous,
    /// Secret memory.
    Secret,
    /// Shared memory.
    Shared,
    /// Changed pages of programs and libraries: their data.
    Data,
    /// Files, as they are.
    Files,
    /// Devices, and the kernel's own pages.
    Kernel,
}

impl Group {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Heap,
        Self::Stack,
        Self::Anonymous,
        Self::Data,
        Self::Shared,
        Self::Files,
        Self::Kernel,
        Self::Secret,
    ];

    /// The name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Stack => "stack",
            Self::Anonymous => "anonymous",
            Self::Secret => "secret",
            Self::Shared => "shared",
            Self::Data => "data",
            Self::Files => "files",
            Self::Kernel => "kernel",
        }
    }

    fn of(mapping: &Mapping, backing: Backing) -> Self {
        match backing {
            Backing::Secret | Backing::SecretPerhaps => Self::Secret,
            Backing::Kernel | Backing::Device => Self::Kernel,
            Backing::SharedMemory => Self::Shared,
            Backing::File if mapping.is_shared() && mapping.is_writable() => Self::Shared,
            Backing::File if mapping.anonymous + mapping.swap > 0 => Self::Data,
            Backing::File => Self::Files,
            Backing::Anonymous if mapping.name == b"[heap]" => Self::Heap,
            Backing::Anonymous if mapping.name == b"[stack]" => Self::Stack,
            Backing::Anonymous => Self::Anonymous,
        }
    }
}

/// A mapping that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Audited {
    /// What the kernel tells of it.
    #[serde(flatten)]
    pub mapping: Mapping,
    /// What it is to a person.
    pub group: Group,
    /// What is behind it.
    pub backing: Backing,
    /// In memory, in pages.
    pub present_pages: u64,
    /// In the swap, in pages.
    pub swapped_pages: u64,
    /// The process's own, in pages: see [`Mapping::own`].
    pub own_pages: u64,
    /// Who reaches it.
    pub exposure: Exposure,
}

/// How many of the process's own pages an adversary reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Who.
    pub adversary: Adversary,
    /// Pages that it reaches.
    pub reachable: u64,
    /// The same, in bytes.
    pub reachable_bytes: u64,
    /// Of them, pages that the process may write now.
    pub reachable_writable: u64,
    /// Pages that it does not reach.
    pub out_of_reach: u64,
    /// Pages of which it cannot be told.
    pub unknown: u64,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Audit {
    schema: u32,
    /// Why it is not all of it: the process ended or became another program meanwhile.
    pub partial: Option<String>,
    /// Whether the direct map was measured on samples; else why it is inferred.
    pub direct_map: Measured,
    /// What decides for the whole process.
    pub process: Process,
    /// Pages reached, for each adversary, in the order of [`Adversary::ALL`].
    pub totals: Vec<Totals>,
    /// Holes of the whole process, the most severe first.
    pub holes: Vec<Hole>,
    /// Every mapping, by its address.
    pub mappings: Vec<Audited>,
}

/// Whether something was tried or only concluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measured {
    /// It was tried, on so many mappings.
    Mappings(usize),
    /// It could not be tried, and why.
    Inferred(String),
}

impl Audit {
    /// Audits a process. `progress` hears how many bytes of how many present ones were looked at.
    ///
    /// # Errors
    /// Where there is no such process, it has no memory, or its mappings may not be read. A process
    /// that ends while it is looked at is an audit that says so.
    pub fn of(pid: i32, mut progress: impl FnMut(u64, u64)) -> Result<Self, Refusal> {
        let process = Process::read(pid)?;
        let walk = exposure::mappings(pid)?;
        // Where it is not to be had, smaps tells how much is present.
        let mut pagemap = Pagemap::open(pid).ok();
        let mut sampler = Sampler::new();
        let total = resident(pid);
        let (mut done, mut measured) = (0, 0);
        let mut partial = None;
        let mut mappings = Vec::new();
        for mapping in walk {
            let mapping = match mapping {
                Ok(mapping) => mapping,
                Err(refusal) => {
                    partial = Some(refusal.to_string());
                    break;
                }
            };
            done += mapping.rss;
            progress(done.min(total), total);
            let mut exposure = exposure::of(&process, &mapping);
            let found = pagemap
                .as_mut()
                .and_then(|pagemap| pagemap.look(&mapping, SAMPLES).ok())
                .unwrap_or_else(|| Found {
                    present: (mapping.rss + mapping.hugetlb) / PAGE as u64,
                    swapped: mapping.swap / PAGE as u64,
                    samples: Vec::new(),
                });
            if let Ok(sampler) = &mut sampler {
                let inferred = exposure.get(Adversary::DirectMap);
                if let Some(finding) = sampler.measure(pid, &found.samples, inferred) {
                    exposure.set(Adversary::DirectMap, finding);
                    measured += 1;
                }
            }
            let backing = mapping.backing(&process.machine);
            mappings.push(Audited {
                group: Group::of(&mapping, backing),
                backing,
                present_pages: found.present,
                swapped_pages: found.swapped,
                own_pages: mapping.own(&process.machine) / PAGE as u64,
                exposure,
                mapping,
            });
        }
        let totals: Vec<Totals> = Adversary::ALL
            .into_iter()
            .map(|adversary| Totals::of(adversary, &mappings))
            .collect();
        Ok(Self {
            schema: 1,
            partial,
            direct_map: match sampler {
                Ok(_) => Measured::Mappings(measured),
                Err(why) => Measured::Inferred(why),
            },
            holes: holes::find(&process, &totals),
            totals,
            process,
            mappings,
        })
    }

    /// The process's own pages.
    pub fn own_pages(&self) -> u64 {
        self.mappings.iter().map(|mapping| mapping.own_pages).sum()
    }
}

impl Totals {
    fn of(adversary: Adversary, mappings: &[Audited]) -> Self {
        let sum = |reach, test: fn(&Mapping) -> bool| -> u64 {
            mappings
                .iter()
                .filter(|audited| audited.exposure.get(adversary).reach == reach)
                .filter(|audited| test(&audited.mapping))
                .map(|audited| audited.own_pages)
                .sum()
        };
        let reachable = sum(Reach::Reachable, |_| true);
        Self {
            adversary,
            reachable,
            reachable_bytes: reachable * PAGE as u64,
            reachable_writable: sum(Reach::Reachable, Mapping::is_writable),
            out_of_reach: sum(Reach::OutOfReach, |_| true),
            unknown: sum(Reach::Unknown, |_| true),
        }
    }
}

/// VmRSS, in bytes.
fn resident(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        let value = line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?;
        value.parse::<u64>().ok()
    });
    kib.unwrap_or_default().saturating_mul(1024)
}
