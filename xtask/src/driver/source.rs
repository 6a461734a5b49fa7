//! The driver's sources in one directory, as its build and its package have them.

use super::tree;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Puts them together: `driver/` without its tests, and below `rust` the crates that the Rust part is made of.
///
/// # Errors
/// Where a file cannot be copied, or cargo does not know where bitflags is.
pub(super) fn assemble(root: &Path, to: &Path) -> Result<(), String> {
    tree::fresh(to)?;
    let driver = root.join("driver");
    for name in ["Kbuild", "Makefile"] {
        copy(&driver.join(name), &to.join(name))?;
    }
    for name in ["shim", "rust"] {
        copy_all(&driver.join(name), &to.join(name))?;
    }
    let crates = [
        ("bitflags", bitflags(root)?),
        ("strongroom-core", root.join("crates/strongroom-core")),
        ("strongroom-driver", driver),
    ];
    for (name, from) in crates {
        copy_all(&from.join("src"), &to.join("rust").join(name).join("src"))?;
    }
    Ok(())
}

/// The directory of the bitflags that strongroom-core uses.
///
/// # Errors
/// Where cargo does not know it.
pub(super) fn bitflags(root: &Path) -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let text = super::output(
        cargo
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(root),
    )?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    let manifest = metadata
        .get("packages")
        .and_then(|packages| packages.as_array())
        .into_iter()
        .flatten()
        .filter(|package| package.get("name").is_some_and(|name| name == "bitflags"))
        .find(|package| {
            let version = package.get("version").and_then(|version| version.as_str());
            version.is_some_and(|version| version.starts_with("2."))
        })
        .and_then(|package| package.get("manifest_path")?.as_str());
    let manifest = manifest.ok_or("cargo metadata knows no bitflags 2")?;
    Ok(Path::new(manifest)
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned())
}

/// Copies a file.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to)
        .map(|_| ())
        .map_err(|error| format!("{}: {error}", from.display()))
}

/// Copies the files of a directory and of those in it, without tests.
fn copy_all(from: &Path, to: &Path) -> Result<(), String> {
    let because = |error: std::io::Error| format!("{}: {error}", from.display());
    fs::create_dir_all(to).map_err(because)?;
    for entry in fs::read_dir(from).map_err(because)? {
        let entry = entry.map_err(because)?;
        if entry.file_name() == "tests" {
            continue;
        }
        let to = to.join(entry.file_name());
        if entry.file_type().map_err(because)?.is_dir() {
            copy_all(&entry.path(), &to)?;
        } else {
            copy(&entry.path(), &to)?;
        }
    }
    Ok(())
}
