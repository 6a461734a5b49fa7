//! What goes into the guest of this workspace: built here, as `cargo test` builds it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A test target, the unit tests of a crate's library, or one of its own benches with what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TestTarget {
    pub(super) package: String,
    pub(super) target: String,
    /// The arguments of a bench, where it is one.
    pub(super) bench: Option<String>,
}

/// A program of a package.
pub(super) fn program(root: &Path, package: &str, name: &str) -> Result<PathBuf, String> {
    super::say(&format!("building {name}"));
    let built = cargo(root, &["build", "--package", package])?;
    built
        .into_iter()
        .find(|(built, _)| built == name)
        .map(|(_, path)| path)
        .ok_or_else(|| format!("cargo built no `{name}`"))
}

/// A program of tests.
pub(super) fn tests(root: &Path, test: &TestTarget) -> Result<PathBuf, String> {
    let TestTarget {
        package,
        target,
        bench,
    } = test;
    super::say(&format!("building {package}/{target}"));
    let command = if bench.is_some() { "bench" } else { "test" };
    let mut arguments = vec![command, "--no-run", "--package", package];
    if bench.is_some() {
        arguments.extend(["--bench", target]);
    } else if target == "lib" {
        arguments.push("--lib");
    } else {
        arguments.extend(["--test", target]);
    }
    let built = cargo(root, &arguments)?;
    let library = package.replace('-', "_");
    let wanted = if target == "lib" { &library } else { target };
    built
        .into_iter()
        .find(|(name, _)| name == wanted)
        .map(|(_, path)| path)
        .ok_or_else(|| format!("cargo built no test {package}/{target}"))
}

/// A copy without what only a debugger reads, which is most of it: the guest's kernel unpacks all that it has, and a
/// slow one has no time for that. Where this machine has no strip(1), the program as it is.
pub(super) fn stripped(program: &Path, directory: &Path) -> PathBuf {
    let copy = directory.join(program.file_name().unwrap_or_default());
    let done = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .args([&copy, program])
        .stderr(Stdio::null())
        .status();
    match done {
        Ok(status) if status.success() => copy,
        _ => program.to_owned(),
    }
}

/// The executables that a cargo command built, by their target's name.
fn cargo(root: &Path, arguments: &[&str]) -> Result<Vec<(String, PathBuf)>, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo {} failed", arguments.join(" ")));
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let path = PathBuf::from(message.get("executable")?.as_str()?);
            let name = message.get("target")?.get("name")?.as_str()?.to_owned();
            Some((name, path))
        })
        .collect())
}
