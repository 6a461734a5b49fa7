//! Guest memory: what `crates/strongroom-guest/benches/guest` prints, and what of it was promised.

use super::report::{Group, Row, Target};
use super::samples::{Samples, progress};
use super::{Bench, Result, process};

/// Values scatter more than whole programs do, and cost less.
const LEAST_ROUNDS: usize = 15;

/// A part of the program, and its section.
struct Part {
    name: &'static str,
    title: &'static str,
    method: &'static str,
    promises: &'static [Promise],
}

/// A target of all rows whose names begin so, and whose peer is this one where one is named.
struct Promise {
    what: &'static str,
    peer: Option<&'static str>,
    target: Target,
}

const fn promise(what: &'static str, target: Target) -> Promise {
    let peer = None;
    Promise { what, peer, target }
}

const PARTS: [Part; 8] = [
    Part {
        name: "ram",
        title: "Guest memory: accesses",
        method: "\
`crates/strongroom-guest/benches/guest/ram.rs`: shared pages of `GuestRam` and of vm-memory's own mmap backend, both a memfd \
that was touched before. Accesses of up to 4 KiB go over 256 KiB, larger ones over 32 MiB. An access of *a region* skips vm-memory's \
search for it; one in *a held slice* takes no guard of its own, but shares the slice's; *under a held guard* none is taken, \
shared or let go of.",
        promises: &[
            promise("read_slice, ", Target::Times(1.05)),
            promise("write_slice, ", Target::Times(1.05)),
            promise("read_slice under a held guard", Target::Times(1.05)),
            promise("write_slice under a held guard", Target::Times(1.05)),
        ],
    },
    Part {
        name: "libraries",
        title: "Guest memory: vm-memory's benches",
        method: "\
`libraries.rs`: the benches of vm-memory 0.18 on both: 8 regions of 2 GiB; 512 bytes or an object of 8 or 96 bytes, in the \
first and the last region in turn, or over the edges after the first one and before the last one. Its benches of slices are made on \
slices of guest memory that are held.",
        promises: &[],
    },
    Part {
        name: "queue",
        title: "Guest memory: virtio-queue's benches",
        method: "\
`queue.rs`: the benches of virtio-queue 0.18 on both: 128 descriptors are read, or 128 entries of the used ring written, by a device \
that holds nothing between its accesses.",
        promises: &[],
    },
    Part {
        name: "guards",
        title: "Guest memory: guards",
        method: "\
`guards.rs`: a guard taken and dropped. The peer is what a count that goes up and down cannot do without, on words of its own. \
With two threads a value is the mean of both, and a guard of the *neighbour* has its state in the same line of the cache.",
        promises: &[
            promise("guard of a page, one thread", Target::AtMost(10.0)),
            Promise {
                what: "guard of a page, 2 threads, each on pages of its own",
                peer: Some("one thread's"),
                target: Target::Times(1.2),
            },
        ],
    },
    Part {
        name: "conversions",
        title: "Guest memory: conversions",
        method: "\
`conversions.rs`: ranges of 2 MiB, and single pages in the middle of 2 MiB that are shared otherwise, written before they become \
private; with `pair`, such a page has a slot of its own from its first conversion on, which is not counted. The peer, `by_hand.rs`, makes the system calls that the same change needs, on a machine of its own, and copies by a \
virtual processor where pages move. It wipes private pages that are dropped, as freed pages of a guest_memfd keep what was in \
them, and nothing else; strongroom wipes whatever contents leave. No processor of the guest runs. `attributes` needs a type of \
machine that few kernels have: `cargo xtask vm --kernel built strongroom-guest/bench:guest:conversions` measures it in an emulated \
machine, and docs/guest.md has what came of it.",
        promises: &[
            promise("attributes, 2 MiB", Target::AtLeastOrShare(2.0, 0.9)),
            promise("poison, 2 MiB", Target::AtLeastOrShare(2.0, 0.9)),
            // 1.2 times as long.
            promise("pair, 2 MiB", Target::Share(1.0 / 1.2)),
            promise("attributes, 4 KiB", Target::Times(1.2)),
            promise("pair, 4 KiB", Target::Times(1.2)),
            promise("poison, 4 KiB", Target::Times(1.2)),
        ],
    },
    Part {
        name: "state",
        title: "Guest memory: states of pages",
        method: "\
`state.rs`: memory that the states take where all pages of 1 GiB were private once; and 1 TiB of guest addresses made, a page held \
at 16 places of it. *Resident* is what this process has then, with its page tables. It is not placed in a machine: what \
KVM needs for a slot is KVM's.",
        promises: &[
            promise("state, of pages", Target::AtMost(8.0)),
            promise("the same with a log", Target::AtMost(8.0)),
            promise("1 TiB of plain, set up", Target::AtMost(100.0)),
            promise("1 TiB of plain, resident", Target::AtMost(4096.0)),
            promise("1 TiB of poison, set up", Target::AtMost(100.0)),
            promise("1 TiB of poison, resident", Target::AtMost(4096.0)),
            promise("1 TiB of pair, set up", Target::AtMost(100.0)),
            promise("1 TiB of pair, resident", Target::AtMost(4096.0)),
        ],
    },
    Part {
        name: "contexts",
        title: "Guest memory: contexts",
        method: "\
`contexts.rs`: address spaces of the guest that map a page of code, three of data and a large page, cut from one that maps \
everything. There is no target: these are the prices.",
        promises: &[],
    },
    Part {
        name: "bounces",
        title: "Guest memory: bounces",
        method: "\
`bounces.rs`: what a write costs that goes through a call instead of to shared pages directly, under a guard. The peer is \
the bounce: `pwrite` to the memory's file; `process_vm_writev`, as another process uses it; a request to a thread that has the \
memory, over a pair of sockets; a copy into a buffer that is copied again; and private pages that are shared for as long as \
the write takes, in a region all of which is private. There is no target.",
        promises: &[promise("", Target::Factor)],
    },
];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Group>> {
    let program = bench.workshop.benches("strongroom-guest", "guest")?;
    let rounds = bench.rounds.max(LEAST_ROUNDS).to_string();
    let mut groups = Vec::new();
    for (done, part) in PARTS.iter().enumerate() {
        progress("guest", done, PARTS.len());
        let mut command = bench.workshop.plain(&program);
        command.args(["--samples", "--rounds", &rounds, part.name]);
        groups.push(part.read(&process::output(&mut command)?)?);
    }
    progress("guest", PARTS.len(), PARTS.len());
    Ok(groups)
}

