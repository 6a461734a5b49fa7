//! The options of `run`.

use super::LevelArg;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use strongroom::fork::ForkPolicy;

/// The options of `run`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  strongroom run -- gpg-agent --daemon
      The whole heap secret, at the best level that the machine has.
  strongroom run --level hidden --no-new-privs -- ssh-agent -D
      Not at all rather than less than hidden; ssh-agent without its setgid bit, which exists to keep
      debuggers off and keeps strongroom off too.
  strongroom run --scope locked -- gpg-agent --daemon
      Only what gpg-agent locks itself.
  strongroom run --receipt - -- openssl genpkey -algorithm ed25519
      And a line of JSON that says what was held, what was missing and why.
  strongroom run --dumpable -- unshare -r id
      For a program that writes its own /proc/self/uid_map or reads its /proc/self/environ.

Levels:
  locked   Never swapped, in a core dump, shared with a child or left behind after free.
  hidden   Also out of the kernel's direct map: unreadable to ptrace, /proc/PID/mem and
           process_vm_readv, for root too, and not to be pinned by devices: the kernel driver's memory
           where it is loaded (/dev/strongroom), else memfd_secret.

Exit status:
  125  strongroom failed, or a protection that is required is missing: the program did not run
  126  the program was found and may not be executed
  127  the program was not found
  Any other is the program's own.")]
pub(crate) struct RunArgs {
    /// Which memory becomes secret
    #[arg(long, value_enum, default_value_t = ScopeArg::Heap)]
    pub(crate) scope: ScopeArg,

    /// Require this level; without it, take the best the machine has and say so if that is less than
    /// `hidden`
    #[arg(long, value_enum)]
    pub(crate) level: Option<LevelArg>,

    /// What a forked child sees of the secrets
    #[arg(long, value_enum, default_value_t = ForkArg::Copy)]
    pub(crate) fork: ForkArg,

    /// Go on where something cannot be protected, and say what is missing
    #[arg(long)]
    pub(crate) best_effort: bool,

    /// Let processes of the same user look into the program
    ///
    /// Without this the process is non-dumpable, and an ordinary user's program then cannot open its
    /// own /proc/self/environ, mem or pagemap, write its uid_map or oom_score_adj, or look into its
    /// children's /proc/PID/fd. With it a debugger of the same user can attach and make the program hand
    /// its secrets over.
    #[arg(long)]
    pub(crate) dumpable: bool,

    /// Start setuid and setgid programs without the privileges that their bits give
    ///
    /// The loader takes no foreign object into a program that gains privileges. This sets
    /// no_new_privs, for the program and all that it starts.
    #[arg(long)]
    pub(crate) no_new_privs: bool,

    /// Append a line of JSON for each protected process to FILE, or to standard output for `-`
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,

    /// Take libstrongroom_preload.so from DIR, not the one that strongroom carries
    #[arg(long, value_name = "DIR", env = "STRONGROOM_PRELOAD_DIR")]
    pub(crate) preload_dir: Option<PathBuf>,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["CMD", "ARGS"])]
    pub(crate) command: Vec<OsString>,
}

/// `--scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScopeArg {
    /// What the program itself locks
    Locked,
    /// All that it allocates, and what it locks
    Heap,
    /// Every writable page of any binary (not built yet)
    Process,
}

/// `--fork`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ForkArg {
    /// Its own snapshot, at the same addresses
    Copy,
    /// Zero pages
    Drop,
    /// fork fails
    Deny,
}

impl From<ForkArg> for ForkPolicy {
    fn from(fork: ForkArg) -> Self {
        match fork {
            ForkArg::Copy => ForkPolicy::Copy,
            ForkArg::Drop => ForkPolicy::Drop,
            ForkArg::Deny => ForkPolicy::Deny,
        }
    }
}
