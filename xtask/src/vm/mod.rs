//! `cargo xtask vm`: tests in a virtual machine, on another kernel than this machine's.

mod args;
pub(crate) mod built;
mod cache;
mod contents;
mod cpio;
pub(crate) mod debian;
mod initramfs;
mod kernel;
mod libraries;
mod modules;
mod on_driver;
mod outside;
mod programs;
mod qemu;
mod reports;
pub(crate) mod stock;
mod suites;
mod transcript;
mod verdict;

use crate::driver::{self, Sources};
use crate::packages;
pub(crate) use args::{Args, Fuzz};
pub(crate) use cache::Cache;
use cache::RunDirectory;
use contents::{Userland, Workspace, assemble, environment};
pub(crate) use kernel::Choice;
use kernel::Kernel;
use outside::Outside;
use qemu::{End, Machine, Output};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};
use suites::{Job, User, Work};
use transcript::Told;
pub(crate) use verdict::Count;
use verdict::{count_of, judge, summarize};

/// For every guest: the kernel's console, and an end at the first oops. Page-table isolation, as with
/// it off the kernel's own mapping of its image shows secret pages: docs/threat-model.md.
const APPEND: &str = "console=ttyS0 panic=-1 oops=panic pti=on";
/// The driver's memory: two ranges, so that it is known to serve several.
const CARVE_OUTS: &str = "memmap=192M$1G memmap=64M$1536M";
/// How many lines of the console are shown where a guest failed: a panic has up to 60.
const TAIL: usize = 80;

/// The exit status that says so.
pub(crate) const UNAVAILABLE: u8 = 77;

/// Why tests in a guest did not succeed.
#[derive(Debug)]
pub(crate) enum Error {
    /// No guest can be made here: nothing was tested.
    Unavailable(String),
    /// A test failed, the guest came to no proper end, or the work cannot be built.
    Failed(String),
}

impl From<String> for Error {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// Says what is being done.
fn say(text: &str) {
    eprintln!("xtask: vm: {text}");
}

/// Runs the tests, and returns the tests in the guest that could not run, with their reasons.
///
/// # Errors
/// As of [`run_counted`].
pub(crate) fn run(args: &Args, root: &Path) -> Result<Vec<String>, Error> {
    run_counted(args, root, &mut Count::default())
}

/// The same, and adds what came of the tests to a count, also where one failed.
///
/// # Errors
/// Where a test failed, or the guest could not be made or came to no proper end.
pub(crate) fn run_counted(
    args: &Args,
    root: &Path,
    count: &mut Count,
) -> Result<Vec<String>, Error> {
    let told = guest(args, root, Output::Shown, count)?;
    Ok(told.skips.into_iter().map(|(_, skip)| skip).collect())
}

/// Runs them and returns what they wrote.
///
/// # Errors
/// As of [`run_counted`].
pub(crate) fn output(args: &Args, root: &Path) -> Result<String, Error> {
    Ok(guest(args, root, Output::Kept, &mut Count::default())?.kept)
}

fn guest(args: &Args, root: &Path, output: Output, count: &mut Count) -> Result<Told, Error> {
    let driver = args.driver
        || args.driver_package
        || args.tests.iter().any(|test| test.starts_with("driver"));
    let shell = args.tests.iter().any(|test| test == "sh");
    let mut jobs = if shell {
        Vec::new()
    } else {
        suites::jobs(&args.tests, args.kernel)?
    };
    jobs.extend(args.commands.iter().map(|command| Job {
        name: command.clone(),
        user: User::Root,
        before: "",
        variables: "",
        work: Work::Script(command.clone()),
        needs: suites::NOTHING,
    }));
    if !args.no_install {
        packages::ensure_vm()?;
    }
    let accelerator = qemu::accelerator().map_err(Error::Unavailable)?;
    let cache = Cache::open(root)?;
    let kernel = Kernel::get(&cache, args.kernel, !args.no_install).map_err(Error::Unavailable)?;
    let driver = if driver {
        let target = driver::Target::Known(args.kernel);
        let sources = if args.driver_package {
            Sources::Package
        } else {
            Sources::Tree
        };
        let built = driver::build(&cache, root, &target, sources, !args.no_install);
        Some(built.map_err(Error::Unavailable)?)
    } else {
        None
    };
    let userland = Userland::get(&cache).map_err(Error::Unavailable)?;
    let run = cache.run()?;
    let token = token()?;
    let image = run.path("initramfs");
    let environment = environment(args, driver.is_some());
    let copies = run.path("programs");
    std::fs::create_dir(&copies).map_err(cache::because(&copies))?;
    let workspace = Workspace {
        root,
        copies: &copies,
    };
    let mut initramfs = assemble(
        args,
        workspace,
        &userland,
        &kernel,
        &token,
        &jobs,
        &environment,
    )?;
    if let Some(module) = &driver {
        initramfs.driver(module)?;
    }
    if shell {
        initramfs.shell();
    }
    initramfs.write(&image)?;
    // It has them.
    let _ = std::fs::remove_dir_all(&copies);
    let carve_outs = driver.as_ref().map_or("", |_| CARVE_OUTS);
    let append = [APPEND, kernel.append, carve_outs]
        .into_iter()
        .chain(args.append.iter().map(String::as_str))
        .filter(|words| !words.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let outside = match driver {
        Some(_) => Some(Outside::new()?),
        None => None,
    };
    let machine = Machine {
        accelerator,
        kernel: &kernel,
        outside: outside.as_ref(),
        initramfs: &image,
        append: &append,
        memory: args.memory,
        cpus: args.cpus,
        nodes: jobs
            .iter()
            .map(|job| job.needs.nodes)
            .fold(args.nodes, u32::max),
    };
    let console = run.path("console");
    say(&format!("starting {} ({append})", kernel.name));
    if shell {
        machine.interact(&run, &console)?;
        return Ok(Told::default());
    }
    let start = Instant::now();
    let timeout = Duration::from_secs(args.timeout);
    let end = machine.run(&run, &console, &token, timeout, output)?;
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    let report = if kernel.reports || driver.is_some() {
        reports::first(&qemu::text(&console)?)
    } else {
        None
    };
    let result = judge(&end, &names, args.timeout);
    let (End::Ended(told) | End::TimedOut(told)) = end;
    summarize(&told, &names, start.elapsed());
    *count += count_of(&told);
    match (result, report) {
        (result, Some(report)) => {
            let also = result.err().unwrap_or_default();
            let why = format!("the kernel reported a mistake:\n{report}\n{also}");
            Err(with_console(&cache, &run, &why, false).into())
        }
        (Ok(()), None) => Ok(told),
        (Err(why), None) => {
            let why = format!("{}{why}", told.kept);
            Err(with_console(&cache, &run, &why, !told.ended).into())
        }
    }
}

/// A word that no output of a test contains by chance.
fn token() -> Result<String, String> {
    let mut bytes = [0; 12];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|error| format!("/dev/urandom: {error}"))?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("@{hex}"))
}

/// The reason, with the place where the console is kept, and its end where the kernel had a part in it.
fn with_console(cache: &Cache, run: &RunDirectory, why: &str, show: bool) -> String {
    let console = run.path("console");
    let kept = match cache.keep_log(&console) {
        Ok(kept) => format!("the console: {}", kept.display()),
        Err(error) => format!("the console is not kept: {error}"),
    };
    let tail = if show {
        qemu::tail(&console, TAIL)
    } else {
        String::new()
    };
    format!("{why}\n{tail}\n{kept}").replace("\n\n", "\n")
}
