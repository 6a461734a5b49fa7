//! strongroom-dkms: the driver's sources as a Debian package, from which DKMS builds the module on the
//! machine where it is installed.

use super::{output, source, tree};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of this workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds the package into `place` and returns its path.
///
/// # Errors
/// Where a file cannot be copied, or dpkg-deb fails.
pub(super) fn build(root: &Path, place: &Path) -> Result<PathBuf, String> {
    let because = |error: std::io::Error| format!("{}: {error}", place.display());
    fs::create_dir_all(place).map_err(because)?;
    let work = tempfile::tempdir_in(place).map_err(because)?;
    let files = work.path().join("files");
    let sources = files.join(format!("usr/src/strongroom-{VERSION}"));
    source::assemble(root, &sources)?;
    let bitflags = source::bitflags(root)?;
    for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
        source::copy(
            &bitflags.join(name),
            &sources.join("rust/bitflags").join(name),
        )?;
    }
    let documents = files.join("usr/share/doc/strongroom-dkms");
    let debian = root.join("driver/debian");
    for (from, to) in [
        ("dkms.conf", sources.join("dkms.conf")),
        (
            "60-strongroom.rules",
            files.join("usr/lib/udev/rules.d/60-strongroom.rules"),
        ),
        (
            "sysusers.conf",
            files.join("usr/lib/sysusers.d/strongroom.conf"),
        ),
        (
            "modprobe.conf",
            documents.join("examples/modprobe-strongroom.conf"),
        ),
        ("copyright", documents.join("copyright")),
        ("control", files.join("DEBIAN/control")),
        ("postinst", files.join("DEBIAN/postinst")),
        ("prerm", files.join("DEBIAN/prerm")),
    ] {
        fill_in(&debian.join(from), &to)?;
    }
    for (from, to) in [
        ("LICENSE-MIT", "LICENSE-MIT"),
        ("LICENSE-APACHE", "LICENSE-APACHE"),
        ("docs/driver.md", "driver.md"),
        ("driver/ABI.md", "ABI.md"),
    ] {
        source::copy(&root.join(from), &documents.join(to))?;
    }
    set_modes(&files)?;
    let package = place.join(format!("strongroom-dkms_{VERSION}_all.deb"));
    let mut pack = Command::new("dpkg-deb");
    if std::env::var_os("SOURCE_DATE_EPOCH").is_none()
        && let Ok(time) = output(
            Command::new("git")
                .args(["log", "-1", "--format=%ct"])
                .current_dir(root),
        )
    {
        // The same sources give the same package.
        pack.env("SOURCE_DATE_EPOCH", time.trim());
    }
    output(
        pack.args(["--root-owner-group", "--build"])
            .args([&files, &package]),
    )?;
    Ok(package)
}

/// Builds the package, unpacks it below `work`, and returns the directory of the sources in it.
///
/// # Errors
/// As [`build`].
pub(super) fn unpacked(root: &Path, work: &Path) -> Result<PathBuf, String> {
    let package = build(root, work)?;
    let files = work.join("unpacked");
    tree::fresh(&files)?;
    output(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([&package, &files]),
    )?;
    Ok(files.join(format!("usr/src/strongroom-{VERSION}")))
}

/// Copies a file, with what this version is in place of `@VERSION@`.
fn fill_in(from: &Path, to: &Path) -> Result<(), String> {
    let because = |error: std::io::Error| format!("{}: {error}", from.display());
    let text = fs::read_to_string(from).map_err(because)?;
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).map_err(because)?;
    }
    fs::write(to, text.replace("@VERSION@", VERSION)).map_err(because)
}

/// The modes that a package's files have, whatever the umask was here.
fn set_modes(directory: &Path) -> Result<(), String> {
    let because = |error: std::io::Error| format!("{}: {error}", directory.display());
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    set(directory, 0o755).map_err(because)?;
    for entry in fs::read_dir(directory).map_err(because)? {
        let entry = entry.map_err(because)?;
        let path = entry.path();
        if entry.file_type().map_err(because)?.is_dir() {
            set_modes(&path)?;
        } else {
            let runs = ["postinst", "prerm", "object.sh"].map(|name| path.ends_with(name));
            set(&path, if runs.contains(&true) { 0o755 } else { 0o644 }).map_err(because)?;
        }
    }
    Ok(())
}
