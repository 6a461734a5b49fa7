//! `cargo xtask test`: everything that proves the project, and what it needs.

use crate::packages;
use std::path::Path;
use std::process::Command;

/// Run the tests.
///
/// Installs the Debian packages that the tests use where it is root, and names them where it
/// is not. A test that cannot run here (no root, no memfd_secret …) is reported as skipped with
/// the reason; with STRONGROOM_NO_SKIP=1 that is a failure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not look for Debian packages
    #[arg(long)]
    no_install: bool,
    /// Only tests whose name contains one of these
    filters: Vec<String>,
}

pub(crate) fn run(args: &Args, root: &Path) -> Result<(), String> {
    if !args.no_install {
        packages::ensure()?;
    }
    let skips = root.join("target").join("skipped-tests");
    let _ = std::fs::remove_file(&skips);
    let outcome = cargo(
        root,
        &skips,
        "the tests",
        &["test", "--workspace", "--all-targets", "--no-fail-fast"],
        args,
    )
    .and_then(|()| {
        cargo(
            root,
            &skips,
            "the examples in the documentation",
            &["test", "--workspace", "--doc"],
            args,
        )
    });
    report(&skips);
    outcome
}

fn cargo(
    root: &Path,
    skips: &Path,
    what: &str,
    arguments: &[&str],
    args: &Args,
) -> Result<(), String> {
    eprintln!("xtask: {what}");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .arg("--")
        .args(&args.filters)
        .current_dir(root)
        .env("STRONGROOM_SKIP_LOG", skips)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("{what} failed")),
        Err(error) => Err(format!("cargo cannot be started: {error}")),
    }
}

fn report(skips: &Path) {
    let text = std::fs::read_to_string(skips).unwrap_or_default();
    if !text.is_empty() {
        eprintln!("xtask: {} skipped:\n{text}", text.lines().count());
    }
}
