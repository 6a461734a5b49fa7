//! Where the bytes come from.
//!
//! * [`window`]: hands what a source reads to the finders, in pieces.
//! * [`process`], [`core`], [`file`]: the sources.

pub(super) mod core;
pub(super) mod file;
pub(super) mod process;
pub(super) mod window;

use crate::exposure::Exposure;
use serde::{Serialize, Serializer};

/// A mapping of a process, a segment of a core, or a whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// First address, or offset in the file.
    #[serde(serialize_with = "hexadecimal")]
    pub start: u64,
    /// First address past it.
    #[serde(serialize_with = "hexadecimal")]
    pub end: u64,
    /// `rwxp`, as /proc/PID/maps has it; empty for a file.
    pub access: String,
    /// A path, or a name in brackets; may be empty.
    pub name: String,
    /// Who reaches it; none but for a live process.
    pub exposure: Option<Exposure>,
}

pub(super) fn hexadecimal<S: Serializer>(address: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{address:#x}"))
}

/// How much was looked at, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Searched.
    pub scanned: u64,
    /// There, and the kernel does not let it be read: secret memory.
    pub unreadable: u64,
    /// In how many mappings that is.
    pub unreadable_mappings: u64,
    /// Mapped, and not there: never touched, or, in a core, not dumped.
    pub absent: u64,
}

/// What a source came to, besides what was found.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) places: Vec<Place>,
    pub(super) coverage: Coverage,
    /// Why not all was seen; empty where it was.
    pub(super) gaps: Vec<String>,
}
