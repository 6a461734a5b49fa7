//! A conversion: pages that are nobody's until it is committed or given up.

use super::word::{Tag, Word};
use super::{AtomicWord, PageStates, Parking, Refused, Side, Why};
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

impl<'a, P, A> PageStates<'a, P, A>
where
    A: AtomicWord,
    P: Parking<A>,
{
    /// Begins to convert pages: takes all of them, and where they become private waits until no
    /// guard is out.
    ///
    /// Two atomic operations a page, and the wait. Where pages become private, a look at all slots, and
    /// the heavy half of the [fence](super::Fence) where another thread has a record. Pages that are on
    /// that side already are taken along and stay as they are.
    ///
    /// # Errors
    /// The first page that is exclusive, poisoned, in another conversion, or still held at the
    /// deadline, and by how many; [`Why::Unordered`]. All pages are as they were then.
    pub fn convert(
        &self,
        pages: Range<usize>,
        to: Side,
        deadline: P::Deadline,
    ) -> Result<Conversion<'a, P, A>, Refused> {
        let words = self.words(&pages)?;
        let (mut drains, mut waits) = (false, false);
        for (index, word) in words.iter().enumerate() {
            let taken = self.change(word, Ordering::Acquire, |seen| match seen.tag() {
                _ if seen.poisoned() => Err(Why::Poisoned),
                Tag::Exclusive => Err(Why::Exclusive),
                tag => tag
                    .taken(to)
                    .map(|taken| seen.with(taken))
                    .ok_or(Why::Converting),
            });
            match taken {
                Ok(seen) if to == Side::Private => {
                    drains |= seen.tag() == Tag::Shared;
                    waits |= seen.guards() > 0;
                }
                Ok(_) => {}
                Err(why) => {
                    self.give_back(words.get(..index).unwrap_or_default());
                    let page = pages.start + index;
                    return Err(Refused { page, why });
                }
            }
        }
        // From here on dropping it gives the pages back.
        let conversion = Conversion::new(*self, words, pages.start, to);
        if drains {
            self.settle(pages.start)?;
            let drained = |word| self.drained(word, deadline);
            if waits && !words.iter().all(drained) || !self.left(&pages, deadline) {
                return self.held(&pages).map_or(Ok(conversion), Err);
            }
        }
        Ok(conversion)
    }

    /// Waits until no slot holds any of the pages; false past the deadline. Nobody who lets go of a slot
    /// wakes anybody, which would cost an atomic operation.
    fn left(&self, pages: &Range<usize>, deadline: P::Deadline) -> bool {
        let mut looks = 0;
        while self.in_slots(pages) {
            if !self.parking.pause(looks, deadline) {
                return false;
            }
            looks += 1;
        }
        true
    }

    /// Waits until no guard is out; false past the deadline.
    fn drained(&self, word: &A, deadline: P::Deadline) -> bool {
        loop {
            let raw = word.load(Ordering::Acquire);
            if Word::read(raw, self.initial).guards() == 0 {
                return true;
            }
            if !self.parking.park(word, raw, deadline) {
                return false;
            }
        }
    }

    fn give_back(&self, words: &[A]) {
        for word in words {
            self.retag(word, Tag::before);
        }
    }
}

/// Pages on their way from one side to the other. Nobody else can have them: what must be done
/// to the memory itself is done now. Dropped, it leaves all pages as they were.
#[must_use = "the pages stay as they were when it is dropped"]
pub struct Conversion<'a, P: Parking<A>, A: AtomicWord = AtomicU32> {
    states: PageStates<'a, P, A>,
    words: &'a [A],
    first: usize,
    to: Side,
}

impl<'a, P: Parking<A>, A: AtomicWord> Conversion<'a, P, A> {
    pub(super) fn new(
        states: PageStates<'a, P, A>,
        words: &'a [A],
        first: usize,
        to: Side,
    ) -> Self {
        Self {
            states,
            words,
            first,
            to,
        }
    }

    /// Its pages.
    pub fn pages(&self) -> Range<usize> {
        self.first..self.first + self.words.len()
    }

    /// Where they go.
    pub fn to(&self) -> Side {
        self.to
    }

    /// The runs of pages that change sides, in order; the others are there already.
    pub fn changes(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let changes = move |word: &A| self.states.read(word, Ordering::Relaxed).tag().changes();
        let mut at = 0;
        core::iter::from_fn(move || {
            let rest = self.words.get(at..)?;
            let start = at + rest.iter().position(changes)?;
            let run = self.words.get(start..)?;
            let length = run.iter().position(|word| !changes(word));
            at = start + length.unwrap_or(run.len());
            Some(self.first + start..self.first + at)
        })
    }

    /// The pages are on the other side now.
    pub fn commit(mut self) {
        let pages = self.words.len();
        self.commit_first(pages);
    }

    /// The first `pages` of its pages are on the other side now and no part of it any more; huge
    /// ranges convert in parts. More than there are is all of them.
    pub fn commit_first(&mut self, pages: usize) {
        let (done, rest) = self.words.split_at(pages.min(self.words.len()));
        for word in done {
            self.states.retag(word, |_| Tag::at_rest(self.to));
        }
        self.first += done.len();
        self.words = rest;
    }
}

impl<P: Parking<A>, A: AtomicWord> Drop for Conversion<'_, P, A> {
    fn drop(&mut self) {
        self.states.give_back(self.words);
    }
}

impl<P: Parking<A>, A: AtomicWord> fmt::Debug for Conversion<'_, P, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conversion({:?} to {:?})", self.pages(), self.to)
    }
}
