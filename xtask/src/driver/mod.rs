//! `cargo xtask driver`: builds strongroom.ko, and tests it in a virtual machine.

mod module;
mod package;
mod source;
mod tree;

use crate::vm::{self, Cache, Choice, Count};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use module::build;

/// Build the kernel driver, or test it in a virtual machine.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask driver build
      strongroom.ko for Debian's 6.12, without installing its headers.
  cargo xtask driver build --kernel /lib/modules/$(uname -r)/build
      For the kernel that runs here.
  cargo xtask driver test
      The driver's tests in a virtual machine, and how many passed, failed and were skipped.
  cargo xtask driver test --kernel stock --kernel debug --steps 1000000 --seed 7
      On two kernels, with a million random steps of that seed on each.
  cargo xtask driver package
      strongroom-dkms, a Debian package that builds the module where it is installed.
  cargo xtask driver test --package
      The same tests with the module that this package gives.

It needs gcc, make and Debian's rustc-web with rust-web-src; the kernel need not be built with Rust.")]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Build strongroom.ko and say where it is
    Build(Build),
    /// Load it in a virtual machine and run its tests
    Test(Test),
    /// Pack its sources for DKMS, as a Debian package, and say where it is
    Package,
}

#[derive(Debug, clap::Args)]
struct Build {
    /// `stock`, `built`, `debug` (as for `cargo xtask vm`), or the directory of a configured kernel
    #[arg(long, default_value = "stock", value_name = "KERNEL")]
    kernel: Target,
    /// Do not look for Debian packages
    #[arg(long)]
    no_install: bool,
}

#[derive(Debug, clap::Args)]
struct Test {
    /// The kernel; several are tested one after the other
    #[arg(long = "kernel", value_enum, value_name = "KERNEL", default_values_t = [Choice::Stock])]
    kernels: Vec<Choice>,
    /// Build the module from the Debian package, as DKMS does
    #[arg(long)]
    package: bool,
    /// Do not look for Debian packages
    #[arg(long)]
    no_install: bool,
    /// Seconds after which a guest is stopped and has failed
    #[arg(long, default_value_t = 1800)]
    timeout: u64,
    #[command(flatten)]
    fuzz: vm::Fuzz,
}

/// What a module is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sources {
    /// This workspace.
    Tree,
    /// The package that is made of it.
    Package,
}

/// What a module is built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A kernel of the virtual machine.
    Known(Choice),
    /// A configured tree.
    Tree(PathBuf),
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stock" => Ok(Self::Known(Choice::Stock)),
            "built" => Ok(Self::Known(Choice::Built)),
            "debug" => Ok(Self::Known(Choice::Debug)),
            _ if Path::new(text).join("include/config/auto.conf").exists() => {
                Ok(Self::Tree(PathBuf::from(text)))
            }
            _ => Err(
                "neither `stock`, `built`, `debug` nor the directory of a configured kernel"
                    .to_owned(),
            ),
        }
    }
}

/// Runs it.
///
/// # Errors
/// Where it cannot be built, or a test failed.
pub(crate) fn run(args: &Args, root: &Path) -> Result<(), vm::Error> {
    match &args.task {
        Task::Build(args) => {
            let cache = Cache::open(root)?;
            let module = build(&cache, root, &args.kernel, Sources::Tree, !args.no_install)?;
            println!("{}", module.display());
            Ok(())
        }
        Task::Test(args) => test(args, root),
        Task::Package => {
            let target = std::env::var_os("CARGO_TARGET_DIR")
                .map_or_else(|| root.join("target"), |path| root.join(path));
            let package = package::build(root, &target.join("driver"))?;
            println!("{}", package.display());
            Ok(())
        }
    }
}

/// All parts, on each kernel; what failed on one is no reason to know less of another.
fn test(args: &Test, root: &Path) -> Result<(), vm::Error> {
    let mut count = Count::default();
    let mut outcome = Ok(());
    let sources = if args.package {
        Sources::Package
    } else {
        Sources::Tree
    };
    for &kernel in &args.kernels {
        let on = vm::Args::for_driver(
            kernel,
            sources,
            args.no_install,
            args.timeout,
            args.fuzz.clone(),
        );
        if let Err(error) = vm::run_counted(&on, root, &mut count) {
            let (vm::Error::Failed(why) | vm::Error::Unavailable(why)) = &error;
            eprintln!("xtask: driver: {kernel:?}: {why}");
            // What failed counts more than what could not be tried.
            if matches!(
                (&outcome, &error),
                (Ok(()), _) | (Err(vm::Error::Unavailable(_)), vm::Error::Failed(_))
            ) {
                outcome = Err(error);
            }
        }
    }
    eprintln!("xtask: driver: {count}");
    outcome.map_err(|error| match error {
        vm::Error::Failed(_) => vm::Error::Failed(format!("the driver's tests: {count}")),
        unavailable => unavailable,
    })
}

/// What a program writes, where it succeeds.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Err(format!(
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("{name} cannot be started: {error}")),
    }
}
