//! A thread's record: the slots in which it says what pages it holds.

use super::{AtomicAddress, Fence};
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The addresses of the words of pages that are held, or nothing.
///
/// The thread that has it writes it, with plain stores; conversions read it. All stores are releases
/// and all loads acquires, which cost nothing on x86.
#[derive(Debug, Default)]
pub struct Slot<W = AtomicUsize> {
    /// The first one; 0 while the slot is free.
    start: W,
    end: W,
    /// How many guards share it. Its thread's alone.
    guards: W,
}

impl<W: AtomicAddress> Slot<W> {
    #[inline]
    fn is_free(&self) -> bool {
        // Who had the slot before, in another thread, is done with it.
        self.start.load(Ordering::Acquire) == 0
    }

    /// Says that words are held, by one guard.
    #[inline]
    pub(super) fn fill(&self, words: Range<usize>) {
        self.guards.store(1, Ordering::Relaxed);
        self.end.store(words.end, Ordering::Release);
        self.start.store(words.start, Ordering::Release);
    }

    #[inline]
    pub(super) fn clear(&self) {
        self.start.store(0, Ordering::Release);
    }

    /// Takes it from a guard that was leaked, if it holds any of these words.
    pub(super) fn free_if_in(&self, words: &Range<usize>) {
        let start = self.start.load(Ordering::Acquire);
        if words.contains(&start) {
            self.start.replace(start, 0, Ordering::AcqRel);
        }
    }

    /// One guard more.
    #[inline]
    pub(super) fn share(&self) {
        let guards = self.guards.load(Ordering::Relaxed);
        self.guards.store(guards + 1, Ordering::Relaxed);
    }

    /// One less. The last one frees the slot.
    #[inline]
    pub(super) fn leave(&self) {
        let guards = self.guards.load(Ordering::Relaxed) - 1;
        self.guards.store(guards, Ordering::Relaxed);
        if guards == 0 {
            self.clear();
        }
    }

    /// What is in it. While it is written, that may be where one range begins and a later one ends.
    #[inline]
    pub(super) fn words(&self) -> Option<Range<usize>> {
        let start = self.start.load(Ordering::Acquire);
        if start == 0 {
            return None;
        }
        let end = self.end.load(Ordering::Acquire);
        (start < end).then_some(start..end)
    }
}

/// How many records threads have.
#[derive(Debug, Default)]
pub struct Roll<W = AtomicUsize>(W);

impl Roll {
    /// None has.
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }
}

impl<W: AtomicAddress> Roll<W> {
    /// Whether a thread other than the calling one has a record, which has so many itself.
    pub fn others(&self, own: usize) -> bool {
        self.0.load(Ordering::SeqCst) > own
    }
}

/// The slots of one thread at a time. It is never freed: a conversion looks at it whenever it likes.
#[derive(Debug)]
#[repr(align(128))]
pub struct Record<W = AtomicUsize, const SLOTS: usize = 8> {
    slots: [Slot<W>; SLOTS],
    /// 1 while a thread has it.
    claimed: W,
}

impl<const SLOTS: usize> Record<AtomicUsize, SLOTS> {
    /// A record that no thread has.
    pub const fn new() -> Self {
        Self {
            slots: [const {
                Slot {
                    start: AtomicUsize::new(0),
                    end: AtomicUsize::new(0),
                    guards: AtomicUsize::new(0),
                }
            }; SLOTS],
            claimed: AtomicUsize::new(0),
        }
    }
}

impl<W: AtomicAddress + Default, const SLOTS: usize> Default for Record<W, SLOTS> {
    fn default() -> Self {
        Self {
            slots: core::array::from_fn(|_| Slot::default()),
            claimed: W::default(),
        }
    }
}

impl<W: AtomicAddress, const SLOTS: usize> Record<W, SLOTS> {
    /// The calling thread has it from now on, and no other thread until it is given back. False where
    /// another one has it, or none of its slots is free.
    pub fn claim(&self, roll: &Roll<W>, fence: impl Fence) -> bool {
        // Seen before it is claimed: slots that a thread left behind do not become free any more,
        // but for that thread's last breath.
        if !self.has_room() || !self.claimed.replace(0, 1, Ordering::AcqRel) {
            return false;
        }
        roll.0.add(1, Ordering::SeqCst);
        // A conversion that does not see this on the roll is seen by all guards that are taken here.
        fence.full();
        true
    }

    /// Gives it back. What is still held in it stays held.
    ///
    /// The thread must not take guards in it any more; it may drop those that it has.
    pub fn give_back(&self, roll: &Roll<W>) {
        roll.0.subtract(1, Ordering::Release);
        self.claimed.store(0, Ordering::Release);
    }

    /// All of its slots.
    #[inline]
    pub fn slots(&self) -> &[Slot<W>] {
        &self.slots
    }

    /// Whether a guard could be taken in it.
    pub fn has_room(&self) -> bool {
        self.free().is_some()
    }

    #[inline]
    pub(super) fn free(&self) -> Option<&Slot<W>> {
        self.slots.iter().find(|slot| slot.is_free())
    }
}
