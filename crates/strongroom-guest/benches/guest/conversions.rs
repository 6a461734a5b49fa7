//! What conversions cost, of 2 MiB and of 4 KiB, beside the bare calls that they need.
//!
//! Pages are written in the shared side before each conversion to private that is measured, so that there is
//! something to move or to drop. No processor is in the guest but the one that copies.

use crate::bare::LARGE;
use crate::by_hand;
use crate::rounds::{Rounds, Row, median};
use core::ops::Range;
use kvm_bindings::KVM_X86_SW_PROTECTED_VM;
use kvm_ioctls::Kvm;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_guest::backing::{Attributes, Pair, Poison};
use strongroom_guest::kvm::{Layout, Machine};
use strongroom_guest::{Backing, Contents, Error, GuestRegion, PAGE, Side};
use vm_memory::{Bytes, MemoryRegionAddress};

/// Where the memory is, and how much: chunks of 2 MiB that are converted one after the other.
pub(crate) const RAM: u64 = 1 << 30;
pub(crate) const LEN: usize = 8 * LARGE;
/// The page of a chunk that is converted alone, in bytes from its start.
const SINGLE: usize = 100 * PAGE;

/// Memory that can be converted.
pub(crate) trait Converts {
    /// Writes shared pages.
    fn fill(&mut self, bytes: Range<usize>);
    fn convert(&mut self, bytes: Range<usize>, to: Side, contents: Contents);
}

/// A region in a machine.
pub(crate) struct Ours(pub(crate) GuestRegion);

impl Ours {
    pub(crate) fn new(machine: &Arc<Machine>, backing: impl Backing + 'static) -> Self {
        let region = GuestRegion::new(RAM, backing).unwrap();
        region.place(machine).unwrap();
        Self(region)
    }
}

impl Converts for Ours {
    fn fill(&mut self, bytes: Range<usize>) {
        let at = MemoryRegionAddress(bytes.start as u64);
        self.0.write_slice(&vec![0x5a; bytes.len()], at).unwrap();
    }

    fn convert(&mut self, bytes: Range<usize>, to: Side, contents: Contents) {
        self.0
            .convert(bytes, to, contents, Duration::from_secs(1))
            .unwrap();
    }
}

/// Seconds of the four conversions: to private and to shared, contents kept and dropped.
type Times = [f64; 4];

const KINDS: [&str; 4] = [
    "to private, kept",
    "to shared, kept",
    "to private, dropped",
    "to shared, dropped",
];

/// Makes and times each of them, from shared to shared.
fn all(memory: &mut impl Converts, bytes: &Range<usize>) -> Times {
    let mut times = Times::default();
    for (kind, to, contents) in [
        (Some(0), Side::Private, Contents::Kept),
        (Some(1), Side::Shared, Contents::Kept),
        (Some(2), Side::Private, Contents::Dropped),
        (None, Side::Shared, Contents::Dropped),
        (None, Side::Private, Contents::Kept),
        (Some(3), Side::Shared, Contents::Dropped),
    ] {
        if to == Side::Private {
            memory.fill(bytes.clone());
        }
        let begin = Instant::now();
        memory.convert(bytes.clone(), to, contents);
        if let Some(kind) = kind {
            times[kind] = begin.elapsed().as_secs_f64();
        }
    }
    times
}

fn compare(rounds: &Rounds, name: &str, mut ours: impl Converts, mut bare: impl Converts) {
    const PEER: &str = "the bare calls";
    let chunks: Vec<_> = (0..LEN / LARGE)
        .map(|n| n * LARGE..(n + 1) * LARGE)
        .collect();
    let single: Vec<_> = chunks
        .iter()
        .map(|chunk| chunk.start + SINGLE..chunk.start + SINGLE + PAGE)
        .collect();
    for (size, pages, unit) in [("2 MiB", chunks, "GiB/s"), ("4 KiB", single, "µs")] {
        let figure = |seconds: f64| match unit {
            "µs" => seconds * 1e6,
            _ => LARGE as f64 / f64::from(1 << 30) / seconds,
        };
        // By kind and round: ours and theirs.
        let mut figures = [const { (Vec::new(), Vec::new()) }; 4];
        // The first round is not counted: pages and tables are not there yet.
        for round in 0..=rounds.count {
            let (mut our, mut their) = (Vec::new(), Vec::new());
            for (n, bytes) in pages.iter().enumerate() {
                // Who is first changes.
                if n % 2 == 0 {
                    our.push(all(&mut ours, bytes));
                    their.push(all(&mut bare, bytes));
                } else {
                    their.push(all(&mut bare, bytes));
                    our.push(all(&mut ours, bytes));
                }
            }
            for (kind, (ours, theirs)) in figures.iter_mut().enumerate() {
                // A round's value is the median of its chunks'.
                let value = |times: &[Times]| {
                    let times: Vec<_> = times.iter().map(|times| times[kind]).collect();
                    figure(median(&times))
                };
                if round > 0 {
                    ours.push(value(&our));
                    theirs.push(value(&their));
                }
            }
        }
        for (what, (ours, theirs)) in KINDS.into_iter().zip(&figures) {
            let what = &format!("{name}, {size} {what}");
            let peer = PEER;
            rounds.tell(Row { what, peer, unit }, ours, theirs);
        }
    }
}

/// A machine of a type.
pub(crate) fn machine(kvm: &Kvm, type_: u64) -> Result<Arc<Machine>, Error> {
    let vm = kvm
        .create_vm_with_type(type_)
        .map_err(|error| Error::Kernel {
            call: "KVM_CREATE_VM",
            errno: strongroom_sys::Errno::from_raw_os_error(error.errno()),
        })?;
    Machine::new(kvm, Arc::new(vm), Layout::of(kvm))
}

pub(crate) fn measure(rounds: &Rounds) {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            return rounds.note(format_args!("No conversions: there is no KVM: {error}."));
        }
    };
    let no = |name: &str, error: Error| {
        rounds.note(format_args!("`{name}` cannot be had here: {error}."));
    };
    let protected = u64::from(KVM_X86_SW_PROTECTED_VM);
    let made = machine(&kvm, protected).and_then(|machine| {
        let backing = Attributes::new(&machine, LEN, Side::Shared)?;
        Ok(Ours::new(&machine, backing))
    });
    match made {
        Ok(ours) => compare(
            rounds,
            "attributes",
            ours,
            by_hand::Attributes::new(&kvm).unwrap(),
        ),
        Err(error) => no("attributes", error),
    }
    let ordinary = machine(&kvm, 0).unwrap();
    match Pair::new(&ordinary, LEN, Side::Shared) {
        Ok(backing) => compare(
            rounds,
            "pair",
            Ours::new(&ordinary, backing),
            by_hand::Pair::new(&kvm).unwrap(),
        ),
        Err(error) => no("pair", error),
    }
    let ordinary = machine(&kvm, 0).unwrap();
    match Poison::new(LEN) {
        Ok(backing) => compare(
            rounds,
            "poison",
            Ours::new(&ordinary, backing),
            by_hand::Poison::new(&kvm).unwrap(),
        ),
        Err(error) => no("poison", error),
    }
}
