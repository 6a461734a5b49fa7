//! A guard that lies in a slot of its thread: no atomic read-modify-write operation, whatever it holds.

use super::guard::refusal;
use super::word::Word;
use super::{AtomicAddress, AtomicWord, PageStates, Parking, Record, Refused, Slot};
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
    /// dropped. `None` where no slot is free.
    ///
    /// Three plain stores and a load a page. Never waits. The record must be one that the calling
    /// thread has [claimed](Record::claim) and not given back.
    ///
    /// # Errors
    /// The first page that is not shared, or not to be had; no page is guarded then.
    #[inline]
    pub fn guard_in<const SLOTS: usize>(
        &self,
        record: &'a Record<P::Address, SLOTS>,
        pages: Range<usize>,
    ) -> Result<Option<SlotGuard<'a, P::Address>>, Refused> {
        let words = self.words(&pages)?;
        let Some(slot) = record.free() else {
            return Ok(None);
        };
        slot.fill(addresses(words));
        // Dropped, it clears the slot.
        let guard = SlotGuard {
            slot,
            own: PhantomData,
        };
        self.parking.light();
        for (index, word) in words.iter().enumerate() {
            let seen = Word::read(word.load(Ordering::Acquire), self.initial);
            if !seen.enterable() {
                return Err(Refused {
                    page: pages.start + index,
                    why: refusal(seen),
                });
            }
        }
        Ok(Some(guard))
    }

    /// The pages that a guard holds; an empty range where they are not among these.
    pub fn held_by(&self, guard: &SlotGuard<'_, P::Address>) -> Range<usize> {
        let of = guard.slot.words().unwrap_or_default();
        self.pages_at(&of)
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
