//! `cargo xtask vm`: tests in a virtual machine, on another kernel than this machine's.

pub(crate) mod built;
mod cache;
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

use crate::driver::{self, Sources};
use crate::packages;
pub(crate) use cache::Cache;
use cache::RunDirectory;
use initramfs::{Initramfs, Script};
pub(crate) use kernel::Choice;
use kernel::Kernel;
use modules::{Module, Modules};
use outside::Outside;
use qemu::{End, Machine, Output};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use suites::{Job, User, Work};
use transcript::Told;

/// For every guest: the kernel's console, and an end at the first oops. Page-table isolation, as with
/// it off the kernel's own mapping of its image shows secret pages: docs/threat-model.md.
const APPEND: &str = "console=ttyS0 panic=-1 oops=panic pti=on";
/// The driver's memory: two ranges, so that it is known to serve several.
const CARVE_OUTS: &str = "memmap=192M$1G memmap=64M$1536M";
/// What a guest needs of modules: disks, a file system on one.
const MODULES: [&str; 3] = ["virtio_blk", "crc32c_generic", "ext4"];
/// Programs of this machine that its tests or its init use, beside busybox.
const PROGRAMS: [&str; 3] = ["bash", "install", "setpriv"];
/// How many lines of the console are shown where a guest failed.
const TAIL: usize = 40;

/// Run tests in a virtual machine, on another kernel than this machine's.
///
/// QEMU runs it in software: no /dev/kvm and no privileges are needed. Everything that the guest has
/// is in its memory, but for two empty disks, one of them its swap.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Tests:
  attack        `strongroom attack`, as root and as an ordinary user
  yama          the attack on NoInject with kernel.yama.ptrace_scope=1: it must be claimed and held;
                and a process that watches the start, without and with it
  swap          the attacks on NoSwap and WipedOnFree while memory is pushed out
  doctor        `strongroom doctor`, as root and as an ordinary user
  limit         programs at RLIMIT_MEMLOCK: malloc may fail there, the program may not crash
  probe         the tests of strongroom-probe
  guest         guest memory: the tests of strongroom-guest and minivmm, in guests of this guest, on every
                backing that the kernel has; with --kernel built, `attributes` too
  driver-doctor `strongroom doctor` with the kernel driver
  driver        the kernel driver: its own tests, and attacks, the library's tests and programs on its memory
  CRATE/TARGET  one test target of a crate, or its unit tests: strongroom/heap, strongroom-core/lib.
                What a test needs beside strongroom (a compiler, python) is not in the guest
  CRATE/bench:TARGET[:ARGUMENT:…]
                a bench of a crate: strongroom-guest/bench:guest:conversions
  sh            a shell instead of tests

