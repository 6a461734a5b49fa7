//! The kernels that a guest can run: Debian's own, or one that is built here.

use super::cache::Cache;
use super::{built, stock};
use std::path::PathBuf;

/// `--kernel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// Debian's 6.12, as its package has it
    Stock,
    /// 6.12 from Debian's source with xtask/kernel/fragment.config; built once, some 5 minutes
    Built,
    /// The same source with xtask/kernel/debug.config too: KASAN, lockdep and others. Slow; its first
    /// report ends the guest and fails the run
    Debug,
}

/// A kernel to boot.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its version, and which of the kernels it is.
    pub(super) name: String,
    pub(super) image: PathBuf,
    /// lib/modules/RELEASE, where it has modules.
    pub(super) modules: Option<PathBuf>,
    /// For its command line.
    pub(super) append: &'static str,
    /// A run fails of what the kernel reports, too: see [`super::reports`].
    pub(super) reports: bool,
}

impl Kernel {
    /// Fetches or builds it where that was not done before; for that, packages are installed if `install`.
    pub(super) fn get(cache: &Cache, choice: Choice, install: bool) -> Result<Self, String> {
        match choice {
            Choice::Stock => stock::get(cache),
            Choice::Built => built::get(cache, &built::BUILT, install),
            Choice::Debug => built::get(cache, &built::DEBUGGING, install),
        }
    }
}
