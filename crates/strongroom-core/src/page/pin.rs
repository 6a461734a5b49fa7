//! An exclusive pin: while it lives, nobody else holds or converts its pages.

use super::word::Tag;
use super::{AtomicWord, Conversion, PageStates, Parking, Refused, Side, Why};
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

impl<'a, P, A> PageStates<'a, P, A>
where
    A: AtomicWord,
    P: Parking<A>,
{
    /// Pins shared pages exclusively: no guard, no other pin and no conversion until it is dropped.
    ///
    /// One atomic exchange a page, and a look at all slots as a conversion does. Never waits.
    ///
    /// # Errors
    /// The first page that is not shared, or that anybody holds; [`Why::Unordered`]. No page is pinned then.
    pub fn pin(&self, pages: Range<usize>) -> Result<ExclusivePin<'a, P, A>, Refused> {
        let words = self.words(&pages)?;
        for (index, word) in words.iter().enumerate() {
            let pinned = self.change(word, Ordering::Acquire, |seen| match seen.tag() {
                _ if seen.poisoned() => Err(Why::Poisoned),
                Tag::Shared if seen.guards() == 0 => Ok(seen.with(Tag::Exclusive)),
                Tag::Shared => Err(Why::Held {
                    guards: seen.guards(),
                    pages: 1,
                }),
                Tag::Private | Tag::KeptPrivate => Err(Why::Private),
                Tag::Exclusive => Err(Why::Exclusive),
                _ => Err(Why::Converting),
            });
            if let Err(why) = pinned {
                self.unpin(words.get(..index).unwrap_or_default());
                let page = pages.start + index;
                let refused = Refused { page, why };
                return Err(match why {
                    // With those in slots, unless all have just gone.
                    Why::Held { .. } => self.held(&pages).unwrap_or(refused),
                    _ => refused,
                });
            }
        }
        // From here on dropping it unpins them.
        let pin = ExclusivePin {
            states: *self,
            words,
            first: pages.start,
        };
        self.settle(pages.start)?;
        if self.in_slots(&pages) {
            return self.held(&pages).map_or(Ok(pin), Err);
        }
        Ok(pin)
    }

    fn unpin(&self, words: &[A]) {
        for word in words {
            self.retag(word, |_| Tag::Shared);
        }
    }
}

/// Shared pages that one holder has alone.
#[must_use = "the pages are free again when it is dropped"]
pub struct ExclusivePin<'a, P: Parking<A>, A: AtomicWord = AtomicU32> {
    states: PageStates<'a, P, A>,
    words: &'a [A],
    first: usize,
}

impl<'a, P: Parking<A>, A: AtomicWord> ExclusivePin<'a, P, A> {
    /// Its pages.
    pub fn pages(&self) -> Range<usize> {
        self.first..self.first + self.words.len()
    }

    /// Goes over into their conversion to private, without a moment in which anybody else could
    /// have them, and without waiting: there is no guard to wait for.
    pub fn into_conversion(mut self) -> Conversion<'a, P, A> {
        for word in self.words {
            self.states.retag(word, |_| Tag::Draining);
        }
        let words = core::mem::take(&mut self.words);
        Conversion::new(self.states, words, self.first, Side::Private)
    }
}

impl<P: Parking<A>, A: AtomicWord> Drop for ExclusivePin<'_, P, A> {
    fn drop(&mut self) {
        self.states.unpin(self.words);
    }
}

impl<P: Parking<A>, A: AtomicWord> fmt::Debug for ExclusivePin<'_, P, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExclusivePin({:?})", self.pages())
    }
}