Examples:
  cargo xtask vm attack yama
      The attack suite on Debian's 6.12.
  cargo xtask vm --append pti=off attack
      The same without page-table isolation (the last word on the kernel's command line counts).
  cargo xtask vm --kernel built probe
      The tests of the attackers on a kernel of our own configuration.
  cargo xtask vm --kernel debug strongroom/heap
      On a kernel with KASAN, lockdep and others: what they report fails the run.
  cargo xtask vm --run 'cat /proc/meminfo' --run 'strongroom doctor'
      Any command.

Downloads go through apt alone. What they and the build give is kept in target/vm.

Exit status:
  0   every test succeeded
  1   one did not, the guest crashed, or its time was over: its console is kept
  77  no guest can be made here (no QEMU, nothing to be downloaded): nothing was tested")]
pub(crate) struct Args {
    /// The kernel
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    kernel: Choice,
    /// More for the kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// The guest's memory, in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// The guest's processors
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// The guest's NUMA nodes, which share its memory
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    nodes: u32,
    /// RLIMIT_MEMLOCK of every process, soft and hard: KiB or `unlimited`; the kernel's own is 8192
    #[arg(long, default_value = "8192", value_parser = limit)]
    memlock: String,
    /// Seconds after which the guest is stopped and has failed
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Load this kernel module, too: one of the kernel's by its name, with those that it needs, or a
    /// file NAME.ko
    #[arg(long = "module", value_name = "NAME|FILE")]
    modules: Vec<String>,
    /// Build strongroom.ko for the kernel and load it, with a pool of 256 MiB in two parts
    #[arg(long)]
    driver: bool,
    /// The same, built from the Debian package
    #[arg(long)]
    driver_package: bool,
    #[command(flatten)]
    fuzz: Fuzz,
    /// Run this by the guest's shell, as root, after the tests
    #[arg(long = "run", value_name = "COMMAND")]
    commands: Vec<String>,
    /// Do not look for Debian packages
    #[arg(long)]
    no_install: bool,
    /// What to run there
    #[arg(value_name = "TEST", required_unless_present = "commands")]
    tests: Vec<String>,
}

/// How long and how the driver's interface is tried at random.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "The driver's test at random")]
pub(crate) struct Fuzz {
    /// How many steps
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    steps: u64,
    /// What the steps are made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Have allocations of the kernel's fail, too, where it can: `--kernel debug`
    #[arg(long)]
    fail: bool,
}

impl Default for Fuzz {
    fn default() -> Self {
        Self {
            steps: 50_000,
            seed: 1,
            fail: false,
        }
    }
}

impl Args {
    /// What `cargo xtask test` runs on Debian's kernel.
    pub(crate) fn for_tests() -> Self {
        Self {
            kernel: Choice::Stock,
            append: Vec::new(),
            memory: 2048,
            cpus: 2,
            nodes: 1,
            memlock: "8192".to_owned(),
            timeout: 900,
            modules: Vec::new(),
            driver: false,
            driver_package: false,
            fuzz: Fuzz::default(),
            commands: Vec::new(),
            no_install: true,
            tests: [
                "doctor", "attack", "yama", "swap", "limit", "probe", "guest",
            ]
            .map(str::to_owned)
            .to_vec(),
        }
    }
}

impl Args {
    /// What `cargo xtask driver test` runs.
    pub(crate) fn for_driver(
        kernel: Choice,
        sources: Sources,
        no_install: bool,
        timeout: u64,
        fuzz: Fuzz,
    ) -> Self {
        Self {
            kernel,
            fuzz,
            timeout,
            no_install,
            driver: true,
            driver_package: sources == Sources::Package,
            // The driver keeps /dev/mem out of its memory even so.
            append: vec!["iomem=relaxed".to_owned()],
            tests: ["driver-doctor", "driver"].map(str::to_owned).to_vec(),
            ..Self::for_tests()
        }
    }

    /// The driver's bench, on the stock kernel.
    pub(crate) fn for_driver_bench(rounds: usize) -> Self {
        Self {
            memlock: "unlimited".to_owned(),
            tests: vec![format!("strongroom-driver/bench:figures:--rounds:{rounds}")],
            ..Self::for_driver(Choice::Stock, Sources::Tree, true, 900, Fuzz::default())
        }
    }
}

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

fn limit(text: &str) -> Result<String, String> {
    if text == "unlimited" || text.parse::<u64>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err("a number of KiB, or `unlimited`".to_owned())
    }
}

/// Says what is being done.
fn say(text: &str) {
    eprintln!("xtask: vm: {text}");
}

/// Tests of the guest, as their programs counted them; a script is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
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
    qemu::check().map_err(Error::Unavailable)?;
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
    let mut initramfs = assemble(args, root, &userland, &kernel, &token, &jobs, &environment)?;
    if let Some(module) = &driver {
        initramfs.driver(module)?;
    }
    if shell {
        initramfs.shell();
    }
    initramfs.write(&image)?;
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

/// Debian packages that the guest's programs are from, unpacked.
struct Userland {
    busybox: PathBuf,
    /// Without Python, whose library would be as large as everything else.
    gdb: PathBuf,
}

impl Userland {
    fn get(cache: &Cache) -> Result<Self, String> {
        Ok(Self {
            busybox: debian::unpacked(cache, "busybox-static")?,
            gdb: debian::unpacked(cache, "gdb-minimal")?,
        })
    }
}

