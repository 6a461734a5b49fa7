//! Thread caches: a few free blocks of each class, for one thread alone.
//!
//! A cached block is zero and its state is free; only the cache knows of it. The
//! arrays hold positions, not pointers inside the blocks: free memory stays zero.

use super::classes::{COUNT, SIZES};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes of one class a cache holds at most, within 2 to 64 blocks.
const BYTES_PER_CLASS: usize = 32 * 1024;

/// How many blocks of each class fit.
const CAPACITY: [u16; COUNT] = {
    let mut capacity = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        let fit = BYTES_PER_CLASS / SIZES[class] as usize;
        capacity[class] = if fit < 2 {
            2
        } else if fit > 64 {
            64
        } else {
            fit as u16
        };
        class += 1;
    }
    capacity
};

/// Where each class's positions start in [`Cache::units`].
const START: [u16; COUNT] = {
    let mut start = [0; COUNT];
    let mut class = 1;
    while class < COUNT {
        start[class] = start[class - 1] + CAPACITY[class - 1];
        class += 1;
    }
    start
};

const TOTAL: usize = START[COUNT - 1] as usize + CAPACITY[COUNT - 1] as usize;

/// Which owner numbers belong to caches that have a thread: spans of the others are for anyone.
pub(super) struct Owners([AtomicU64; 1024]);

impl Owners {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 1024])
    }

    pub(super) fn set_alive(&self, owner: u16, alive: bool) {
        let (word, bit) = (&self.0[usize::from(owner / 64)], 1 << (owner % 64));
        if alive {
            word.fetch_or(bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    pub(super) fn is_alive(&self, owner: u16) -> bool {
        self.0[usize::from(owner / 64)].load(Ordering::Relaxed) & (1 << (owner % 64)) != 0
    }
}

#[derive(Clone, Copy)]
struct Magazine {
    /// How many blocks are here.
    len: u16,
    /// How many may be: grows as the thread comes back for more, so that a class used once
    /// holds little of a small limit.
    limit: u16,
}

/// One thread's cache. All zero is an empty one.
#[repr(C)]
pub(super) struct Cache {
    /// Where the heap starts; here, so that the fast paths touch one structure.
    pub(super) base: *mut u8,
    /// The heap's length in bytes.
    pub(super) len: usize,
    /// The states of the heap's units.
    pub(super) states: *mut u8,
    /// The next cache in the list of all, or of those to use again.
    pub(super) next: *mut Cache,
    /// What spans note that this cache is filled from; not 0.
    pub(super) owner: u16,
    magazines: [Magazine; COUNT],
    units: [u32; TOTAL],
}

impl Cache {
    /// Takes a block of the class, as a unit.
    #[inline(always)]
    pub(super) fn pop(&mut self, class: usize) -> Option<u32> {
        let magazine = &mut self.magazines[class];
        if magazine.len == 0 {
            return None;
        }
        magazine.len -= 1;
        // SAFETY: `len` is at most the class's capacity, so the index is inside its part.
        Some(unsafe {
            *self
                .units
                .get_unchecked(usize::from(START[class] + magazine.len))
        })
    }

    /// Keeps a block, or says that the magazine is full.
    #[inline(always)]
    pub(super) fn push(&mut self, class: usize, unit: u32) -> bool {
        let magazine = &mut self.magazines[class];
        if magazine.len >= magazine.limit {
            return false;
        }
        // SAFETY: as in `pop`; `limit` is at most the capacity.
        unsafe {
            *self
                .units
                .get_unchecked_mut(usize::from(START[class] + magazine.len)) = unit
        };
        magazine.len += 1;
        true
    }

    /// Empty room for a refill of an empty magazine: half of a limit that grows at each call.
    pub(super) fn refill_room(&mut self, class: usize) -> &mut [u32] {
        let magazine = &mut self.magazines[class];
        magazine.limit = (magazine.limit * 2).clamp(2, CAPACITY[class]);
        let start = usize::from(START[class]);
        &mut self.units[start..start + usize::from(magazine.limit / 2)]
    }

    /// Notes that the first `count` places of [`Cache::refill_room`] were filled.
    pub(super) fn refilled(&mut self, class: usize, count: usize) {
        self.magazines[class].len = count as u16;
    }

    /// Lets the magazine grow at a push that found it full; returns whether it did.
    pub(super) fn widen(&mut self, class: usize) -> bool {
        let magazine = &mut self.magazines[class];
        let limit = (magazine.limit * 2).clamp(2, CAPACITY[class]);
        let wider = limit > magazine.limit;
        magazine.limit = limit;
        wider
    }

    /// The older half of the class's blocks, or all of them, to be returned; they leave the cache.
    pub(super) fn drain(&mut self, class: usize, all: bool, mut each: impl FnMut(u32)) {
        let magazine = &mut self.magazines[class];
        let len = usize::from(magazine.len);
        let leaving = if all { len } else { len.div_ceil(2) };
        let start = usize::from(START[class]);
        let part = &mut self.units[start..start + len];
        part[..leaving].iter().for_each(|&unit| each(unit));
        part.copy_within(leaving.., 0);
        magazine.len = (len - leaving) as u16;
    }

    /// Whether a free block of the class is here.
    pub(super) fn holds(&self, class: usize, unit: u32) -> bool {
        let start = usize::from(START[class]);
        self.units[start..start + usize::from(self.magazines[class].len)].contains(&unit)
    }

    /// Forgets every block.
    pub(super) fn forget(&mut self) {
        self.magazines = [Magazine { len: 0, limit: 0 }; COUNT];
    }
}
