//! The command line: one file a subcommand.

mod attack;
mod audit;
mod doctor;
mod given;
mod run;
mod scan;

pub(crate) use attack::{AttackArgs, VictimArg};
pub(crate) use audit::AuditArgs;
pub(crate) use doctor::DoctorArgs;
pub(crate) use given::GivenArgs;
pub(crate) use run::{RunArgs, ScopeArg};
pub(crate) use scan::{ScanArgs, WhatArg};

use clap::builder::PossibleValuesParser;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use strongroom_core::Level;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Keep secrets in memory that only their owner can reach.
#[derive(Debug, Parser)]
#[command(name = "strongroom", version, styles = STYLES, max_term_width = 100, after_help = "\
Examples:
  strongroom run -- gpg-agent --daemon       a program you did not write, with its keys kept
  strongroom doctor                          what this machine can do and what it lacks
  strongroom attack                          whether it is true: attacks on victims, kept and unkept
  strongroom scan 1234 --key id_ed25519      whether a key lies in a process's memory, and where
  strongroom audit $(pidof gpg-agent)        who can reach which memory of a running process

`strongroom help run` says more.")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start an unmodified program with its secrets kept.
    ///
    /// The program's heap, or only the buffers that it locks itself, lives in memory that other
    /// processes, debuggers, swap, core dumps and the kernel's direct map cannot reach. Its children are
    /// protected too. strongroom becomes the program: same process, no supervisor, full speed. Before the
    /// program may run any code of its own, a verifier looks from outside whether the protection is
    /// active; where it is not, the program does not start.
    Run(RunArgs),
    /// Tell what this machine offers and what would improve it.
    ///
    /// Each mechanism is tried, not guessed from a version.
    Doctor(DoctorArgs),
    /// Really try to steal a secret, from victims that are protected and from ones that are not.
    ///
    /// Each attack is made on an unprotected victim too, where it must succeed: otherwise it proves
    /// nothing, and that is said. Run it as root for all of the attacks.
    Attack(AttackArgs),
    /// Find key material in a process, a core or a file, and say where.
    ///
    /// Private keys in PEM, DER and OpenSSH's formats and AES key schedules are found by themselves; the
    /// numbers of a key that is given, and patterns, wherever they lie, in any byte order and in pieces.
    /// The secret itself is never printed unless asked for.
    Scan(ScanArgs),
    /// Show who can reach which memory of a running process.
    ///
    /// Every mapping of any process, protected or not, and who gets at what is in it: other processes
    /// of its user, root, a core dump, the swap, a forked child, a pinned page, the kernel's direct map;
    /// then what lets them in, and how to close it. Nothing is stopped and no content is shown. Run it as
    /// root to have the direct map really tried, and for processes of other users.
    Audit(AuditArgs),
    /// Be a victim of `attack`.
    #[command(hide = true)]
    Victim {
        /// How it keeps its secret.
        #[arg(value_enum)]
        kind: VictimArg,
        /// The number of an open /dev/kvm, where it inherits one.
        #[arg(long)]
        kvm: Option<i32>,
    },
    /// Be an attacker of another user than `attack` runs as.
    #[command(hide = true)]
    Thief {
        /// What to try.
        #[arg(value_parser = PossibleValuesParser::new(strongroom_probe::thief::WAYS))]
        way: String,
        /// The victim.
        pid: i32,
        /// Where its secret is.
        address: usize,
        /// How long that is, in bytes.
        length: usize,
    },
    /// Print a shell's completion script.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages.
    #[command(hide = true)]
    Man {
        /// Where to.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// `--level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelArg {
    /// Locked memory
    Locked,
    /// The kernel driver's memory where it is loaded, else memfd_secret
    Hidden,
}

impl From<LevelArg> for Level {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Locked => Level::Locked,
            LevelArg::Hidden => Level::Hidden,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(line: &[&str]) -> RunArgs {
        let line = ["strongroom", "run"].iter().chain(line);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_programs_own_options_are_its_own() {
        assert_eq!(
            run(&["--level", "hidden", "ls", "--level", "-l"]).command,
            ["ls", "--level", "-l"]
        );
        assert_eq!(run(&["--", "--receipt"]).command, ["--receipt"]);
        assert_eq!(run(&["sh", "--", "-c"]).command, ["sh", "--", "-c"]);
        assert!(Cli::try_parse_from(["strongroom", "run"]).is_err());
    }
}
