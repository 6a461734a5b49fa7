//! What is kept between runs, under cargo's target directory, and what lasts for one run.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// How many consoles of failed runs are kept.
const LOGS: usize = 20;

/// The directory `vm` in the target directory.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

/// For `map_err`: what was tried with a path, and the error that ended it.
pub(super) fn because<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> String {
    move |error| format!("{}: {error}", path.display())
}

impl Cache {
    /// Opens it for the workspace at `root`.
    pub(crate) fn open(root: &Path) -> Result<Self, String> {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |path| root.join(path));
        let directory = target.join("vm");
        fs::create_dir_all(&directory).map_err(because(&directory))?;
        Ok(Self { directory })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Waits until no other process changes the part of what is kept that has this name. Given back
    /// when the file is closed.
    pub(crate) fn lock(&self, part: &str) -> Result<File, String> {
        let path = self.path(&format!("{part}.lock"));
        let file = File::create(&path).map_err(because(&path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            super::say(&format!(
                "another process prepares the {part}; waiting for it"
            ));
            flock(&file, FlockOperation::LockExclusive).map_err(because(&path))?;
        }
        Ok(file)
    }

    /// A directory for one run. Those of runs that were killed are removed first.
    pub(super) fn run(&self) -> Result<RunDirectory, String> {
        let runs = self.path("runs");
        fs::create_dir_all(&runs).map_err(because(&runs))?;
        for old in fs::read_dir(&runs).map_err(because(&runs))?.flatten() {
            let alive = File::open(old.path().join("lock"))
                .map(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err());
            // One that another process makes at this moment has no lock yet: its process is alive.
            let name = old.file_name();
            let begun = name.to_str().and_then(process_of);
            let process = begun.is_some_and(|pid| Path::new("/proc").join(pid).exists());
            if !alive.unwrap_or(process) {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(&runs)
            .map_err(because(&runs))?;
        let path = directory.path().join("lock");
        let lock = File::create(&path).map_err(because(&path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(because(&path))?;
        Ok(RunDirectory {
            directory,
            _lock: lock,
        })
    }

    /// Keeps the console of a run that failed, and returns where.
    pub(super) fn keep_log(&self, console: &Path) -> Result<PathBuf, String> {
        let logs = self.path("logs");
        fs::create_dir_all(&logs).map_err(because(&logs))?;
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let kept = logs.join(format!(
            "console-{:013}-{}.log",
            since.as_millis(),
            std::process::id()
        ));
        fs::copy(console, &kept).map_err(because(&kept))?;
        let mut all: Vec<_> = fs::read_dir(&logs)
            .map_err(because(&logs))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        all.sort();
        for old in all.iter().rev().skip(LOGS) {
            let _ = fs::remove_file(old);
        }
        Ok(kept)
    }
}

/// The process that made a run's directory.
fn process_of(name: &str) -> Option<&str> {
    name.split_once('-').map(|(pid, _)| pid)
}

/// Removed with this value, or by a later run where this process was killed.
#[derive(Debug)]
pub(super) struct RunDirectory {
    directory: tempfile::TempDir,
    _lock: File,
}

impl RunDirectory {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of `mebibytes` that takes no room until it is written.
    pub(super) fn disk(&self, name: &str, mebibytes: u64) -> Result<PathBuf, String> {
        let path = self.path(name);
        File::create(&path)
            .and_then(|file| file.set_len(mebibytes << 20))
            .map_err(because(&path))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_killed_processes_are_removed_and_those_of_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache {
            directory: directory.path().to_owned(),
        };
        let dead = cache.path("runs/999999999-x");
        fs::create_dir_all(&dead).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        let first = cache.run().unwrap();
        assert!(!dead.exists());
        let second = cache.run().unwrap();
        assert!(first.path("lock").exists() && second.path("lock").exists());
        let path = first.path("");
        drop(first);
        assert!(!path.exists());
    }
}
