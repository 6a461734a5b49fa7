//! The options of `scan`.

use super::GivenArgs;
use clap::{Args, ValueEnum};
use std::ffi::OsString;

/// The options of `scan`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  strongroom scan $(pgrep -n ssh-agent) --key ~/.ssh/id_ed25519
      Whether that key can be read from ssh-agent's memory, and by whom.
  sudo strongroom scan 1234
      Whatever looks like key material in process 1234.
  strongroom scan ./core.1234 --key server.pem --passphrase-file pass.txt
      A core, for an encrypted key.
  strongroom scan disk.img --pattern 00112233445566778899aabbccddeeff --show
      Any file, for bytes; a hit's own bytes are printed.
  strongroom scan 1234 --json | jq -r '.hits[] | .address + \" \" + .what'
      What is where, for machines.

What the words mean:
  component  a number of a given key as programs keep it: RSA p, q, d …, the seed of Ed25519 …
  shield     OpenSSH's shield: an encrypted key and, beside it, what decrypts it. Whoever reads both has
             the key; `scan` did so to know
  schedule   an AES key as it is expanded for use; a few bits may be flipped (docs/scan.md says how many)
  not readable
             memory that the kernel shows to nobody: memfd_secret, /dev/strongroom
  partial    not all that can be read was seen: the process ended, or unmapped something meanwhile

Exit status:
  0    nothing was found in anything that can be read
  1    something was found
  2    nothing was found, but not all could be seen
  125  strongroom failed, or nothing could be read at all")]
pub(crate) struct ScanArgs {
    /// A process's number, or the path of a core or another file; `./123` is a file
    #[arg(value_name = "PID|CORE|FILE")]
    pub(crate) target: OsString,

    #[command(flatten)]
    pub(crate) given: GivenArgs,

    /// Look for these things alone
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) only: Vec<WhatArg>,

    /// Print the bytes of each hit, in hexadecimal
    #[arg(long)]
    pub(crate) show: bool,

    /// An object with "schema": 1, for machines
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `scan` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhatArg {
    /// The keys and the patterns on the command line
    Given,
    /// Private keys in PEM, DER and OpenSSH's formats, and shields
    Formats,
    /// AES key schedules
    Schedules,
}
