//! A guard that lies in a slot of its thread: no atomic read-modify-write operation, whatever it holds.

use super::word::Word;
use super::{AtomicAddress, AtomicWord, PageStates, Parking, Record, Slot};
use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

impl<'a, P, A> PageStates<'a, P, A>
where
    A: AtomicWord,
    P: Parking<A>,
{
    /// Guards pages in a slot of the calling thread's record: they stay shared until the guard is
    /// dropped. `None` where no slot is free, or a page is not to be had: [`guard`](Self::guard) says why.
    ///
    /// Three plain stores, the light half of the [fence](super::Fence), and a load a page. Never waits. The record
    /// must be one that the calling thread has [claimed](Record::claim) and not given back.
    #[inline]
    pub fn guard_in<const SLOTS: usize>(
        &self,
        record: &'a Record<P::Address, SLOTS>,
        pages: Range<usize>,
    ) -> Option<SlotGuard<'a, P::Address>> {
        let words = self.words.get(pages)?;
        let slot = record.free()?;
        slot.fill(addresses(words));
        // Dropped, it clears the slot.
        let guard = SlotGuard {
            slot,
            own: PhantomData,
        };
        self.parking.light();
        let enterable =
            |word: &A| Word::read(word.load(Ordering::Acquire), self.initial).enterable();
        words.iter().all(enterable).then_some(guard)
    }

    /// The pages that a guard holds; an empty range where they are not among these.
    pub fn held_by(&self, guard: &SlotGuard<'_, P::Address>) -> Range<usize> {
        let of = guard.slot.words().unwrap_or_default();
        self.pages_at(&of)
    }

    /// How many pages a guard holds from one of these on.
    #[inline]
    pub fn held_from(&self, guard: &SlotGuard<'_, P::Address>, page: usize) -> usize {
        let end = guard.slot.words().unwrap_or_default().end;
        let word = self.words.as_ptr().wrapping_add(page) as usize;
        end.saturating_sub(word) / size_of::<A>()
    }

    /// The pages whose words lie at addresses.
    pub(super) fn pages_at(&self, of: &Range<usize>) -> Range<usize> {
        let all = addresses(self.words);
        if of.start >= all.end || of.end <= all.start {
            return 0..0;
        }
        let page =
            |address: usize| (address.max(all.start).min(all.end) - all.start) / size_of::<A>();
        page(of.start)..page(of.end)
    }
}

/// Where words are. Pages of all regions are told apart by it.
#[inline]
pub(super) fn addresses<A>(words: &[A]) -> Range<usize> {
    let Range { start, end } = words.as_ptr_range();
    start as usize..end as usize
}

/// Pages that stay shared while it lives. It stays in its thread, and so do its clones, which share its slot.
#[must_use = "the pages are free to go when it is dropped"]
pub struct SlotGuard<'a, W: AtomicAddress = AtomicUsize> {
    slot: &'a Slot<W>,
    /// Neither Send nor Sync: the slot is written without atomic operations.
    own: PhantomData<*const ()>,
}

impl<W: AtomicAddress> Clone for SlotGuard<'_, W> {
    #[inline]
    fn clone(&self) -> Self {
        self.slot.share();
        Self {
            slot: self.slot,
            own: PhantomData,
        }
    }
}

impl<W: AtomicAddress> Drop for SlotGuard<'_, W> {
    #[inline]
    fn drop(&mut self) {
        self.slot.leave();
    }
}

impl<W: AtomicAddress> fmt::Debug for SlotGuard<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotGuard({:x?})", self.slot.words().unwrap_or_default())
    }
}