impl Part {
    /// Makes a section of what the program printed.
    fn read(&self, text: &str) -> Result<Group> {
        let mut rows = Vec::new();
        let mut notes = Vec::new();
        for line in text.lines() {
            match line.split('\t').collect::<Vec<_>>().as_slice() {
                ["row", _, what, peer, unit, theirs, ours] => rows.push(Row {
                    what: (*what).to_owned(),
                    peer: (*peer).to_owned().into(),
                    unit: self.unit(unit)?,
                    theirs: samples(theirs)?,
                    ours: samples(ours)?,
                    target: self.target(what, peer),
                }),
                ["note", _, note] => notes.push((*note).to_owned()),
                _ => return Err(format!("{} printed {line:?}", self.name).into()),
            }
        }
        for promise in self.promises {
            if !rows.iter().any(|row| promise.is_of(&row.what, &row.peer)) {
                notes.push(format!("Not measured here: {}.", promise.what));
            }
        }
        Ok(Group {
            plot: None,
            title: self.title,
            method: self.method,
            rows,
            notes,
        })
    }

    fn target(&self, what: &str, peer: &str) -> Target {
        self.promises
            .iter()
            .find(|promise| promise.is_of(what, peer))
            .map_or(Target::None, |promise| promise.target)
    }

    fn unit(&self, unit: &str) -> Result<&'static str> {
        const UNITS: [&str; 7] = ["ns", "µs", "ms", "GiB/s", "B", "KiB", "B a page"];
        let known = UNITS.into_iter().find(|known| *known == unit);
        known.ok_or_else(|| format!("{} has a unit {unit:?}", self.name).into())
    }
}

impl Promise {
    fn is_of(&self, what: &str, peer: &str) -> bool {
        what.starts_with(self.what) && self.peer.is_none_or(|wanted| wanted == peer)
    }
}

fn samples(text: &str) -> Result<Samples> {
    let values = text.split_whitespace().map(str::parse);
    Ok(Samples(values.collect::<std::result::Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_get_their_targets_and_what_is_missing_is_said() {
        let guards = PARTS.iter().find(|part| part.name == "guards").unwrap();
        let text = "row\tguards\tguard of a page, one thread\tatomics\tns\t8 9\t10 11\nnote\tguards\tBusy.\n";
        let group = guards.read(text).unwrap();
        assert_eq!(group.rows[0].target, Target::AtMost(10.0));
        assert_eq!(group.rows[0].ours, Samples(vec![10.0, 11.0]));
        assert_eq!(group.notes.len(), 2);
        assert!(group.notes[1].contains("pages of its own"));
        assert!(guards.read("panicked").is_err());
    }
}
