//! The shared libraries that a program needs, as ldd resolves them here.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The loader and the libraries of a program, by the names that the loader looks for. None for a
/// static program or a script.
pub(super) fn of(program: &Path) -> Result<Vec<PathBuf>, String> {
    let output = Command::new("ldd")
        .arg(program)
        // What cargo sets for its own children is not so in the guest.
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("LD_PRELOAD")
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| format!("ldd cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse(&text).map_err(|name| format!("{} needs {name}, which is not here", program.display()))
}

/// The paths in ldd's answer; the name of a library that it did not find otherwise.
fn parse(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut all = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" => not found") {
            return Err(name.to_owned());
        }
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            all.push(PathBuf::from(path));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(
            parse(text).unwrap(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
            .map(PathBuf::from)
        );
        assert_eq!(
            parse("\tnot a dynamic executable\n").unwrap(),
            [""; 0].map(PathBuf::from)
        );
        assert_eq!(parse("\tlibx.so => not found\n").unwrap_err(), "libx.so");
    }
}