fn assemble(
    args: &Args,
    root: &Path,
    userland: &Userland,
    kernel: &Kernel,
    token: &str,
    jobs: &[Job],
    environment: &str,
) -> Result<Initramfs, String> {
    let mut initramfs = Initramfs::new(
        &userland.busybox.join("bin/busybox"),
        &format!("token={token}\nmemlock={}\n", args.memlock),
    );
    let of_jobs = jobs.iter().flat_map(|job| job.needs.host).copied();
    for program in PROGRAMS.into_iter().chain(of_jobs) {
        if !initramfs.own(program)? {
            return Err(format!("{program} is not here, which the guest needs"));
        }
    }
    initramfs.program("/usr/bin/gdb", &userland.gdb.join("usr/bin/gdb"))?;
    initramfs.program("/usr/bin/gcore", &userland.gdb.join("usr/bin/gcore"))?;
    initramfs.symlink("/usr/bin/env", "/bin/busybox");
    let strongroom = programs::program(root, "strongroom-cli", "strongroom")?;
    initramfs.program("/usr/local/bin/strongroom", &strongroom)?;
    let modules = Modules::of(kernel.modules.as_deref())?;
    let (files, named): (Vec<_>, Vec<_>) =
        args.modules.iter().partition(|name| name.ends_with(".ko"));
    for name in &named {
        if kernel.modules.is_some() && !modules.know(name) {
            return Err(format!("{} has no module {name}", kernel.name));
        }
    }
    let wanted: Vec<String> = MODULES
        .into_iter()
        .chain(jobs.iter().flat_map(|job| job.needs.modules).copied())
        .map(str::to_owned)
        .chain(named.into_iter().cloned())
        .collect();
    let mut loaded = modules.closure(&wanted)?;
    for file in files {
        loaded.push(Module::of(Path::new(file))?);
    }
    initramfs.modules(loaded);
    let mut places = vec![strongroom];
    let needed: BTreeSet<_> = jobs.iter().flat_map(|job| job.needs.programs).collect();
    for name in needed {
        let program = programs::program(root, name, name)?;
        initramfs.program(&format!("/usr/local/bin/{name}"), &program)?;
        places.push(program);
    }
    // Tests of a program were built with its path here.
    let links: String = places.iter().map(|place| link(place)).collect();
    let mut scripts = Vec::new();
    for (number, job) in jobs.iter().enumerate() {
        let work = match &job.work {
            Work::Script(script) => script.clone(),
            Work::Tests(test) => {
                let program = programs::tests(root, test)?;
                let name = format!("/usr/local/lib/tests/{number:03}-{}", test.target);
                initramfs.program(&name, &program)?;
                let arguments = test.bench.as_deref().unwrap_or_default();
                format!("{links}{name} {arguments}")
            }
        };
        let title = format!("printf '\\n== %s\\n' '{}'", job.name.replace('\'', "'\\''"));
        scripts.push(Script {
            user: job.user,
            before: format!("{title}\n{}", job.before),
            run: format!("{environment}{}\n{work}\n", job.variables),
        });
    }
    initramfs.jobs(&scripts);
    Ok(initramfs)
}

/// Has a program of the guest be where it is here.
fn link(place: &Path) -> String {
    let directory = place.parent().unwrap_or(Path::new("/")).display();
    let name = place.file_name().unwrap_or_default().display();
    format!("mkdir -p '{directory}' && ln -sf '/usr/local/bin/{name}' '{directory}/{name}'\n")
}

