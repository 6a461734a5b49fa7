//! The command line.

use clap::builder::PossibleValuesParser;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use strongroom::fork::ForkPolicy;
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
    /// Be a victim of `attack`.
    #[command(hide = true)]
    Victim {
        /// How it keeps its secret.
        #[arg(value_enum)]
        kind: VictimArg,
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
           process_vm_readv, for root too, and not to be pinned by devices (memfd_secret).

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

/// The options of `doctor`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  strongroom doctor
      What works here, what falls short, why that matters, and how to mend it.
  systemd-run --pipe -p User=www-data strongroom doctor
      The same for a service: limits and filters belong to whoever runs it.
  strongroom doctor --json | jq -r '.checks[] | select(.fix) | .check + \": \" + .fix'
      The fixes alone.

What the words mean:
  ok       as it should be
  limited  works, with less than there could be
  missing  is not there, or was tried and does not work

Exit status:
  0    `strongroom run` reaches the level hidden here
  1    it reaches less, or would start nothing
  125  the findings could not be made or written")]
pub(crate) struct DoctorArgs {
    /// An object with "schema": 1, for machines; sizes are in bytes
    #[arg(long)]
    pub(crate) json: bool,
}

/// The options of `attack`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sudo strongroom attack
      Every attack on every victim, as a table.
  strongroom attack --only peek,fd
      Two families of attacks, as far as an ordinary user can make them.
  sudo strongroom attack --json | jq -r '.victims[] | .name as $v | .attacks[]
        | select(.claimed) | \"\\($v) \\(.attack) \\(.result)\"'
      What is claimed, and what came of it.
  sudo strongroom attack --marker-file /srv/seed -- /srv/keyd --foreground
      The same program plain and under `strongroom run`, attacked for the bytes of a file.
  sudo strongroom attack --marker-file /srv/seed --then '/srv/unlock-keyd' -- /srv/keyd
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
    pub(crate) needles: NeedleArgs,

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
    #[arg(trailing_var_arg = true, value_names = ["CMD", "ARGS"], requires = "needles")]
    pub(crate) command: Vec<OsString>,
}

/// What the secret of a program is.
#[derive(Debug, Args)]
#[group(id = "needles", multiple = true)]
pub(crate) struct NeedleArgs {
    /// A text of at least 8 bytes that is CMD's secret
    #[arg(long, value_name = "TEXT", requires = "command")]
    pub(crate) marker: Vec<OsString>,

    /// The same in hexadecimal digits
    #[arg(long, value_name = "HEX", requires = "command")]
    pub(crate) pattern: Vec<String>,

    /// The same as the contents of a file, all of it
    #[arg(long, value_name = "FILE", requires = "command")]
    pub(crate) marker_file: Vec<PathBuf>,
}

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
             memory that the kernel shows to nobody: memfd_secret
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

    /// Look for the parts of this private key: OpenSSH, PEM, DER, or GnuPG's private-keys-v1.d
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Vec<PathBuf>,

    /// Read the passphrase of encrypted keys from the first line of FILE, or of standard input for `-`
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) passphrase_file: Option<PathBuf>,

    /// Look for these bytes, in hexadecimal
    #[arg(long, value_name = "HEX")]
    pub(crate) pattern: Vec<String>,

    /// Look for these bytes, as they stand
    ///
    /// Other users see a command line: `--text-file` is for secrets.
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Vec<String>,

    /// Look for the contents of FILE, without the line's end
    #[arg(long, value_name = "FILE")]
    pub(crate) text_file: Vec<PathBuf>,

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

/// `--level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelArg {
    /// Locked memory
    Locked,
    /// memfd_secret
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
