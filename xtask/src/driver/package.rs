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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// What is in a directory, by its path there.
    fn files(directory: &Path, prefix: &str, found: &mut BTreeMap<String, (u32, Vec<u8>)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                files(&path, &format!("{name}/"), found);
            } else {
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
                found.insert(name, (mode, fs::read(&path).unwrap()));
            }
        }
    }

    #[test]
    fn the_package_has_all_that_dkms_and_kbuild_ask_for() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let place = tempfile::tempdir().unwrap();
        let package = build(root, place.path()).unwrap();
        let unpacked = place.path().join("unpacked");
        output(
            Command::new("dpkg-deb")
                .arg("--raw-extract")
                .args([&package, &unpacked]),
        )
        .unwrap();
        let mut found = BTreeMap::new();
        files(&unpacked, "", &mut found);
        for (name, (mode, bytes)) in &found {
            let runs = ["DEBIAN/postinst", "DEBIAN/prerm"].contains(&name.as_str())
                || name.ends_with("/object.sh");
            assert_eq!(*mode, if runs { 0o755 } else { 0o644 }, "{name}");
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains("@VERSION@"), "{name}");
            if runs {
                let checked = Command::new("sh")
                    .arg("-n")
                    .arg(unpacked.join(name))
                    .status();
                assert!(checked.unwrap().success(), "{name}");
            }
        }
        let text = |name: &str| {
            let (_, bytes) = found.get(name).unwrap_or_else(|| panic!("no {name}"));
            String::from_utf8(bytes.clone()).unwrap()
        };
        let sources = format!("usr/src/strongroom-{VERSION}");
        // Each object that Kbuild names has a source, and each header that is included is there.
        let kbuild = text(&format!("{sources}/Kbuild"));
        let objects: Vec<_> = kbuild
            .split_whitespace()
            .filter_map(|word| word.strip_suffix(".o"))
            .filter(|word| word.starts_with("shim/"))
            .collect();
        assert!(objects.len() >= 6);
        for object in objects {
            let source = text(&format!("{sources}/{object}.c"));
            for header in source
                .lines()
                .filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'))
            {
                text(&format!("{sources}/shim/{header}"));
            }
        }
        for source in ["bitflags", "strongroom-core", "strongroom-driver"] {
            text(&format!("{sources}/rust/{source}/src/lib.rs"));
        }
        // As dkms reads it.
        let said = output(Command::new("bash").arg("-c").arg(
            ". \"$0\" && echo $PACKAGE_NAME $PACKAGE_VERSION ${BUILT_MODULE_NAME[0]} && [[ 6.12.1-x =~ $BUILD_EXCLUSIVE_KERNEL ]] && [[ ! 6.18.1 =~ $BUILD_EXCLUSIVE_KERNEL ]]",
        ).arg(unpacked.join(&sources).join("dkms.conf")));
        assert_eq!(said.unwrap(), format!("strongroom {VERSION} strongroom\n"));
        assert!(text("usr/lib/udev/rules.d/60-strongroom.rules").contains("GROUP=\"strongroom\""));
        assert!(text("usr/lib/sysusers.d/strongroom.conf").contains("g     strongroom"));
    }
}
