//! `cargo xtask test`: everything that proves the project, and what it needs.

use crate::{packages, vm};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Run the tests.
///
/// Installs the Debian packages that the tests use where it is root, and names them where it
/// is not. After the tests here, the attack suite and the driver's tests run in virtual machines, on Debian's
/// kernel: see `cargo xtask vm --help` and `cargo xtask driver --help`. A test that cannot run here (no root, no memfd_secret …) is reported as skipped with
/// the reason; with STRONGROOM_NO_SKIP=1 that is a failure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not look for Debian packages
    #[arg(long)]
    no_install: bool,
    /// Nothing in a virtual machine
    #[arg(long)]
    no_vm: bool,
    /// Only tests whose name contains one of these, and nothing in a virtual machine
    filters: Vec<String>,
}

pub(crate) fn run(args: &Args, root: &Path) -> Result<(), String> {
    if !args.no_install {
        packages::ensure()?;
    }
    let in_vm = args.filters.is_empty() && !args.no_vm;
    if in_vm && !args.no_install {
        packages::ensure_vm()?;
        packages::ensure_driver()?;
    }
    let skips = root.join("target").join("skipped-tests");
    let _ = std::fs::remove_file(&skips);
    let outcome = cargo(
        root,
        &skips,
        "the tests",
        &["test", "--workspace", "--all-targets", "--no-fail-fast"],
        args,
        in_vm,
    )
    .and_then(|()| {
        cargo(
            root,
            &skips,
            "the examples in the documentation",
            &["test", "--workspace", "--doc"],
            args,
            in_vm,
        )
    });
    // What failed here is no reason to know less of the other kernel.
    let mut outcomes = vec![outcome];
    if in_vm {
        let runs = [
            ("the attacks", vm::Args::for_tests()),
            ("the kernel driver", vm::Args::for_driver_tests()),
        ];
        for (what, run) in runs {
            outcomes.push(on_another_kernel(what, &run, root, &skips));
        }
    }
    report(&skips);
    let failed: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("; "))
    }
}

/// A part of the tests in a virtual machine.
fn on_another_kernel(what: &str, run: &vm::Args, root: &Path, skips: &Path) -> Result<(), String> {
    eprintln!("xtask: {what} on Debian's kernel, in a virtual machine");
    let start = Instant::now();
    let skipped = match vm::run(run, root) {
        Ok(skipped) => skipped,
        Err(vm::Error::Unavailable(why)) => vec![format!("{what} in the virtual machine: {why}")],
        Err(vm::Error::Failed(why)) => return Err(format!("{what} in the virtual machine: {why}")),
    };
    let seconds = start.elapsed().as_secs();
    eprintln!(
        "xtask: the virtual machine took {seconds} s, with what was built and fetched for it"
    );
    let log = std::fs::File::options()
        .append(true)
        .create(true)
        .open(skips);
    if let Ok(mut log) = log {
        for skip in &skipped {
            let _ = writeln!(log, "{skip}");
        }
    }
    // What this kernel or an emulated processor has not, another one has.
    let first = skipped
        .iter()
        .find(|skip| !skip.contains(": only elsewhere: "));
    match first {
        Some(first)
            if std::env::var_os("STRONGROOM_NO_SKIP")
                .is_some_and(|v| v != "0" && !v.is_empty()) =>
        {
            Err(format!(
                "{first}: skipped, which STRONGROOM_NO_SKIP makes a failure"
            ))
        }
        _ => Ok(()),
    }
}

fn cargo(
    root: &Path,
    skips: &Path,
    what: &str,
    arguments: &[&str],
    args: &Args,
    in_vm: bool,
) -> Result<(), String> {
    eprintln!("xtask: {what}");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if in_vm {
        // What needs the driver runs there.
        command.env("STRONGROOM_DRIVER_ELSEWHERE", "1");
    }
    let status = command
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
