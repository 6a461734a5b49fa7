//! A victim that breaks the rules of memory on purpose, as a bug would have it: past the end of
//! a block, through a dangling pointer, and freeing twice.
//!
//! Loads and stores go through [`strongroom_sys::foul`]: to the compiler they are no accesses of
//! this program's own.

use super::buffer::{self, Buffer};
use super::speech::{Hex, say};
use super::store::Store;
use super::{LENGTH, OFFSET};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use strongroom_sys::{Errno, PAGE, foul};

/// How far from the secret a neighbour may be, in bytes: no overflow is longer.
const REACH: usize = 64 << 10;
/// What an over-write writes.
pub(crate) const FILL: u8 = 0xa5;

/// A program that is stopped by a fault is not to leave its secret in a dump.
fn without_core() {
    let limit = getrlimit(Resource::Core);
    let current = Some(0);
    let _ = setrlimit(Resource::Core, Rlimit { current, ..limit });
}

/// What lies at the secret's address now, by plain loads.
pub(super) fn load(buffer: &Buffer<'_>) -> Result<(), Errno> {
    without_core();
    let mut bytes = [0; LENGTH];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = foul::load(buffer.start() + OFFSET + index);
    }
    say(format_args!("bytes {}", Hex(&bytes)))
}

/// The way from a neighbour's edge to the secret's far end.
struct Way {
    /// The first address past the neighbour.
    first: usize,
    /// How many bytes there are to go, the secret's included.
    len: usize,
    upwards: bool,
}

impl Way {
    fn addresses(&self) -> impl Iterator<Item = usize> {
        let (first, upwards) = (self.first, self.upwards);
        (0..self.len).map(move |step| if upwards { first + step } else { first - step })
    }
}

/// Allocates blocks until one is the secret's neighbour, or as near as they come.
fn neighbour(buffer: &Buffer<'_>) -> Result<Option<Way>, Errno> {
    const SIZES: [usize; 4] = [PAGE, 1024, 256, 64];
    const OF_EACH: usize = 32;
    let secret = buffer.start() + OFFSET;
    let mut best: Option<Way> = None;
    for size in SIZES {
        for _ in 0..OF_EACH {
            // They stay: what is given back would come again.
            let Ok(block) = buffer.store.allocate(size) else {
                break;
            };
            let block = block as usize;
            let way = if block < buffer.start() {
                Way {
                    first: block + size,
                    len: secret + LENGTH - (block + size),
                    upwards: true,
                }
            } else {
                Way {
                    first: block - 1,
                    len: block - secret,
                    upwards: false,
                }
            };
            // The usual overflow goes upwards.
            let better = best
                .as_ref()
                .is_none_or(|best| (!way.upwards, way.len) < (!best.upwards, best.len));
            if way.len <= REACH && better {
                best = Some(way);
            }
        }
    }
    match &best {
        None => say(format_args!("alone {REACH}"))?,
        Some(way) => {
            let gap = way.len - LENGTH;
            let side = if way.upwards { "below" } else { "above" };
            say(format_args!("neighbour {gap} {side}"))?;
        }
    }
    Ok(best)
}

/// Reads on from the neighbour until it has read the secret, and says the last that it read.
pub(super) fn over_read(buffer: &Buffer<'_>) -> Result<(), Errno> {
    let Some(way) = neighbour(buffer)? else {
        return Ok(());
    };
    without_core();
    let mut bytes = [0; LENGTH];
    for address in way.addresses() {
        let byte = foul::load(address);
        if way.upwards {
            bytes.rotate_left(1);
            bytes[LENGTH - 1] = byte;
        } else {
            bytes.rotate_right(1);
            bytes[0] = byte;
        }
    }
    say(format_args!("bytes {}", Hex(&bytes)))
}

/// Writes on from the neighbour until it has written over the secret.
pub(super) fn over_write(buffer: &Buffer<'_>) -> Result<(), Errno> {
    let Some(way) = neighbour(buffer)? else {
        return Ok(());
    };
    without_core();
    for address in way.addresses() {
        // SAFETY: what lies between the neighbour and the secret is the allocator's or a guard;
        // from here on this process only reads, writes lines and ends.
        unsafe { foul::store(address, FILL) };
    }
    say(format_args!("written"))
}

/// Frees a block twice and looks whether two owners get it then: the first is given the secret,
/// and the second says what it sees.
///
/// The order is the one that gets past glibc's checks: its cache of a thread is filled first, and
/// another block is freed between the two.
pub(super) fn double_free(store: &dyn Store) -> Result<(), Errno> {
    // glibc's caches hold seven blocks of a size.
    const CACHE: usize = 7;
    let mut secret = [std::ptr::null_mut(); CACHE + 3];
    if !store.frees_twice() {
        return say(format_args!("impossible"));
    }
    without_core();
    let mut blocks = [std::ptr::null_mut(); CACHE + 2];
    for block in &mut blocks {
        *block = store.allocate(LENGTH)?;
    }
    let [cached @ .., one, other] = blocks;
    for block in cached.into_iter().chain([one, other, one]) {
        // SAFETY: none is: that is the attack. Whatever the allocator makes of it, this process
        // only allocates, reads, writes lines and ends from here on.
        unsafe { store.release(block, LENGTH) };
    }
    for block in &mut secret {
        *block = store.allocate(LENGTH)?;
    }
    let pair = secret.iter().enumerate().find_map(|(index, block)| {
        let later = secret.get(index + 1..)?;
        later.contains(block).then_some(*block)
    });
    let Some(block) = pair else {
        return say(format_args!("once"));
    };
    say(format_args!("twice"))?;
    // SAFETY: a block of this length, which the first of its two owners writes.
    unsafe { buffer::fill(block) }?;
    let mut bytes = [0; LENGTH];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = foul::load(block as usize + index);
    }
    say(format_args!("bytes {}", Hex(&bytes)))
}
