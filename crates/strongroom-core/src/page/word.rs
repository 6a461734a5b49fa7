//! The word of a page: what it is, how many guards are out, and whether its memory failed.

use super::Side;

/// What a page is, as its word says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Never touched: what the table says that pages are at first. No other bit is set but poison.
    Fresh,
    Shared,
    Private,
    Exclusive,
    /// Was shared and becomes private: no new guards.
    Draining,
    /// Was private and becomes shared.
    Opening,
    /// Is shared already, in a range that becomes shared: guards come and go, conversions wait.
    KeptShared,
    /// Is private already, in a range that becomes private.
    KeptPrivate,
}

impl Tag {
    /// By their numbers.
    const ALL: [Tag; 8] = [
        Tag::Fresh,
        Tag::Shared,
        Tag::Private,
        Tag::Exclusive,
        Tag::Draining,
        Tag::Opening,
        Tag::KeptShared,
        Tag::KeptPrivate,
    ];

    /// What it is where nothing converts it.
    #[inline]
    pub(super) const fn at_rest(side: Side) -> Self {
        match side {
            Side::Private => Tag::Private,
            Side::Shared => Tag::Shared,
        }
    }

    /// What it becomes when a conversion to `to` takes it; `None` where it cannot be taken.
    pub(super) const fn taken(self, to: Side) -> Option<Self> {
        match (self, to) {
            (Tag::Shared, Side::Private) => Some(Tag::Draining),
            (Tag::Private, Side::Private) => Some(Tag::KeptPrivate),
            (Tag::Private, Side::Shared) => Some(Tag::Opening),
            (Tag::Shared, Side::Shared) => Some(Tag::KeptShared),
            _ => None,
        }
    }

    /// What it was before a conversion took it.
    pub(super) const fn before(self) -> Self {
        match self {
            Tag::Draining | Tag::KeptShared => Tag::Shared,
            Tag::Opening | Tag::KeptPrivate => Tag::Private,
            at_rest => at_rest,
        }
    }

    /// Whether the conversion that has it changes it.
    pub(super) const fn changes(self) -> bool {
        matches!(self, Tag::Draining | Tag::Opening)
    }

    /// Whether new guards may be taken.
    #[inline]
    pub(super) const fn open(self) -> bool {
        matches!(self, Tag::Shared | Tag::KeptShared)
    }
}

/// A page's word: 24 bits of guards, 3 of tag, 4 of nothing, and the poison bit on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u32);

const TAG_SHIFT: u32 = 24;
const TAG: u32 = 0b111 << TAG_SHIFT;

impl Word {
    /// The most guards that a page can have at once.
    pub(super) const MOST_GUARDS: u32 = (1 << TAG_SHIFT) - 1;
    /// One guard.
    pub(super) const GUARD: u32 = 1;
    /// The memory itself failed.
    pub(super) const POISON: u32 = 1 << 31;

    /// A word as it was read, in a table where fresh pages are `initial`.
    #[inline]
    pub(super) const fn read(raw: u32, initial: Side) -> Self {
        if raw & TAG == 0 {
            Self(raw).with(Tag::at_rest(initial))
        } else {
            Self(raw)
        }
    }

    #[inline]
    pub(super) const fn raw(self) -> u32 {
        self.0
    }

    #[inline]
    pub(super) fn tag(self) -> Tag {
        let number = (self.0 & TAG) >> TAG_SHIFT;
        // Three bits: there is one for each.
        Tag::ALL.get(number as usize).copied().unwrap_or(Tag::Fresh)
    }

    #[inline]
    pub(super) const fn guards(self) -> u32 {
        self.0 & Self::MOST_GUARDS
    }

    #[inline]
    pub(super) const fn poisoned(self) -> bool {
        self.0 & Self::POISON != 0
    }

    /// Whether a guard may be taken that is not counted here: it is shared and whole. It is asked at every
    /// access, of the word as it was read.
    #[inline]
    pub(super) const fn is_open(raw: u32, initial: Side) -> bool {
        const SHARED: u32 = (Tag::Shared as u32) << TAG_SHIFT;
        const KEPT_SHARED: u32 = (Tag::KeptShared as u32) << TAG_SHIFT;
        match raw & !Self::MOST_GUARDS {
            SHARED | KEPT_SHARED => true,
            0 => matches!(initial, Side::Shared),
            _ => false,
        }
    }

    /// Whether a guard may be taken that is counted here: it is shared, whole and not crowded.
    #[inline]
    pub(super) fn enterable(self) -> bool {
        self.tag().open() && !self.poisoned() && self.guards() < Self::MOST_GUARDS
    }

    /// Whether a drain waits for this one guard.
    #[inline]
    pub(super) const fn is_last_of_drain(self) -> bool {
        self.0 & !Self::POISON == (Tag::Draining as u32) << TAG_SHIFT | Self::GUARD
    }

    /// The same with another tag.
    #[inline]
    pub(super) const fn with(self, tag: Tag) -> Self {
        Self(self.0 & !TAG | (tag as u32) << TAG_SHIFT)
    }

    /// The same with a guard more; the caller has seen that there is room.
    #[inline]
    pub(super) const fn guarded(self) -> Self {
        Self(self.0 + Self::GUARD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_leaves_guards_and_poison_alone() {
        let word = Word(Word::POISON | 77);
        for tag in Tag::ALL {
            let word = word.with(tag);
            assert_eq!(
                (word.tag(), word.guards(), word.poisoned()),
                (tag, 77, true)
            );
        }
        assert_eq!(Word::read(0, Side::Private).tag(), Tag::Private);
        assert_eq!(Word::read(Word::POISON, Side::Shared).tag(), Tag::Shared);
        assert!(Word::read(Word::POISON, Side::Shared).poisoned());
    }

    #[test]
    fn a_word_is_open_where_a_guard_may_enter() {
        for side in [Side::Shared, Side::Private] {
            for tag in Tag::ALL {
                for bits in [0, 1, Word::MOST_GUARDS - 1, Word::POISON] {
                    let raw = bits | (tag as u32) << TAG_SHIFT;
                    let word = Word::read(raw, side);
                    assert_eq!(
                        Word::is_open(raw, side),
                        word.enterable(),
                        "{raw:#x} {side:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_taken_goes_back() {
        for tag in [Tag::Shared, Tag::Private] {
            for side in [Side::Shared, Side::Private] {
                let taken = tag.taken(side).unwrap();
                assert_eq!(taken.before(), tag);
                assert_eq!(taken.changes(), tag != Tag::at_rest(side));
                assert_eq!(taken.taken(side), None, "one conversion at a time");
            }
        }
        assert_eq!(Tag::Exclusive.taken(Side::Private), None);
    }
}
