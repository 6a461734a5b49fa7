//! The states of a guest's pages: private, shared, or on the way between them.
//!
//! A page is *private* (the guest's alone) or *shared* (handed out to the monitor and its
//! devices). Whoever touches a shared page holds a guard meanwhile; a [`Conversion`] to private
//! begins when the last guard of its pages has gone. An [`ExclusivePin`] is alone on its pages.
//! One word a page (4 bytes) holds tag, count of guards, and whether the memory failed.
//!
//! A guard is of one of two kinds. A [`Guard`] is counted in the words of its pages: an atomic
//! read-modify-write operation a page to take it and one to drop it; it may go to another thread. A
//! [`SlotGuard`] lies in a slot of its thread's [`Record`]: a few plain stores, whatever it holds, and a load a
//! page. It changes no word; conversions and pins look for it in all records (hazard pointers: Michael,
//! *Safe memory reclamation for dynamic lock-free objects*, 2004; with an asymmetric [`Fence`] as membarrier(2)
//! and folly have it). "n guards" below is both.
//!
//! | from | to | by |
//! |---|---|---|
//! | shared, n guards | shared, n + 1 | [`PageStates::guard`], [`PageStates::guard_in`] |
//! | shared or draining, n | the same, n − 1 | dropping a guard |
//! | shared, 0 | exclusive | [`PageStates::pin`]; back by dropping it, or where a slot holds the page |
//! | shared, n | draining, n | [`PageStates::convert`] to private: no new guards from here on |
//! | draining, n > 0 | shared, n | the deadline: [`Why::Held`] |
//! | draining, 0 | private | [`Conversion::commit`] |
//! | private | opening | [`PageStates::convert`] to shared |
//! | opening | shared, 0 | [`Conversion::commit`] |
//!
//! Ranges are all or nothing. Pages that are what they should become already are taken along, so
//! that no other conversion has them meanwhile, and [`Conversion::changes`] leaves them out.
//!
//! # Why it is right
//!
//! *No guard on a private page.* A guard is counted by one compare-and-exchange from a word whose
//! tag is shared; draining is entered by one, too. So each guard is counted before draining begins,
//! and is seen by the drain, or fails. Draining ends in private only from a word with count 0 that no
//! guard can enter any more.
//!
//! *Nor one in a slot.* Who takes one (H) and who converts or pins (C) each write, pass a fence, and read:
//!
//! | H | C | the pair |
//! |---|---|---|
//! | stores the range into a slot | marks the words | |
//! | [`Fence::light`] | [`Fence::heavy`] | of the first guard of a page that C misses, or of C's mark that it misses |
//! | reads the words | reads the slots | |
//!
//! The heavy half has H's processor pass a full barrier at some moment between C's marks and C's look. If H's store
//! comes before that moment, C's look comes after it and finds the slot. If it comes later, so does H's look, which
//! finds the mark: the guard is refused, the slot cleared and the pages not touched. The light half keeps the
//! compiler from turning H's store and look around; that is all it does. A guard that is being refused may be
//! found, too: that is taken for a guard, for that moment.
//!
//! The heavy half is left out where no other thread is on the [`Roll`]. That is decided by a second pair, of
//! ordinary full fences:
//!
//! | H | C | the pair |
//! |---|---|---|
//! | [`Record::claim`] adds itself to the roll | marks the words | |
//! | [`Fence::full`] | [`Fence::full`] | C sees H on the roll, or all guards of H see the marks |
//! | takes its first guard | reads the roll | |
//!
//! A thread that leaves the roll drops its guards before, but for those that it leaks and those that are taken when it ends:
//! what is in their slots was stored before it left, which C's look at the roll acquires.
//!
//! *A slot is read while it is written.* Where the parts that are read are of two guards, the older of them has
//! been dropped, as its slot was written again, and the store that was seen is a release that came after.
//! The newer one was not complete before the heavy half, so that it sees the marks. None of the two counts.
//!
//! *A slot that is left when its thread ends* stays taken: a record that another thread claims is used as far as
//! its slots are free, and freeing one is a release that claiming it acquires.
//!
//! *What was done under a guard is done before the conversion.* Dropping a guard is a release; the
//! drain's read of count 0 is an acquire. All changes of the word between the two are
//! read-modify-write operations, which carry the release on (C11 release sequence). The
//! other way round, commit is a release and taking a guard an acquire. All stores to slots are releases and
//! their reads acquires: whatever is read of a slot but the guard itself comes after that guard.
//!
//! *One conversion at a time.* A page is taken only from a tag at rest, by compare-and-exchange, and
//! every page of the range is taken: what lies between is nobody else's until commit or drop. A
//! conversion that meets another one fails at once and gives back what it took, so that two of them
//! never wait for each other.
//!
//! *No wake-up is lost.* The drain parks on the word it has seen; the guard that leaves last
//! changes it first and wakes then, and [`Parking::park`] looks at the word again. Nobody wakes who waits for a
//! slot: it looks again by itself ([`Parking::pause`]).
//!
//! *It ends.* Guards never wait. A conversion waits for guards that were there when it began, and
//! not past its deadline.
//!
//! Each of these is checked by loom for two and three threads (tests/page_loom.rs), where both halves of the fence
//! are full ones, and the table by a model (tests/page_model.rs).

