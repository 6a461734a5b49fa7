//! A guard: while it lives, its pages stay shared.

use super::slot_guard::addresses;
use super::word::{Tag, Word};
use super::{AtomicWord, PageStates, Parking, Refused, Why};
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

impl<'a, P, A> PageStates<'a, P, A>
where
    A: AtomicWord,
    P: Parking<A>,
{
    /// Guards pages: they stay shared until the guard is dropped.
    ///
    /// One atomic exchange a page. Never waits.
    ///
    /// # Errors
    /// The first page that is not shared, or not to be had; no page is guarded then.
    #[inline]
    pub fn guard(&self, pages: Range<usize>) -> Result<Guard<'a, P, A>, Refused> {
        let words = self.words(&pages)?;
        for (index, word) in words.iter().enumerate() {
            if let Err(why) = self.enter(word) {
                self.leave(words.get(..index).unwrap_or_default());
                let page = pages.start + index;
                return Err(Refused { page, why });
            }
        }
        Ok(Guard {
            states: *self,
            words,
            first: pages.start,
        })
    }

    /// The pages that a guard holds; an empty range where they are not among these.
    pub fn counted_by(&self, guard: &Guard<'_, P, A>) -> Range<usize> {
        self.pages_at(&addresses(guard.words))
    }

    #[inline]
    fn enter(&self, word: &A) -> Result<Word, Why> {
        self.change(word, Ordering::Acquire, |seen| {
            if seen.enterable() {
                Ok(seen.guarded())
            } else {
                Err(refusal(seen))
            }
        })
    }

    #[inline]
    fn leave(&self, words: &[A]) {
        for word in words {
            let before = Word::read(word.fetch_sub(Word::GUARD, Ordering::Release), self.initial);
            if before.is_last_of_drain() {
                self.parking.unpark(word);
            }
        }
    }
}

/// Why a word takes no guard.
#[cold]
fn refusal(seen: Word) -> Why {
    match seen.tag() {
        _ if seen.poisoned() => Why::Poisoned,
        Tag::Private | Tag::KeptPrivate => Why::Private,
        Tag::Exclusive => Why::Exclusive,
        tag if tag.open() => Why::Crowded,
        _ => Why::Converting,
    }
}

/// Pages that stay shared while it lives.
#[must_use = "the pages are free to go when it is dropped"]
pub struct Guard<'a, P: Parking<A>, A: AtomicWord = AtomicU32> {
    states: PageStates<'a, P, A>,
    words: &'a [A],
    first: usize,
}

impl<'a, P: Parking<A>, A: AtomicWord> Guard<'a, P, A> {
    /// Its pages.
    pub fn pages(&self) -> Range<usize> {
        self.first..self.first + self.words.len()
    }

    /// One more guard on some of its pages. A conversion that waits for this one waits for that
    /// one, too: who holds a page may hand it on.
    ///
    /// # Errors
    /// Where the range is not of its pages, or a page has as many guards as it can have.
    pub fn again(&self, pages: Range<usize>) -> Result<Self, Refused> {
        let out = Refused {
            page: pages.start,
            why: Why::OutOfRange {
                pages: self.words.len(),
            },
        };
        let start = pages.start.checked_sub(self.first).ok_or(out)?;
        let end = pages.end.checked_sub(self.first).ok_or(out)?;
        let words = self.words.get(start..end).ok_or(out)?;
        for (index, word) in words.iter().enumerate() {
            // Guarded by this one already, so that whatever its tag, it stays as it is.
            let entered = self
                .states
                .change(word, Ordering::Acquire, |seen| match seen.guards() {
                    Word::MOST_GUARDS => Err(Why::Crowded),
                    _ => Ok(seen.guarded()),
                });
            if let Err(why) = entered {
                self.states.leave(words.get(..index).unwrap_or_default());
                let page = pages.start + index;
                return Err(Refused { page, why });
            }
        }
        Ok(Self {
            states: self.states,
            words,
            first: pages.start,
        })
    }
}

impl<P: Parking<A>, A: AtomicWord> Drop for Guard<'_, P, A> {
    #[inline]
    fn drop(&mut self) {
        self.states.leave(self.words);
    }
}

impl<P: Parking<A>, A: AtomicWord> fmt::Debug for Guard<'_, P, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({:?})", self.pages())
    }
}
