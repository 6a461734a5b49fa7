//! What guards in slots need of their surroundings: atomic addresses, fences, and all slots there are.

use super::Slot;
use core::sync::atomic::{AtomicUsize, Ordering};

/// An atomic address: core's own, or loom's.
pub trait AtomicAddress {
    /// Reads it.
    fn load(&self, order: Ordering) -> usize;

    /// Writes it.
    fn store(&self, value: usize, order: Ordering);

    /// Replaces `current` by `new`; false where it was something else.
    fn replace(&self, current: usize, new: usize, order: Ordering) -> bool;

    /// Adds.
    fn add(&self, value: usize, order: Ordering);

    /// Subtracts.
    fn subtract(&self, value: usize, order: Ordering);
}

impl AtomicAddress for AtomicUsize {
    #[inline]
    fn load(&self, order: Ordering) -> usize {
        AtomicUsize::load(self, order)
    }

    #[inline]
    fn store(&self, value: usize, order: Ordering) {
        AtomicUsize::store(self, value, order);
    }

    #[inline]
    fn replace(&self, current: usize, new: usize, order: Ordering) -> bool {
        self.compare_exchange(current, new, order, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    fn add(&self, value: usize, order: Ordering) {
        self.fetch_add(value, order);
    }

    #[inline]
    fn subtract(&self, value: usize, order: Ordering) {
        self.fetch_sub(value, order);
    }
}

/// An asymmetric fence: a light half that is executed all the time, and a heavy one that makes up for it.
///
/// Where one thread stores, executes the light half and loads, and another one stores, executes the
/// heavy half and loads, at least one of them sees the other's store.
pub trait Fence: Copy {
    /// The light half.
    fn light(&self);

    /// The heavy half. False where it cannot be had; nothing is ordered then.
    fn heavy(&self) -> bool;

    /// An ordinary full fence of the calling thread alone.
    fn full(&self);
}

/// Who may hold pages in slots.
pub trait Holders: Fence {
    /// The words that slots are made of.
    type Address: AtomicAddress;

    /// Whether a thread other than the calling one has a record: [`Roll::others`](super::Roll::others).
    fn others(&self) -> bool;

    /// Shows the slots of each record, whoever has it.
    fn each(&self, look: impl FnMut(&[Slot<Self::Address>]));
}
