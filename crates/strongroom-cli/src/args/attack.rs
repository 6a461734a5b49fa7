//! The options of `attack`.

use super::{GivenArgs, LevelArg};
use clap::{Args, ValueEnum};
use std::ffi::OsString;

/// The options of `attack`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sudo strongroom attack
      Every attack on every victim, as a table. Where the kernel driver is loaded, on its memory too.
  strongroom attack --only peek,fd
      Two families of attacks, as far as an ordinary user can make them.
  sudo strongroom attack --only vmm
      Every attack on guests: by the monitor itself, its devices, other processes and root.
  sudo strongroom attack --json | jq -r '.victims[] | .name as $v | .attacks[]
        | select(.claimed) | \"\\($v) \\(.attack) \\(.result)\"'
      What is claimed, and what came of it.
  sudo strongroom attack --text-file /srv/seed -- /srv/keyd --foreground
      The same program plain and under `strongroom run`, attacked for the bytes of a file.
  sudo strongroom attack --text-file /srv/seed --then '/srv/unlock-keyd' -- /srv/keyd
      A secret that another command brings in, once the program runs.

A program of your own:
  It is started again for each victim: plain, and by `strongroom run` at each level. It runs in
  a new directory (so name files by absolute paths), as the user who called sudo, or as user
  65534 where root itself calls. It reads nothing, unless strongroom's own input is a file. Then
  it is ended, with all that it started.
  Its secret is looked for in the plain one through /proc/PID/mem; for the others root stops the
  process and makes it show its own memory. Where the secret is not proven to be there, nothing
  is held. Attacks that need a victim's help are skipped. A secret in the program's own arguments
  or environment is refused.

What the words mean:
  held     the attack ran and did not get the secret
  LEAKED   it got the secret, and the victim's receipt says that it cannot
  – held, – leaked
           what came of it where the victim's receipt claims nothing
  leaked * the control: here the attack must succeed
  skipped  it could not run here; the table says why
  void     the control did not leak, so that nothing is proven

Exit status:
  0    every attack on what a receipt claims was held, and every control leaked
  1    something that is claimed leaked
  3    a control did not leak, or the secret was not found in the program: the proof is void
  125  strongroom failed, or an attack broke
  126  CMD was found and may not be executed
  127  CMD was not found")]
pub(crate) struct AttackArgs {
    /// Only this level of strongroom beside the victims without it
    #[arg(long, value_enum)]
    pub(crate) level: Option<LevelArg>,

    /// Only these attacks, by name or family; an unknown name lists them
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// An object with "schema": 1, for machines
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) given: GivenArgs,

    /// A shell command that brings the secret into CMD, once that runs
    ///
    /// It runs as CMD's user and in CMD's directory, with STRONGROOM_VICTIM_PID and
    /// STRONGROOM_VICTIM_DIR in its environment, again and again until it succeeds: CMD may not listen
    /// yet.
    #[arg(long, value_name = "SHELL-COMMAND", requires = "command")]
    pub(crate) then: Option<OsString>,

    /// How long CMD may take to have its secret
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        requires = "command"
    )]
    pub(crate) wait: u64,

    /// A program to attack instead of the usual victims, and its arguments
    #[arg(trailing_var_arg = true, value_names = ["CMD", "ARGS"], requires = "given")]
    pub(crate) command: Vec<OsString>,
}

/// What `victim` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VictimArg {
    /// Memory from malloc
    Plain,
    /// Locked, as libsodium does it
    Locked,
    /// memfd_secret with its descriptor left open
    OpenFd,
    /// The library's regions
    Region,
    /// The same in the kernel driver's memory
    Driver,
    /// The same, uncached
    DriverUncached,
    /// The same in pages of 2 MiB
    DriverHuge,
    /// A guest in ordinary guest memory
    GuestPlain,
    /// A guest in poisoned pages
    GuestPoison,
    /// A guest in a pair of guest_memfds
    GuestPair,
    /// A guest in memory whose pages KVM knows as private
    GuestAttributes,
    /// A guest in the kernel driver's memory
    GuestDriver,
    /// A guest in hidden pages of the kernel driver's memory
    GuestDriverPoison,
}