#![forbid(unsafe_code)]

mod conversion;
mod guard;
mod holders;
mod parking;
mod pin;
mod record;
mod refused;
mod scan;
mod slot_guard;
mod word;

pub use conversion::Conversion;
pub use guard::Guard;
pub use holders::{AtomicAddress, Fence, Holders};
pub use parking::{AtomicWord, Parking, Spin};
pub use pin::ExclusivePin;
pub use record::{Record, Roll, Slot};
pub use refused::{Refused, Why};
pub use slot_guard::SlotGuard;

use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};
use word::{Tag, Word};

/// Whose a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The guest's alone.
    Private,
    /// The guest's, the monitor's and its devices'.
    Shared,
}

/// What a page is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// The guest's alone.
    Private,
    /// Shared, with so many guards out.
    Shared {
        /// How many.
        guards: u32,
    },
    /// Shared, and somebody is alone on it.
    Exclusive,
    /// On its way to the other side.
    Converting {
        /// Which.
        to: Side,
        /// Guards that are still out.
        guards: u32,
    },
    /// Its memory failed; whose it is does not matter any more.
    Poisoned,
}

/// The states of all pages of a range, numbered from 0.
///
/// ```
/// use core::sync::atomic::AtomicU32;
/// use strongroom_core::page::{PageStates, PageState, Side, Spin, Why};
///
/// let words = [const { AtomicU32::new(0) }; 16];
/// let pages = PageStates::new(&words, Side::Shared, Spin);
/// let guard = pages.guard(3..5).unwrap();
/// let refused = pages.convert(0..8, Side::Private, 10).unwrap_err();
/// assert_eq!((refused.page, refused.why), (3, Why::Held { guards: 1, pages: 2 }));
/// drop(guard);
/// pages.convert(0..8, Side::Private, 10).unwrap().commit();
/// assert_eq!(pages.state(3), Some(PageState::Private));
/// assert_eq!(pages.guard(3..4).unwrap_err().why, Why::Private);
/// ```
#[derive(Debug)]
pub struct PageStates<'a, P, A = AtomicU32> {
    words: &'a [A],
    initial: Side,
    parking: P,
}

impl<P: Copy, A> Clone for PageStates<'_, P, A> {
    fn clone(&self) -> Self {
        *self
    }
}

/// It is a view of the words: copies are of the same pages.
impl<P: Copy, A> Copy for PageStates<'_, P, A> {}

