//! Files out of Debian packages that are not installed: apt downloads and verifies them.

use super::cache::{Cache, because};
use super::say;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The names of all packages that begin so.
pub(super) fn names(prefix: &str) -> Vec<String> {
    let output = Command::new("apt-cache")
        .args(["pkgnames", prefix])
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The version that apt would take; `None` where it knows no such package.
pub(super) fn candidate(package: &str) -> Option<String> {
    let output = Command::new("apt-cache")
        .args(["policy", package])
        .env("LC_ALL", "C")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// A directory with the files of a package, at apt's version of it. Where apt knows none, that of
/// an earlier download.
pub(crate) fn unpacked(cache: &Cache, package: &str) -> Result<PathBuf, String> {
    let _lock = cache.lock("packages")?;
    let kept = cache.path("packages");
    let prefix = format!("{package}_");
    let earlier = || {
        let mut all: Vec<_> = fs::read_dir(&kept)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            })
            .collect();
        all.sort();
        all
    };
    let Some(version) = candidate(package) else {
        return earlier().pop().ok_or_else(|| {
            format!("apt knows no package {package}: is this Debian, and did `apt-get update` run?")
        });
    };
    let place = kept.join(format!("{prefix}{version}"));
    if place.exists() {
        return Ok(place);
    }
    say(&format!("downloading {package} {version}"));
    let work = tempfile::tempdir_in(cache.path("")).map_err(because(&cache.path("")))?;
    download(work.path(), package, &version)?;
    let archive = fs::read_dir(work.path())
        .map_err(because(work.path()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .ok_or_else(|| format!("apt-get downloaded no {package}"))?;
    let files = work.path().join("files");
    let status = Command::new("dpkg-deb")
        .arg("--extract")
        .args([&archive, &files])
        .status();
    if !status.is_ok_and(|status| status.success()) {
        return Err(format!("dpkg-deb did not unpack {}", archive.display()));
    }
    fs::create_dir_all(&kept).map_err(because(&kept))?;
    for old in earlier() {
        let _ = fs::remove_dir_all(old);
    }
    fs::rename(&files, &place).map_err(because(&place))?;
    Ok(place)
}

fn download(directory: &Path, package: &str, version: &str) -> Result<(), String> {
    let output = Command::new("apt-get")
        .args(["download", "--quiet"])
        .arg(format!("{package}={version}"))
        .current_dir(directory)
        .output()
        .map_err(|error| format!("apt-get cannot be started: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!(
            "apt-get download {package}={version}: {}\n  a stale list of packages is mended by `apt-get update`",
            why.trim()
        ))
    }
}
