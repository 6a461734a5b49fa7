//! What guards cost: the accesses of vm-memory's own benchmarks on [`GuestRam`], and on its mmap backend.
//!
//! Both are mappings of a memfd that is touched beforehand. Rounds alternate, and the median of the rounds'
//! ratios is told, so that a noisy machine disturbs both alike. `cargo bench -p strongroom-guest --bench ram`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use core::hint::black_box;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use strongroom_guest::backing::Plain;
use strongroom_guest::{GuestRam, GuestRegion};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress, MmapRegion, VolatileMemory,
};

/// Two regions, as an access across them is one of the cases.
const REGION: usize = 32 << 20;
const ROUNDS: usize = 61;

fn ours() -> GuestRam {
    let region = |start| GuestRegion::new(start, Plain::new(REGION).unwrap()).unwrap();
    GuestRam::from_regions(vec![region(0), region(REGION as u64)]).unwrap()
}

fn theirs() -> GuestMemoryMmap<()> {
    let region = |start| {
        let file = rustix::fs::memfd_create(c"bench", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, REGION as u64).unwrap();
        let mapping: MmapRegion<()> =
            MmapRegion::from_file(FileOffset::new(File::from(file), 0), REGION).unwrap();
        vm_memory::GuestRegionMmap::new(mapping, GuestAddress(start)).unwrap()
    };
    GuestMemoryMmap::from_regions(vec![region(0), region(REGION as u64)]).unwrap()
}

/// Nanoseconds of one of `times` accesses, all over the first region.
fn time(times: usize, step: usize, mut access: impl FnMut(GuestAddress)) -> f64 {
    let begin = Instant::now();
    let mut at = 0;
    for _ in 0..times {
        access(GuestAddress(at as u64));
        at = (at + step) % (REGION - (1 << 20));
    }
    begin.elapsed().as_nanos() as f64 / times as f64
}

/// Both, in turn: median nanoseconds of each, and of their ratio.
fn compare(
    name: &str,
    times: usize,
    step: usize,
    mut our_access: impl FnMut(GuestAddress),
    mut their_access: impl FnMut(GuestAddress),
) {
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let mut our = || time(times, step, &mut our_access);
        let mut their = || time(times, step, &mut their_access);
        // Who is first changes.
        let (our, their) = match round % 2 {
            0 => {
                let our = our();
                (our, their())
            }
            _ => {
                let their = their();
                (our(), their)
            }
        };
        rounds.push((our / their, our, their));
    }
    let median = |pick: fn(&(f64, f64, f64)) -> f64| {
        let mut values: Vec<_> = rounds.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[ROUNDS / 2]
    };
    let (ratio, our, their) = (median(|r| r.0), median(|r| r.1), median(|r| r.2));
    let _ = writeln!(
        std::io::stdout(),
        "{name:<28} ours {our:>10.1} ns  mmap {their:>10.1} ns  ratio {ratio:.3}"
    );
}

fn main() {
    let (our, their) = (ours(), theirs());
    let mut first = vec![1; 1 << 20];
    for at in (0..2 * REGION).step_by(first.len()) {
        our.write_slice(&first, GuestAddress(at as u64)).unwrap();
        their.write_slice(&first, GuestAddress(at as u64)).unwrap();
    }
    let mut second = first.clone();
    for (size, times, step) in [
        (64, 20_000, 64),
        (512, 10_000, 512),
        (4096, 4000, 4096),
        (4096, 4000, 4096 + 64),
        (65_536, 400, 65_536),
        (1 << 20, 24, 1 << 20),
    ] {
        let aligned = if step % size == 0 { "" } else { " unaligned" };
        compare(
            &format!("read_slice {size}{aligned}"),
            times,
            step,
            |at| our.read_slice(black_box(&mut first[..size]), at).unwrap(),
            |at| {
                their
                    .read_slice(black_box(&mut second[..size]), at)
                    .unwrap()
            },
        );
        compare(
            &format!("write_slice {size}{aligned}"),
            times,
            step,
            |at| our.write_slice(black_box(&first[..size]), at).unwrap(),
            |at| their.write_slice(black_box(&second[..size]), at).unwrap(),
        );
    }
    compare(
        "read_obj u64",
        20_000,
        64,
        |at| _ = black_box(our.read_obj::<u64>(at).unwrap()),
        |at| _ = black_box(their.read_obj::<u64>(at).unwrap()),
    );
    compare(
        "read_obj 96",
        20_000,
        128,
        |at| _ = black_box(our.read_obj::<[u64; 12]>(at).unwrap()),
        |at| _ = black_box(their.read_obj::<[u64; 12]>(at).unwrap()),
    );
    compare(
        "write_obj u64",
        20_000,
        64,
        |at| our.write_obj(black_box(7_u64), at).unwrap(),
        |at| their.write_obj(black_box(7_u64), at).unwrap(),
    );
    compare(
        "store u64",
        20_000,
        64,
        |at| our.store(black_box(7_u64), at, Ordering::Release).unwrap(),
        |at| {
            their
                .store(black_box(7_u64), at, Ordering::Release)
                .unwrap()
        },
    );
    compare(
        "load u64",
        20_000,
        64,
        |at| _ = black_box(our.load::<u64>(at, Ordering::Acquire).unwrap()),
        |at| _ = black_box(their.load::<u64>(at, Ordering::Acquire).unwrap()),
    );
    let edge = GuestAddress(REGION as u64 - 256);
    compare(
        "write_slice 512, two regions",
        10_000,
        0,
        |_| our.write_slice(black_box(&first[..512]), edge).unwrap(),
        |_| their.write_slice(black_box(&second[..512]), edge).unwrap(),
    );
    // By the region, as who knows it does: a guard, and nothing else.
    let our_region = our.find_region(GuestAddress(0)).unwrap();
    let their_region = their.find_region(GuestAddress(0)).unwrap();
    for size in [8, 64, 4096] {
        let times = if size > 64 { 4000 } else { 20_000 };
        compare(
            &format!("region, write_slice {size}"),
            times,
            size,
            |at| {
                let at = MemoryRegionAddress(at.0);
                our_region
                    .write_slice(black_box(&first[..size]), at)
                    .unwrap();
            },
            |at| {
                let at = MemoryRegionAddress(at.0);
                their_region
                    .write_slice(black_box(&second[..size]), at)
                    .unwrap();
            },
        );
    }
    compare(
        "guard, against an atomic add",
        20_000,
        64,
        |at| {
            drop(black_box(
                our_region.guard(at.0 as usize..at.0 as usize + 1),
            ))
        },
        |at| {
            let there = their_region
                .get_slice(MemoryRegionAddress(at.0), 8)
                .unwrap();
            let there = there.get_atomic_ref::<AtomicU64>(0).unwrap();
            black_box(there.fetch_add(1, Ordering::Acquire));
        },
    );
    // Where a device holds a slice, as rings do, there is no guard to take.
    let (our_slice, their_slice) = (
        our.get_slice(GuestAddress(0), REGION).unwrap(),
        their.get_slice(GuestAddress(0), REGION).unwrap(),
    );
    compare(
        "held slice, write 64",
        20_000,
        64,
        |at| {
            our_slice
                .write_slice(black_box(&first[..64]), at.0 as usize)
                .unwrap();
        },
        |at| {
            their_slice
                .write_slice(black_box(&second[..64]), at.0 as usize)
                .unwrap();
        },
    );
}