impl<'a, P, A> PageStates<'a, P, A>
where
    A: AtomicWord,
    P: Parking<A>,
{
    /// The states of as many pages as there are words. Words that are 0 are pages that are
    /// `initial`; all must be 0 at first, which fresh zero pages of memory are.
    ///
    /// O(1): nothing is read or written here.
    #[inline]
    pub fn new(words: &'a [A], initial: Side, parking: P) -> Self {
        Self {
            words,
            initial,
            parking,
        }
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.words.len()
    }

    /// Whether a page is private right now, and stays so until a conversion; false where there is no such page.
    pub fn is_private(&self, page: usize) -> bool {
        let word = self.words.get(page);
        word.is_some_and(|word| {
            let word = self.read(word, Ordering::Acquire);
            !word.poisoned() && matches!(word.tag(), Tag::Private | Tag::KeptPrivate | Tag::Fresh)
        })
    }

    /// What a page is right now; `None` where there is no such page. Guards that other threads have
    /// just taken in their slots may not be counted yet.
    pub fn state(&self, page: usize) -> Option<PageState> {
        let word = self.read(self.words.get(page)?, Ordering::Acquire);
        Some(match word.tag() {
            _ if word.poisoned() => PageState::Poisoned,
            Tag::Private | Tag::KeptPrivate | Tag::Fresh => PageState::Private,
            Tag::Shared | Tag::KeptShared => PageState::Shared {
                guards: word.guards() + self.slots_on(page),
            },
            Tag::Exclusive => PageState::Exclusive,
            Tag::Draining => PageState::Converting {
                to: Side::Private,
                guards: word.guards() + self.slots_on(page),
            },
            Tag::Opening => PageState::Converting {
                to: Side::Shared,
                guards: 0,
            },
        })
    }

    /// Marks a page whose memory failed. Guards that are out stay until they are dropped.
    ///
    /// # Errors
    /// Where there is no such page.
    pub fn poison(&self, page: usize) -> Result<(), Refused> {
        self.word(page)?.fetch_or(Word::POISON, Ordering::AcqRel);
        Ok(())
    }

    /// Takes the mark away, when other memory is in the page's place.
    ///
    /// # Errors
    /// Where there is no such page.
    pub fn heal(&self, page: usize) -> Result<(), Refused> {
        self.word(page)?.fetch_and(!Word::POISON, Ordering::AcqRel);
        Ok(())
    }

    /// Whether there are such pages.
    ///
    /// # Errors
    /// Where the range ends past the last one.
    pub fn has(&self, pages: Range<usize>) -> Result<(), Refused> {
        self.words(&pages).map(|_| ())
    }

    fn word(&self, page: usize) -> Result<&'a A, Refused> {
        self.words.get(page).ok_or(Refused {
            page,
            why: Why::OutOfRange {
                pages: self.words.len(),
            },
        })
    }

    /// The words of a range, which may be empty.
    #[inline]
    fn words(&self, pages: &Range<usize>) -> Result<&'a [A], Refused> {
        self.words.get(pages.clone()).ok_or(Refused {
            page: pages.start.max(self.words.len()),
            why: Why::OutOfRange {
                pages: self.words.len(),
            },
        })
    }

    #[inline]
    fn read(&self, word: &A, order: Ordering) -> Word {
        Word::read(word.load(order), self.initial)
    }

    /// Replaces a word by what `next` makes of it, or tells why it does not.
    #[inline]
    fn change(
        &self,
        word: &A,
        order: Ordering,
        mut next: impl FnMut(Word) -> Result<Word, Why>,
    ) -> Result<Word, Why> {
        let mut raw = word.load(Ordering::Relaxed);
        loop {
            let seen = Word::read(raw, self.initial);
            match word.exchange(raw, next(seen)?.raw(), order, Ordering::Relaxed) {
                Ok(_) => return Ok(seen),
                Err(now) => raw = now,
            }
        }
    }

    /// Gives a word another tag, whatever else is in it.
    fn retag(&self, word: &A, tag: impl Fn(Tag) -> Tag) {
        // Never refused: the closure always has an answer.
        let _ = self.change(
            word,
            Ordering::AcqRel,
            |seen| Ok(seen.with(tag(seen.tag()))),
        );
    }
}
