//! What the protocol needs of its surroundings: an atomic word, and a way to wait for it to change.

use super::{Fence, Holders, Slot};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// An atomic word of 32 bits: core's own, loom's, or a kernel's.
pub trait AtomicWord {
    /// Reads it.
    fn load(&self, order: Ordering) -> u32;

    /// Replaces `current` by `new`, or tells what is there instead; it may fail for no reason.
    ///
    /// # Errors
    /// What was read where that was not `current`, or the exchange failed.
    fn exchange(&self, current: u32, new: u32, ok: Ordering, no: Ordering) -> Result<u32, u32>;

    /// Subtracts, and tells what was there before.
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32;

    /// Sets bits, and tells what was there before.
    fn fetch_or(&self, bits: u32, order: Ordering) -> u32;

    /// Keeps only these bits, and tells what was there before.
    fn fetch_and(&self, bits: u32, order: Ordering) -> u32;
}

impl AtomicWord for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }

    #[inline]
    fn exchange(&self, current: u32, new: u32, ok: Ordering, no: Ordering) -> Result<u32, u32> {
        self.compare_exchange_weak(current, new, ok, no)
    }

    #[inline]
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_sub(self, value, order)
    }

    #[inline]
    fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_or(self, bits, order)
    }

    #[inline]
    fn fetch_and(&self, bits: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_and(self, bits, order)
    }
}

/// How a conversion waits for guards to go.
pub trait Parking<A>: Holders {
    /// Until when; what it measures is the implementation's own.
    type Deadline: Copy;

    /// Waits while the word is `seen`, and returns early as it likes. False when time is up.
    ///
    /// It must look at the word after it went to sleep, as futex(2) does: a wake-up
    /// between the caller's look and the sleep is lost otherwise.
    fn park(&self, word: &A, seen: u32, deadline: Self::Deadline) -> bool;

    /// Wakes whoever is parked on the word.
    fn unpark(&self, word: &A);

    /// Waits a moment before slots are looked at again, which was done `looks` times. False when time is up.
    fn pause(&self, looks: u32, deadline: Self::Deadline) -> bool;
}

/// Waits by looking again, a given number of times.
///
/// For tests, and where there is nothing to sleep on. There are no slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spin;

impl<A: AtomicWord> Parking<A> for Spin {
    /// How often a page is looked at; no page is waited for with 0.
    type Deadline = u32;

    fn park(&self, word: &A, seen: u32, deadline: u32) -> bool {
        for _ in 0..deadline {
            if word.load(Ordering::Relaxed) != seen {
                return true;
            }
            core::hint::spin_loop();
        }
        false
    }

    fn unpark(&self, _word: &A) {}

    fn pause(&self, looks: u32, deadline: u32) -> bool {
        core::hint::spin_loop();
        looks < deadline
    }
}

impl Fence for Spin {
    fn light(&self) {}

    fn heavy(&self) -> bool {
        true
    }

    fn full(&self) {}
}

impl Holders for Spin {
    type Address = AtomicUsize;

    fn others(&self) -> bool {
        false
    }

    fn each(&self, _look: impl FnMut(&[Slot])) {}
}
