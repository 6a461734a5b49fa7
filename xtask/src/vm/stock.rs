//! Debian's kernel, out of its package, which is not installed.

use super::cache::{Cache, because};
use super::debian;
use super::kernel::Kernel;
use std::fs;

/// Debian 12 has it in bookworm-security, 13 as its own.
const SERIES: &str = "linux-image-6.12.";

/// The newest release that apt knows, as `uname -r` gives it.
pub(crate) fn release(cache: &Cache) -> Result<String, String> {
    let package = debian::names(SERIES)
        .into_iter()
        .filter_map(|name| Some((patch(&name)?, name)))
        .max()
        .map(|(_, name)| name)
        .or_else(|| earlier(cache))
        .ok_or(
            "apt knows no linux-image-6.12.…-amd64: as root, `apt-get update`; Debian 12 has it in bookworm-security",
        )?;
    let release = package.strip_prefix("linux-image-").unwrap_or(&package);
    Ok(release.to_owned())
}

pub(super) fn get(cache: &Cache) -> Result<Kernel, String> {
    let release = release(cache)?;
    let package = format!("linux-image-{release}");
    let files = debian::unpacked(cache, &package)?;
    let modules = files.join("lib/modules").join(&release);
    let usr = files.join("usr/lib/modules").join(&release);
    let image = files.join("boot").join(format!("vmlinuz-{release}"));
    fs::metadata(&image).map_err(because(&image))?;
    let kept = cache.path("packages");
    for old in fs::read_dir(&kept).map_err(because(&kept))?.flatten() {
        let name = old.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(SERIES) && !name.starts_with(&format!("{package}_")) {
            let _ = fs::remove_dir_all(old.path());
        }
    }
    Ok(Kernel {
        name: format!("Debian's {release}"),
        image,
        modules: [modules, usr].into_iter().find(|path| path.exists()),
        append: "",
        reports: false,
    })
}

/// The patch level in a name of the plain flavour; signed, as the unsigned one is the same but for that.
fn patch(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(SERIES)?.strip_suffix("-amd64")?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, flavour) = rest.split_at(digits);
    if flavour.ends_with("-rt") || flavour.ends_with("-cloud") {
        return None;
    }
    number.parse().ok()
}

/// One that was downloaded before.
fn earlier(cache: &Cache) -> Option<String> {
    let names = fs::read_dir(cache.path("packages")).ok()?.flatten();
    names
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (package, _) = name.split_once('_')?;
            Some((patch(package)?, package.to_owned()))
        })
        .max()
        .map(|(_, package)| package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plain_flavour_counts() {
        assert_eq!(patch("linux-image-6.12.117+deb12-amd64"), Some(117));
        assert_eq!(patch("linux-image-6.12.9-amd64"), Some(9));
        for other in [
            "linux-image-6.12.117+deb12-rt-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-amd64-dbg",
            "linux-image-6.12-amd64",
            "linux-image-6.1.0-50-amd64",
        ] {
            assert_eq!(patch(other), None, "{other}");
        }
    }
}
