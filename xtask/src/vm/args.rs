//! What a run in a virtual machine is told.

use super::Choice;
use crate::driver::Sources;

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
    pub(super) kernel: Choice,
    /// More for the kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(super) append: Vec<String>,
    /// The guest's memory, in MiB
    #[arg(long, default_value_t = 2048)]
    pub(super) memory: u32,
    /// The guest's processors
    #[arg(long, default_value_t = 2)]
    pub(super) cpus: u32,
    /// The guest's NUMA nodes, which share its memory
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub(super) nodes: u32,
    /// RLIMIT_MEMLOCK of every process, soft and hard: KiB or `unlimited`; the kernel's own is 8192
    #[arg(long, default_value = "8192", value_parser = limit)]
    pub(super) memlock: String,
    /// Seconds after which the guest is stopped and has failed
    #[arg(long, default_value_t = 600)]
    pub(super) timeout: u64,
    /// Load this kernel module, too: one of the kernel's by its name, with those that it needs, or a
    /// file NAME.ko
    #[arg(long = "module", value_name = "NAME|FILE")]
    pub(super) modules: Vec<String>,
    /// Build strongroom.ko for the kernel and load it, with a pool of 256 MiB in two parts
    #[arg(long)]
    pub(super) driver: bool,
    /// The same, built from the Debian package
    #[arg(long)]
    pub(super) driver_package: bool,
    #[command(flatten)]
    pub(super) fuzz: Fuzz,
    /// Run this by the guest's shell, as root, after the tests
    #[arg(long = "run", value_name = "COMMAND")]
    pub(super) commands: Vec<String>,
    /// Do not look for Debian packages
    #[arg(long)]
    pub(super) no_install: bool,
    /// What to run there
    #[arg(value_name = "TEST", required_unless_present = "commands")]
    pub(super) tests: Vec<String>,
}

/// How long and how the driver's interface is tried at random.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "The driver's test at random")]
pub(crate) struct Fuzz {
    /// How many steps
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub(super) steps: u64,
    /// What the steps are made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// Have allocations of the kernel's fail, too, where it can: `--kernel debug`
    #[arg(long)]
    pub(super) fail: bool,
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
    /// The driver's part of what `cargo xtask test` runs.
    pub(crate) fn for_driver_tests() -> Self {
        let fuzz = Self::for_tests().fuzz;
        Self::for_driver(Choice::Stock, Sources::Tree, true, 1800, fuzz)
    }

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

fn limit(text: &str) -> Result<String, String> {
    if text == "unlimited" || text.parse::<u64>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err("a number of KiB, or `unlimited`".to_owned())
    }
}
