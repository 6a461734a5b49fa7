//! Levels: named sets of protections, from "a bit more secret than normally" to
//! "do your best even at the expense of performance" (requirement B5).

use crate::Protections;
use core::fmt;
use core::str::FromStr;

/// A named set of protections; a higher level holds all that a lower one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// A bit more secret than normally: never swapped, dumped, shared with a child or left behind.
    Locked,
    /// Out of the direct map, unpinnable, unreadable from outside, with no descriptor.
    Hidden,
    /// The most the machine can do: unreadable even by its owner between uses,
    /// encrypted at rest and flushed from the caches.
    Closed,
}

impl Level {
    /// Every level, weakest first.
    pub const ALL: [Level; 3] = [Level::Locked, Level::Hidden, Level::Closed];

    /// The protections this level stands for.
    pub const fn protections(self) -> Protections {
        const LOCKED: Protections = Protections::NO_SWAP
            .union(Protections::NO_CORE_DUMP)
            .union(Protections::NO_FORK_SHARE)
            .union(Protections::NO_FD_SPILL)
            .union(Protections::WIPED_ON_FREE);
        const HIDDEN: Protections = LOCKED
            .union(Protections::NO_PEEK)
            .union(Protections::NO_PIN)
            .union(Protections::NO_DIRECT_MAP);
        const CLOSED: Protections = HIDDEN
            .union(Protections::BOUNDED)
            .union(Protections::CLOSED_WHEN_IDLE)
            .union(Protections::SHIELDED)
            .union(Protections::UNCACHED);
        match self {
            Level::Locked => LOCKED,
            Level::Hidden => HIDDEN,
            Level::Closed => CLOSED,
        }
    }

    /// The highest level whose protections are all in `held`.
    pub fn reached(held: Protections) -> Option<Level> {
        Self::ALL
            .into_iter()
            .rev()
            .find(|level| held.contains(level.protections()))
    }

    /// The level's name as the command line writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Locked => "locked",
            Level::Hidden => "hidden",
            Level::Closed => "closed",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownLevel;

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such level; the levels are locked, hidden and closed")
    }
}

impl core::error::Error for UnknownLevel {}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or(UnknownLevel)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Level {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_level_holds_all_that_a_lower_one_does() {
        for pair in Level::ALL.windows(2) {
            assert!(pair[1].protections().contains(pair[0].protections()));
            assert_ne!(pair[0].protections(), pair[1].protections());
        }
    }

    #[test]
    fn reached_needs_every_protection_of_the_level() {
        let hidden = Level::Hidden.protections();
        assert_eq!(Level::reached(hidden), Some(Level::Hidden));
        assert_eq!(
            Level::reached(hidden.difference(Protections::NO_PIN)),
            Some(Level::Locked)
        );
        assert_eq!(Level::reached(Protections::NO_SWAP), None);
        assert_eq!("hidden".parse(), Ok(Level::Hidden));
        assert_eq!("Hidden".parse::<Level>(), Err(UnknownLevel));
    }
}
