//! The options of `audit`.

use clap::Args;
use std::path::PathBuf;

/// The options of `audit`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sudo strongroom audit $(pidof -s gpg-agent)
      Who reaches what, and the process's holes with their fixes.
  sudo strongroom audit 1234 --html audit.html
      The same as a page for a browser: a map of the memory, to be filtered by adversary.
  sudo strongroom audit 1234 --json | jq '.totals[] | {adversary, reachable}'
      How many pages each adversary reaches.

Who is asked about:
  same-user   another process of the same user: /proc/PID/mem, ptrace, process_vm_readv
  root        the same as root; code that root injects reaches everything, and is not counted
  core-dump   the kernel's dump on a crash, or one by the same user's gcore
  swap        the swap device, or the hibernation image on it
  fork-child  a child that the kernel forks
  pin         devices and the kernel, by a pinned page: vmsplice, O_DIRECT, io_uring
  direct-map  the kernel's own mapping of all memory

What the words mean:
  own     pages that the process wrote or may write: not unchanged parts of files
  REACH   all own pages of that kind are reachable
  mixed   some are
  kept    none is
  ?       it cannot be told from outside

Exit status:
  0    the audit is whole
  1    the process ended or became another program meanwhile: what was seen until then is shown
  125  there is no such process, it may not be looked at, or the result cannot be written")]
pub(crate) struct AuditArgs {
    /// The process
    pub(crate) pid: i32,

    /// Every mapping, not only the kinds of memory
    #[arg(long, conflicts_with = "json")]
    pub(crate) all: bool,

    /// An object with "schema": 1, for machines; sizes are in bytes where not said otherwise
    #[arg(long)]
    pub(crate) json: bool,

    /// Write a page for a browser to FILE: one file, nothing of it comes from a network
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}
