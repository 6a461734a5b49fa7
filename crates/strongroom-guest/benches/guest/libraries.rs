//! The benches of vm-memory 0.18 (`benches/mmap/mod.rs`, `guest_memory.rs`, `volatile.rs`) on our memory and on theirs: 8
//! regions of 2 GiB, accesses of 512 bytes, in the first and the last region and over the edges after the first one
//! and before the last one.

use crate::ram::{PEER, ours, theirs};
use crate::rounds::Rounds;
use core::hint::black_box;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

const REGION: usize = 0x8000_0000;
const REGIONS: usize = 8;
const SIZE: usize = 0x200;

/// Two words of 4 bytes, and twelve of 8: their small and their big object.
type Small = [u32; 2];
type Big = [u64; 12];

pub(crate) fn measure(rounds: &Rounds) {
    let (our, their) = (ours(REGION, REGIONS), theirs(REGION, REGIONS));
    let image: Vec<u8> = (0..SIZE).map(|n| n as u8).collect();
    let (mut first, mut second) = ([0; SIZE], [0; SIZE]);
    for (place, edges) in [
        ("in a region", [None, Some(REGIONS - 1)]),
        ("over an edge", [Some(1), Some(REGIONS - 1)]),
    ] {
        let over = place == "over an edge";
        let at = |n: usize, size: usize| {
            let edge = (edges[n % 2].unwrap_or(0) * REGION) as u64;
            GuestAddress(if over { edge - size as u64 / 2 } else { edge })
        };
        let named = |what: &str| format!("{what}, {place}");
        /// One action on both.
        macro_rules! both {
            ($what:expr, $size:expr, |$memory:ident, $at:ident, $buffer:ident| $action:expr) => {
                rounds.short(
                    &named($what),
                    PEER,
                    |n| {
                        let ($memory, $at, $buffer) = (black_box(&our), at(n, $size), &mut first);
                        let _ = &$buffer;
                        _ = black_box($action.unwrap())
                    },
                    |n| {
                        let ($memory, $at, $buffer) =
                            (black_box(&their), at(n, $size), &mut second);
                        let _ = &$buffer;
                        _ = black_box($action.unwrap())
                    },
                )
            };
        }
        both!("read_volatile_from", SIZE, |memory, at, _buffer| memory
            .read_volatile_from(at, &mut image.as_slice(), SIZE));
        both!("read_exact_volatile_from", SIZE, |memory, at, _buffer| {
            memory.read_exact_volatile_from(at, &mut image.as_slice(), SIZE)
        });
        both!("read_slice", SIZE, |memory, at, buffer| memory
            .read_slice(buffer, at));
        both!("read", SIZE, |memory, at, buffer| memory.read(buffer, at));
        both!(
            "read_obj, small",
            size_of::<Small>(),
            |memory, at, _buffer| memory.read_obj::<Small>(at)
        );
        both!("read_obj, big", size_of::<Big>(), |memory, at, _buffer| {
            memory.read_obj::<Big>(at)
        });
        both!("write_volatile_to", SIZE, |memory, at, buffer| memory
            .write_volatile_to(at, &mut buffer.as_mut_slice(), SIZE));
        both!("write_all_volatile_to", SIZE, |memory, at, buffer| memory
            .write_all_volatile_to(at, &mut buffer.as_mut_slice(), SIZE));
        both!("write_slice", SIZE, |memory, at, buffer| memory
            .write_slice(buffer, at));
        both!("write", SIZE, |memory, at, buffer| memory.write(buffer, at));
        both!(
            "write_obj, small",
            size_of::<Small>(),
            |memory, at, _buffer| memory.write_obj(black_box([0x1111_2222_u32, 0x3333_4444]), at)
        );
        both!("write_obj, big", size_of::<Big>(), |memory, at, _buffer| {
            memory.write_obj(black_box([0x1111_2222_3333_4444_u64; 12]), at)
        });
    }
    slices(rounds, &*our, &their);
    regions(rounds);
}

/// Their `volatile.rs`, on slices of guest memory that are held.
fn slices(rounds: &Rounds, our: &impl GuestMemoryBackend, their: &impl GuestMemoryBackend) {
    const LARGE: usize = 10_240;
    let our = our.get_slice(GuestAddress(0), LARGE).unwrap();
    let their = their.get_slice(GuestAddress(0), LARGE).unwrap();
    let (mut first, mut second) = ([0u8; LARGE], [0u8; LARGE]);
    rounds.short(
        "copy_to of a held slice, 1 KiB",
        PEER,
        |_| _ = black_box(our.copy_to(black_box(&mut first[..1024]))),
        |_| _ = black_box(their.copy_to(black_box(&mut second[..1024]))),
    );
    rounds.short(
        "copy_from of a held slice, 1 KiB",
        PEER,
        |_| our.copy_from(black_box(&first[..1024])),
        |_| their.copy_from(black_box(&second[..1024])),
    );
    let (first, second) = (
        VolatileSlice::from(&mut first[..]),
        VolatileSlice::from(&mut second[..]),
    );
    rounds.short(
        "copy_to_volatile_slice of a held slice, 10 KiB",
        PEER,
        |_| black_box(&our).copy_to_volatile_slice(first),
        |_| black_box(&their).copy_to_volatile_slice(second),
    );
}

/// Their `guest_memory.rs`.
fn regions(rounds: &Rounds) {
    const LEN: usize = 0x10_0000;
    const COUNT: usize = 256;
    let (our, their) = (ours(LEN, COUNT), theirs(LEN, COUNT));
    let at = |n| black_box(GuestAddress((n % COUNT * LEN) as u64));
    rounds.short(
        "find_region among 256",
        PEER,
        |n| _ = black_box(our.find_region(at(n)).unwrap()),
        |n| _ = black_box(their.find_region(at(n)).unwrap()),
    );
}
