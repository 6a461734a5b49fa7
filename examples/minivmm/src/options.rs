//! The command line.

use clap::{Parser, ValueEnum};

const AFTER: &str = "\
Backings, best first:
  attributes     a confidential virtual machine type; the kernel keeps private pages from the monitor
  pair           an ordinary virtual machine, Linux 6.18: a private file and a shared one
  poison         any machine, Linux 6.6: private pages raise SIGBUS in the monitor's view
  plain          everything is shared, for good: nothing is protected
By its name alone:
  driver-poison  as poison, in the memory of the kernel driver (/dev/strongroom)

Exit status:
  0  all checks passed
  1  a check failed: a lost byte, a private page that was read, a guest gone wrong
  2  the command line makes no sense
  3  it cannot run here: no /dev/kvm, or a backing that this kernel does not have

Examples:
  minivmm                         the best backing for 3 seconds
  minivmm --backing poison --seconds 60 --memory 1024
  minivmm --json | jq .checks";

/// Runs a 64-bit guest program in private memory, talks to it through a ring, converts
/// pages both ways meanwhile, and shows what the memory is protected from.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = AFTER)]
pub(crate) struct Options {
    /// How guest memory is kept.
    #[arg(long, value_enum, default_value_t = Choice::Best)]
    pub(crate) backing: Choice,
    /// Guest memory, in MiB.
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    pub(crate) memory: u32,
    /// How long the load lasts.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Write the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A backing, or the best one there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    Best,
    Attributes,
    Pair,
    Poison,
    Plain,
    DriverPoison,
}
