//! Looking for guards in the slots of all threads.

use super::slot_guard::addresses;
use super::word::Tag;
use super::{AtomicWord, PageStates, Parking, Refused, Why};
use core::ops::Range;
use core::sync::atomic::Ordering;

impl<P, A> PageStates<'_, P, A>
where
    A: AtomicWord,
    P: Parking<A>,
{
    /// When all of the pages go, and with them every guard: frees the slots of guards that were leaked, so that
    /// other pages whose words come to lie there are not held by them.
    pub fn free_slots(&self) {
        let words = addresses(self.words);
        self.parking.each(|slots| {
            for slot in slots {
                slot.free_if_in(&words);
            }
        });
    }

    /// After pages were marked: guards in slots that did not see the marks are seen from here on.
    pub(super) fn settle(&self, first: usize) -> Result<(), Refused> {
        // Pairs with the fence in `Record::claim`.
        self.parking.full();
        if self.parking.others() && !self.parking.heavy() {
            return Err(Refused {
                page: first,
                why: Why::Unordered,
            });
        }
        Ok(())
    }

    /// Whether a slot holds any of the pages.
    pub(super) fn in_slots(&self, pages: &Range<usize>) -> bool {
        let mut held = false;
        self.each_in(pages, |_| held = true);
        held
    }

    /// How many slots hold a page.
    pub(super) fn slots_on(&self, page: usize) -> u32 {
        let mut guards = 0;
        self.each_in(&(page..page + 1), |_| guards += 1);
        guards
    }

    /// The first page that is held, by how many, and how many pages are; `None` where none is.
    pub(super) fn held(&self, pages: &Range<usize>) -> Option<Refused> {
        let mut first = None;
        let mut held = 0;
        let mut at = pages.start;
        while at < pages.end {
            // Up to the next page where a slot begins or ends.
            let (mut guards, mut end) = (0, pages.end);
            self.each_in(&(at..pages.end), |slot| {
                if slot.start <= at {
                    guards += 1;
                    end = end.min(slot.end);
                } else {
                    end = end.min(slot.start);
                }
            });
            for page in at..end {
                let counted = self
                    .words
                    .get(page)
                    .map_or(0, |word| self.read(word, Ordering::Acquire).guards());
                if counted + guards > 0 {
                    first.get_or_insert((page, counted + guards));
                    held += 1;
                }
            }
            at = end;
        }
        first.map(|(page, guards)| Refused {
            page,
            why: Why::Held {
                guards,
                pages: held,
            },
        })
    }

    /// Shows the part of the pages that each slot holds.
    fn each_in(&self, pages: &Range<usize>, mut found: impl FnMut(Range<usize>)) {
        let words = addresses(self.words.get(pages.clone()).unwrap_or_default());
        self.parking.each(|slots| {
            for of in slots.iter().filter_map(super::Slot::words) {
                if of.start < words.end && words.start < of.end {
                    let of = self.pages_at(&(of.start.max(words.start)..of.end.min(words.end)));
                    if self.may_be_held(of.clone()) {
                        found(of);
                    }
                }
            }
        });
    }

    /// Whether a slot may hold pages: none is private. Of one that is being refused a private page, it
    /// is known, so that it is not taken for a guard.
    fn may_be_held(&self, pages: Range<usize>) -> bool {
        let words = self.words.get(pages).unwrap_or_default();
        words.iter().all(|word| {
            let tag = self.read(word, Ordering::Relaxed).tag();
            !matches!(tag, Tag::Private | Tag::KeptPrivate)
        })
    }
}
