//! The tree of a kernel that a module is built against.

use super::Target;
use crate::vm::{Cache, Choice, built, debian, stock};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A configured kernel.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) directory: PathBuf,
}

impl Tree {
    /// Fetches it where need be.
    pub(super) fn get(cache: &Cache, target: &Target, install: bool) -> Result<Self, String> {
        let directory = match target {
            Target::Tree(directory) => directory.clone(),
            Target::Known(Choice::Stock) => headers(cache)?,
            Target::Known(Choice::Built) => built::tree(cache, &built::BUILT, install)?,
            Target::Known(Choice::Debug) => built::tree(cache, &built::DEBUGGING, install)?,
        };
        Ok(Self { directory })
    }
}

/// Debian's headers, out of three packages that expect to be installed.
fn headers(cache: &Cache) -> Result<PathBuf, String> {
    let release = stock::release(cache)?;
    let base = release.strip_suffix("-amd64").unwrap_or(&release);
    let parts = [
        format!("linux-headers-{release}"),
        format!("linux-headers-{base}-common"),
        format!("linux-kbuild-{base}"),
    ];
    let mut unpacked = Vec::new();
    for part in &parts {
        unpacked.push(debian::unpacked(cache, part)?);
    }
    let _lock = cache.lock("headers")?;
    let place = cache.path(&format!("headers-{release}"));
    let tree = place.join("usr/src").join(&parts[0]);
    if place.exists() {
        return Ok(tree);
    }
    let because = |error: std::io::Error| format!("{}: {error}", place.display());
    let work = tempfile::tempdir_in(cache.path("")).map_err(because)?;
    let files = work.path().join("files");
    fs::create_dir(&files).map_err(because)?;
    for part in &unpacked {
        let status = Command::new("cp")
            .arg("--archive")
            .arg(part.join("."))
            .arg(&files)
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(format!("{} could not be copied", part.display()));
        }
    }
    let source = files.join("usr/src").join(&parts[0]);
    // Its Makefile names the common one by its place when installed.
    let common = place.join("usr/src").join(&parts[1]).join("Makefile");
    fs::write(
        source.join("Makefile"),
        format!("include {}\n", common.display()),
    )
    .map_err(because)?;
    // With it there, pahole is called to add type information, which nothing here reads.
    let _ = fs::remove_file(source.join("vmlinux"));
    fs::rename(&files, &place).map_err(because)?;
    Ok(tree)
}

/// Makes a directory that holds nothing of before.
pub(super) fn fresh(directory: &Path) -> Result<(), String> {
    let because = |error: std::io::Error| format!("{}: {error}", directory.display());
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).map_err(because)
}
