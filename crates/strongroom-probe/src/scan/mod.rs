//! Key material in memory, and where it is.
//!
//! * [`find`]: the finders, one a file.
//! * [`key`]: keys that are given, and what of them to look for.
//! * [`openssh`]: OpenSSH's own encoding, which both read.
//! * [`source`]: a live process, a core, any file, and the window that slides over them.
//!
//! A [`Scan`] has all three meet, and makes a [`Report`].

mod find;
mod key;
mod openssh;
mod report;
mod source;

pub use find::{Finders, Kind};
pub use key::{Ask, Key, Unusable};
pub use report::{Hit, Report, Subject, Target};
pub use source::{Coverage, Place};

use crate::exposure::Refusal;
use find::{Identity, Memory, Needle, NoMemory, Search};
use source::window::{Catches, Window};
use source::{Outcome, core, file, process};
use std::fs::File;
use std::io;
use std::path::Path;
use zeroize::Zeroizing;

/// Hears how many bytes of how many have been looked at.
pub type Step<'a> = &'a mut dyn FnMut(u64, u64);

/// The shortest pattern, in bytes: shorter ones are everywhere.
pub const SHORTEST: usize = 4;
/// The longest pattern, in bytes.
pub const LONGEST: usize = 4096;

/// Bytes to look for.
pub struct Pattern {
    /// How it is called in reports: not its bytes.
    pub name: String,
    /// The bytes, from [`SHORTEST`] to [`LONGEST`] of them.
    pub bytes: Zeroizing<Vec<u8>>,
}

/// What to look for.
#[derive(Default)]
pub struct Scan {
    /// Keys whose parts are looked for.
    pub keys: Vec<Key>,
    /// Patterns.
    pub patterns: Vec<Pattern>,
    /// What else is looked for.
    pub finders: Finders,
    /// Whether hits carry their bytes.
    pub show: bool,
}

/// Why nothing could be scanned.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The process cannot be looked at.
    #[error(transparent)]
    Process(#[from] Refusal),
    /// It is this process: its own buffers hold what it looks for.
    #[error("process {0} is the one that scans, and holds what it looks for")]
    Itself(i32),
    /// The file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// What the kernel said.
        error: io::Error,
    },
}

impl Scan {
    /// Scans a live process.
    ///
    /// # Errors
    /// Where its memory cannot be read at all. One that ends meanwhile gives a partial report.
    pub fn process(&self, pid: i32, step: Step<'_>) -> Result<Report, Failed> {
        if std::process::id().cast_signed() == pid {
            return Err(Failed::Itself(pid));
        }
        let live = process::open(pid)?;
        let target = Target::Process {
            pid,
            name: live.name().to_owned(),
        };
        let (outcome, catches) = self.search(&live, |window| live.read(window, step))?;
        Ok(self.report(target, outcome, catches))
    }

    /// Scans an ELF core by its segments, or any other file as it is.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn file(&self, path: &Path, step: Step<'_>) -> Result<Report, Failed> {
        let name = path.display().to_string();
        let failed = |error| Failed::File {
            path: name.clone(),
            error,
        };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let (mut outcome, catches, is_core, is_broken) = match core::open(&file).map_err(failed)? {
            core::Kind::Core(core) => {
                let read = self.search(&core, |window| core.read(window, step));
                let (outcome, catches) = read.map_err(failed)?;
                (outcome, catches, true, false)
            }
            other => {
                let read = |window: &mut Window<'_>| file::read(path, &file, window, step);
                let (outcome, catches) = self.search(&NoMemory, read).map_err(failed)?;
                let is_broken = matches!(other, core::Kind::Broken);
                (outcome, catches, false, is_broken)
            }
        };
        if is_broken {
            let gap = "a core whose heads cannot be parsed: scanned as a file, without addresses";
            outcome.gaps.push(gap.to_owned());
        }
        let path = name.clone();
        let target = if is_core {
            Target::Core { path }
        } else {
            Target::File { path }
        };
        Ok(self.report(target, outcome, catches))
    }

    fn search<E>(
        &self,
        memory: &dyn Memory,
        read: impl FnOnce(&mut Window<'_>) -> Result<Outcome, E>,
    ) -> Result<(Outcome, Catches), E> {
        let mut search = Search::new(self.finders, self.needles());
        let mut window = Window::new(&mut search, memory, self.show);
        let outcome = read(&mut window)?;
        Ok((outcome, window.finish()))
    }

    fn needles(&self) -> Vec<Needle> {
        let keys = self.keys.iter().enumerate();
        let keys = keys.flat_map(|(number, key)| key.needles(number));
        let patterns = self.patterns.iter().enumerate();
        let patterns = patterns.map(|(number, pattern)| Needle {
            bytes: pattern.bytes.clone(),
            kind: Kind::Pattern,
            what: "pattern".to_owned(),
            identity: Identity::Pattern(number),
            in_fragments: false,
        });
        keys.chain(patterns).collect()
    }

    fn report(&self, target: Target, outcome: Outcome, catches: Catches) -> Report {
        report::of(self, target, outcome, catches)
    }
}