/// What the tests here are told by the environment, those in the guest are told too.
fn environment(args: &Args, driver: bool) -> String {
    let set = std::env::var_os("STRONGROOM_NO_SKIP").is_some_and(|v| v != "0" && !v.is_empty());
    let no_skip = if set {
        "export STRONGROOM_NO_SKIP=1\n"
    } else {
        ""
    };
    let driver = if driver {
        let fuzz = &args.fuzz;
        format!(
            "export STRONGROOM_MODULE={} STRONGROOM_OUTSIDE={}\n\
             export STRONGROOM_FUZZ_STEPS={} STRONGROOM_FUZZ_SEED={} STRONGROOM_FUZZ_FAIL={}\n",
            initramfs::DRIVER,
            outside::PORT,
            fuzz.steps,
            fuzz.seed,
            u8::from(fuzz.fail),
        )
    } else {
        String::new()
    };
    format!("cd /tmp\nexport STRONGROOM_SKIP_LOG=/run/skips\n{no_skip}{driver}")
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

/// Success is a guest that ended by itself, after all of its jobs, each of status 0.
fn judge(end: &End, names: &[&str], timeout: u64) -> Result<(), String> {
    let name = |number: usize| names.get(number).copied().unwrap_or("?");
    let at = |told: &Told| match told.running {
        Some(number) => format!("in `{}`", name(number)),
        None if told.up.is_none() => "before its init was ready".to_owned(),
        None => "between its jobs".to_owned(),
    };
    match end {
        End::TimedOut(told) => Err(format!(
            "the guest was stopped after {timeout} s (--timeout), {}",
            at(told)
        )),
        End::Ended(told) if !told.ended => Err(format!("the guest crashed, {}", at(told))),
        End::Ended(told) => {
            let failed: Vec<String> = told
                .statuses
                .iter()
                .filter(|status| status.code != 0)
                .map(|status| format!("`{}`: exit status {}", name(status.job), status.code))
                .collect();
            if !failed.is_empty() {
                Err(format!("failed: {}", failed.join(", ")))
            } else if told.statuses.len() == names.len() {
                Ok(())
            } else {
                Err("the guest did not run all of its jobs".to_owned())
            }
        }
    }
}

/// A program of tests says what came of them; any other job is one.
fn count_of(told: &Told) -> Count {
    let mut count = Count {
        skipped: told.skips.len(),
        ..Count::default()
    };
    for status in &told.statuses {
        let (passed, failed) = told
            .results
            .iter()
            .filter(|result| result.job == status.job)
            .fold((0, 0), |(passed, failed), result| {
                (passed + result.passed, failed + result.failed)
            });
        count.passed += passed;
        count.failed += failed;
        match (passed + failed, status.code) {
            (0, 0) => count.passed += 1,
            // It ended before it could say.
            (_, code) if code != 0 && failed == 0 => count.failed += 1,
            _ => {}
        }
    }
    // One that never ended.
    count.failed += usize::from(told.running.is_some());
    // A test that could not run says so and ends well.
    count.passed = count.passed.saturating_sub(count.skipped);
    count
}

fn summarize(told: &Told, names: &[&str], took: Duration) {
    for status in &told.statuses {
        let name = names.get(status.job).copied().unwrap_or("?");
        let (code, seconds) = (status.code, status.seconds);
        say(&format!("{name}: exit status {code}, {seconds} s"));
    }
    for (_, skip) in &told.skips {
        say(&format!("skipped: {skip}"));
    }
    let up = told.up.map_or_else(String::new, |up| {
        format!(", {:.0} s of them to boot", up.as_secs_f64())
    });
    say(&format!("{:.0} s{up}", took.as_secs_f64()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use transcript::Status;

    fn told(statuses: &[(usize, i32)], ended: bool, running: Option<usize>) -> Told {
        Told {
            up: Some(Duration::from_secs(3)),
            statuses: statuses
                .iter()
                .map(|&(job, code)| Status {
                    job,
                    code,
                    seconds: 1,
                })
                .collect(),
            running,
            ended,
            kept: String::new(),
            skips: Vec::new(),
            results: Vec::new(),
        }
    }

    #[test]
    fn tests_are_counted_by_their_programs_and_scripts_by_their_status() {
        let mut guest = told(
            &[(0, 0), (1, 101), (2, 0), (3, 134), (4, 1)],
            false,
            Some(5),
        );
        let result = |job, passed, failed| transcript::TestResult {
            job,
            passed,
            failed,
        };
        guest.results = vec![result(0, 7, 0), result(1, 3, 2)];
        guest.skips = vec![(0, "t: no driver".to_owned())];
        let expected = Count {
            // Six of the first and three of the second, and the script that succeeded.
            passed: 10,
            failed: 5,
            skipped: 1,
        };
        assert_eq!(count_of(&guest), expected);
    }

    #[test]
    fn only_a_guest_that_ran_everything_succeeded() {
        let names = ["a", "b"];
        let judge = |end| super::judge(&end, &names, 5);
        assert!(judge(End::Ended(told(&[(0, 0), (1, 0)], true, None))).is_ok());
        let failed = judge(End::Ended(told(&[(0, 0), (1, 7)], true, None)));
        assert!(failed.unwrap_err().contains("`b`: exit status 7"));
        assert!(judge(End::Ended(told(&[(0, 0)], true, None))).is_err());
        let crashed = judge(End::Ended(told(&[(0, 0)], false, Some(1))));
        assert!(crashed.unwrap_err().contains("crashed, in `b`"));
        let late = judge(End::TimedOut(told(&[(0, 0), (1, 0)], true, None)));
        assert!(late.unwrap_err().contains("after 5 s"));
        let never = judge(End::Ended(Told::default()));
        assert!(never.unwrap_err().contains("before its init"));
    }
}
