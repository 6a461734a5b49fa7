//! `cargo xtask bench`: the figures that the project promises, each beside a peer's.
//!
//! Ours and the peer's runs alternate on one machine, and what is compared is each round's
//! ratio: what slows the machine down for a while slows both.
//!
//! * [`workshop`]: builds both sides and starts them.
//! * [`samples`]: rounds, medians and how far to trust them.
//! * [`served`]: what a request to a server takes, plain and protected.
//! * [`plot`]: a picture.
//! * [`report`]: rows, targets, and the table as text, Markdown and JSON.
//! * The others: one group of figures each.

mod capacity;
mod counts;
mod direct_map;
mod driver;
mod fork;
mod guest;
mod handshakes;
mod machine;
mod malloc;
mod plot;
mod pool;
mod process;
mod report;
mod samples;
mod scan;
mod served;
mod signatures;
mod start;
mod workshop;

use machine::Machine;
use report::{Group, Report};
use std::error::Error;
use std::path::Path;
use workshop::Workshop;

/// What can go wrong is said to a person.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measure strongroom beside its peers.
///
/// Wants gcc, libsodium-dev, libssl-dev, gnupg, openssh-client and openssl; root for the capacity
/// of an ordinary user and for counting system calls.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these groups of figures
    #[arg(value_enum, value_name = "NAME")]
    names: Vec<Name>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write docs/benchmarks.md; of the named groups, their sections alone
    #[arg(long)]
    write: bool,
    /// How many rounds; each group has its own least
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(7..))]
    rounds: u16,
}

/// A group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// Allocating, touching, wiping and freeing
    Malloc,
    /// How many secrets there is room for
    Capacity,
    /// Starting a program
    Start,
    /// Signatures by gpg-agent and ssh-agent
    Signatures,
    /// TLS handshakes of openssl s_server
    Handshakes,
    /// What becomes of the kernel's direct map
    DirectMap,
    /// Forks, and concealing what a program locks
    Fork,
    /// System calls and page faults
    Counts,
    /// Searching memory for keys
    Scan,
    /// Guest memory: accesses, guards, conversions, contexts
    Guest,
    /// The pool: its calls, and a simulated day
    Pool,
    /// The kernel driver, in a virtual machine
    Driver,
}

impl Name {
    /// Direct map first: what splits it does so once until the next boot.
    const ALL: [Name; 12] = [
        Name::DirectMap,
        Name::Malloc,
        Name::Capacity,
        Name::Start,
        Name::Signatures,
        Name::Handshakes,
        Name::Fork,
        Name::Counts,
        Name::Scan,
        Name::Guest,
        Name::Pool,
        Name::Driver,
    ];

    fn measure(self, bench: &Bench, root: &Path) -> Result<Vec<Group>> {
        let group = match self {
            Name::Malloc => malloc::measure(bench),
            Name::Capacity => capacity::measure(bench),
            Name::Start => start::measure(bench),
            Name::Signatures => signatures::measure(bench),
            Name::Handshakes => handshakes::measure(bench),
            Name::DirectMap => direct_map::measure(bench),
            Name::Fork => fork::measure(bench),
            Name::Counts => counts::measure(bench),
            Name::Scan => scan::measure(bench),
            Name::Pool => pool::measure(bench),
            Name::Driver => driver::measure(bench, root),
            Name::Guest => return guest::measure(bench),
        };
        Ok(vec![group?])
    }
}

/// What every group measures with.
struct Bench {
    workshop: Workshop,
    rounds: usize,
}

/// Measures; returns whether every target was met.
///
/// # Errors
/// What kept a figure from being measured.
pub(crate) fn run(args: &Args, root: &Path) -> Result<bool> {
    let bench = Bench {
        workshop: Workshop::open(root)?,
        rounds: usize::from(args.rounds),
    };
    let names = Name::ALL
        .into_iter()
        .filter(|name| args.names.is_empty() || args.names.contains(name));
    let machine = Machine::of_this()?;
    let groups = names
        .map(|name| {
            name.measure(&bench, root)
                .map_err(|error| format!("{name:?}: {error}").into())
        })
        .collect::<Result<Vec<_>>>()?;
    let groups = groups.into_iter().flatten().collect();
    let report = Report { machine, groups };
    if args.json {
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    if args.write {
        let path = root.join("docs/benchmarks.md");
        std::fs::create_dir_all(root.join("docs"))?;
        let text = if args.names.is_empty() {
            report.to_markdown()
        } else {
            report.put_into(&std::fs::read_to_string(&path)?)?
        };
        std::fs::write(&path, text)?;
        for plot in report.groups.iter().filter_map(|group| group.plot.as_ref()) {
            std::fs::write(path.with_file_name(plot.file), plot.svg())?;
        }
        eprintln!("written: {}", path.display());
    }
    Ok(report.all_met())
}
