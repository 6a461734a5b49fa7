//! The kernel driver: what `driver/benches/figures` prints in a virtual machine, and what of it was promised.

use super::report::{Group, Row, Target};
use super::samples::Samples;
use super::{Bench, Result};
use crate::vm;
use std::path::Path;

const METHOD: &str = "\
`driver/benches/figures`, in an emulated machine of two processors (`cargo xtask vm`: Debian's kernel 6.12, QEMU without hardware \
acceleration), where strongroom.ko has a pool that was set aside at boot: trust the ratios, not the times. *First touch* is a write to \
each page of 4 KiB of 8 MiB (objects of 4 KiB: of 1 MiB), mapped before; *taken, touched and given back* is everything from \
opening the device, or memfd_secret, to the last munmap. With *2 MiB pages* the object is one of 8 MiB; with *4 KiB pages* \
objects are of 1 MiB, too small for larger entries; the driver's own counts are checked to say so. The second processor is switched off for these: with it, each of memfd_secret's touches waits for it, \
which on a busy host takes any time. The driver wipes pages \
when they are given back, and not at first touch as memfd_secret does: the second figure has both. *Shootdowns* and the *direct \
map*: 32 objects of 4 KiB, 4 of 64 KiB and one of 2 MiB, taken, touched and given back by a process on one processor while another process \
is busy on the other one; of that one /proc/interrupts tells how often it was interrupted to flush user addresses (`TLB`) or to call a function (`CAL`), by \
which the kernel has its own addresses flushed. There is no third way, and the kernel's `nr_tlb_remote_flush` is not compiled in. \
Splits are `direct_map_level2_splits` and `level3_splits` of /proc/vmstat; what counts of the direct map is the sum over all rounds of all measurements here. \
Where a thread of the same process runs on the other processor, whatever is unmapped must be flushed there, and the driver is to do no more than \
anonymous memory does. An emulated processor has no caches that a read could miss: that uncached memory is so is shown \
by the entries of the page tables, in the driver's tests, and not here.";

/// A target of all rows whose names begin so.
const TARGETS: [(&str, Target); 8] = [
    ("first touch of 1 MiB, 2 MiB pages", Target::Faster(100.0)),
    ("first touch of 1 MiB, 4 KiB pages", Target::Faster(5.0)),
    ("first touch", Target::Factor),
    ("1 MiB taken", Target::Factor),
    ("shootdowns (TLB)", Target::AtMost(0.0)),
    ("calls (CAL)", Target::AtMost(0.0)),
    ("direct map", Target::AtMost(0.0)),
    ("the same with a thread", Target::Difference),
];

pub(super) fn measure(bench: &Bench, root: &Path) -> Result<Group> {
    let args = vm::Args::for_driver_bench(bench.rounds);
    let text = vm::output(&args, root).map_err(|error| match error {
        vm::Error::Unavailable(why) | vm::Error::Failed(why) => why,
    })?;
    read(&text)
}

fn read(text: &str) -> Result<Group> {
    let mut group = Group {
        plot: None,
        title: "The kernel driver",
        method: METHOD,
        rows: Vec::new(),
        notes: Vec::new(),
    };
    // The guest's own lines are between them.
    for line in text.lines() {
        match line.split('\t').collect::<Vec<_>>().as_slice() {
            ["row", what, peer, unit, theirs, ours] => group.rows.push(Row {
                what: (*what).to_owned(),
                peer: (*peer).to_owned().into(),
                unit: known(unit)?,
                theirs: samples(theirs)?,
                ours: samples(ours)?,
                target: target(what)?,
            }),
            ["note", note] => group.notes.push((*note).to_owned()),
            _ => {}
        }
    }
    for (begin, _) in TARGETS {
        if !group.rows.iter().any(|row| row.what.starts_with(begin)) {
            return Err(format!("the bench printed no {begin:?}:\n{text}").into());
        }
    }
    Ok(group)
}

fn known(unit: &str) -> Result<&'static str> {
    let known = ["", "µs", "KiB"];
    let found = known.into_iter().find(|known| *known == unit);
    found.ok_or_else(|| format!("the bench has a unit {unit:?}").into())
}

fn samples(text: &str) -> Result<Samples> {
    let values = text.split_whitespace().map(str::parse);
    Ok(Samples(values.collect::<std::result::Result<_, _>>()?))
}

fn target(what: &str) -> Result<Target> {
    let found = TARGETS.iter().find(|(begin, _)| what.starts_with(begin));
    let (_, target) = found.ok_or_else(|| format!("nothing is known of {what:?}"))?;
    Ok(*target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_and_an_incomplete_one_is_none() {
        let mut text = "== strongroom-driver/bench:figures\n".to_owned();
        for (begin, _) in TARGETS {
            text += &format!("row\t{begin}\tmemfd_secret\t\t7 8\t1 0\n");
        }
        let group = read(&text).unwrap();
        assert_eq!(group.rows[0].target, Target::Faster(100.0));
        assert_eq!(group.rows[4].ours, Samples(vec![1.0, 0.0]));
        assert!(read("row\tfirst touch\tmemfd_secret\tµs\t1\t1\n").is_err());
    }
}
