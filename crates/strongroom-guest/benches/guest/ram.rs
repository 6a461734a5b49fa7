//! Accesses to shared guest memory through guards, and through vm-memory's own mmap backend.
//!
//! Both are mappings of a memfd that is touched beforehand.

use crate::rounds::Rounds;
use core::hint::black_box;
use std::fs::File;
use std::sync::atomic::Ordering;
use strongroom_guest::backing::Plain;
use strongroom_guest::{GuestRam, GuestRegion};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, MemoryRegionAddress,
    MmapRegion,
};

pub(crate) const PEER: &str = "vm-memory mmap";
/// Two regions, as an access across them is one of the cases.
const REGION: usize = 32 << 20;

/// Regions of so many bytes, one after the other.
pub(crate) fn ours(len: usize, regions: usize) -> GuestRam {
    let region = |n| GuestRegion::new((n * len) as u64, Plain::new(len).unwrap()).unwrap();
    GuestRam::from_regions((0..regions).map(region).collect()).unwrap()
}

/// The same of vm-memory's own.
pub(crate) fn theirs(len: usize, regions: usize) -> GuestMemoryMmap<()> {
    let region = |n| {
        let file = rustix::fs::memfd_create(c"bench", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len as u64).unwrap();
        let mapping: MmapRegion<()> =
            MmapRegion::from_file(FileOffset::new(File::from(file), 0), len).unwrap();
        vm_memory::GuestRegionMmap::new(mapping, GuestAddress((n * len) as u64)).unwrap()
    };
    GuestMemoryMmap::from_regions((0..regions).map(region).collect()).unwrap()
}

/// Over how many bytes small accesses go: a processor's own cache has room for more, so that it does not matter which
/// physical pages the two sides were given.
const SMALL_SPAN: usize = 256 << 10;

/// The address of an access: over a few pages, or where it is a large one over the first region, never over its end.
fn at(n: usize, step: usize) -> GuestAddress {
    let span = if step < 65_536 { SMALL_SPAN } else { REGION };
    GuestAddress((n * step % (span - step)) as u64)
}

fn named(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..0x10_0000 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

pub(crate) fn measure(rounds: &Rounds) {
    let (our, their) = (ours(REGION, 2), theirs(REGION, 2));
    let mut first = vec![1; 1 << 20];
    for at in (0..2 * REGION).step_by(first.len()) {
        our.write_slice(&first, GuestAddress(at as u64)).unwrap();
        their.write_slice(&first, GuestAddress(at as u64)).unwrap();
    }
    let mut second = first.clone();
    for (size, step) in [
        (64, 64),
        (512, 512),
        (4096, 4096),
        (4096, 4096 + 64),
        (65_536, 65_536),
        (1 << 20, 1 << 20),
    ] {
        let aligned = if step == size { "" } else { ", unaligned" };
        let size_named = named(size);
        rounds.short(
            &format!("read_slice, {size_named}{aligned}"),
            PEER,
            |n| {
                our.read_slice(black_box(&mut first[..size]), at(n, step))
                    .unwrap()
            },
            |n| {
                their
                    .read_slice(black_box(&mut second[..size]), at(n, step))
                    .unwrap()
            },
        );
        rounds.short(
            &format!("write_slice, {size_named}{aligned}"),
            PEER,
            |n| {
                our.write_slice(black_box(&first[..size]), at(n, step))
                    .unwrap()
            },
            |n| {
                their
                    .write_slice(black_box(&second[..size]), at(n, step))
                    .unwrap()
            },
        );
    }
    rounds.short(
        "read_obj, 8 B",
        PEER,
        |n| _ = black_box(our.read_obj::<u64>(at(n, 64)).unwrap()),
        |n| _ = black_box(their.read_obj::<u64>(at(n, 64)).unwrap()),
    );
    rounds.short(
        "write_obj, 8 B",
        PEER,
        |n| our.write_obj(black_box(7_u64), at(n, 64)).unwrap(),
        |n| their.write_obj(black_box(7_u64), at(n, 64)).unwrap(),
    );
    rounds.short(
        "store, 8 B",
        PEER,
        |n| {
            our.store(black_box(7_u64), at(n, 64), Ordering::Release)
                .unwrap()
        },
        |n| {
            their
                .store(black_box(7_u64), at(n, 64), Ordering::Release)
                .unwrap()
        },
    );
    rounds.short(
        "load, 8 B",
        PEER,
        |n| _ = black_box(our.load::<u64>(at(n, 64), Ordering::Acquire).unwrap()),
        |n| _ = black_box(their.load::<u64>(at(n, 64), Ordering::Acquire).unwrap()),
    );
    // By the region, as who knows it does: a guard, and nothing else.
    let our_region = our.find_region(GuestAddress(0)).unwrap();
    let their_region = their.find_region(GuestAddress(0)).unwrap();
    for size in [8, 64, 4096] {
        let at = |n| MemoryRegionAddress(at(n, size).0);
        rounds.short(
            &format!("write_slice of a region, {}", named(size)),
            PEER,
            |n| {
                our_region
                    .write_slice(black_box(&first[..size]), at(n))
                    .unwrap();
            },
            |n| {
                their_region
                    .write_slice(black_box(&second[..size]), at(n))
                    .unwrap();
            },
        );
    }
    // Where a device holds a slice, as rings do, there is no guard to take.
    let (our_slice, their_slice) = (
        our.get_slice(GuestAddress(0), REGION).unwrap(),
        their.get_slice(GuestAddress(0), REGION).unwrap(),
    );
    for size in [64, 4096] {
        rounds.short(
            &format!("write_slice of a held slice, {}", named(size)),
            PEER,
            |n| {
                our_slice
                    .write_slice(black_box(&first[..size]), at(n, size).0 as usize)
                    .unwrap();
            },
            |n| {
                their_slice
                    .write_slice(black_box(&second[..size]), at(n, size).0 as usize)
                    .unwrap();
            },
        );
    }
    // Who guards a buffer once and then reads and writes it, as a device does with a descriptor's.
    let guard = our_region.guard(0..REGION).unwrap();
    let our_slice = our_region.slice_under(&guard, 0..REGION).unwrap();
    for size in [64, 512, 4096, 65_536, 1 << 20] {
        let at = |n| at(n, size).0 as usize;
        rounds.short(
            &format!("read_slice under a held guard, {}", named(size)),
            PEER,
            |n| {
                our_slice
                    .read_slice(black_box(&mut first[..size]), at(n))
                    .unwrap();
            },
            |n| {
                their_slice
                    .read_slice(black_box(&mut second[..size]), at(n))
                    .unwrap();
            },
        );
        rounds.short(
            &format!("write_slice under a held guard, {}", named(size)),
            PEER,
            |n| {
                our_slice
                    .write_slice(black_box(&first[..size]), at(n))
                    .unwrap();
            },
            |n| {
                their_slice
                    .write_slice(black_box(&second[..size]), at(n))
                    .unwrap();
            },
        );
    }
}
