//! The options of `audit`.

use clap::Args;
use std::path::PathBuf;

/// The options of `audit`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sudo strongroom audit $(pidof -s ssh-agent)
      A table by kind of memory, what each adversary reaches, and how to close the holes.
  strongroom audit --all $$
      The shell's own mappings, each on a line.
  sudo strongroom audit --json PID | jq -r '.holes[] | .severity + \": \" + .fix'
      The fixes alone.
  sudo strongroom audit --html audit.html PID
      A page for the browser: a map of the memory, who reaches each mapping and why, the fixes.

Who reaches for it:
  user    another process of the same user: /proc/PID/mem, ptrace, process_vm_readv
  root    root, by the same ways; code that root injects reaches everything, here as anywhere
  core    the kernel's core dump, or one by the same user's gcore
  swap    the swap device, or the hibernation image on it
  fork    a child that the kernel forks
  pin     a pinned page: vmsplice, O_DIRECT, io_uring's registered buffers
  direct  the kernel's own mapping of all memory; as root it is read, else inferred

What counts:
  Pages that the process wrote and may still write, and private memory of no file: what may hold a
  secret. Code and unchanged pages of files are shown and not counted.

Exit status:
  0    the process was audited, whatever was found
  2    it ended, or became another program, while it was looked at: what is printed is a part
  125  it could not be looked at, or the findings could not be written")]
pub(crate) struct AuditArgs {
    /// The process
    #[arg(value_name = "PID")]
    pub(crate) pid: i32,

    /// Each mapping on a line, too
    #[arg(long)]
    pub(crate) all: bool,

    /// An object with "schema": 1, for machines; sizes are in bytes
    #[arg(long)]
    pub(crate) json: bool,

    /// Write one self-contained page to FILE instead, readable by its owner only
    ///
    /// It fetches nothing and can be sent around. It tells the addresses of a live process, which the
    /// kernel hides from other users. A file that is there is replaced once the new one is whole.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all", "json"])]
    pub(crate) html: Option<PathBuf>,
}
