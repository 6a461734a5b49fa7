//! Receipts: what was asked, what is held, what is missing and why.

use crate::{Level, Protection, Protections, Reason};
use core::fmt;

/// What was asked of a region, heap or process, and what came of it.
///
/// A protection is held only where a mechanism arranged it; every one that was
/// asked and is not held has a [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    asked: Protections,
    held: Protections,
    reasons: [Option<Reason>; Protection::ALL.len()],
}

impl Receipt {
    /// A receipt on which nothing is held yet.
    pub const fn new(asked: Protections) -> Self {
        Self {
            asked,
            held: Protections::empty(),
            reasons: [None; Protection::ALL.len()],
        }
    }

    /// Notes that `protections` were arranged.
    #[must_use]
    pub fn hold(mut self, protections: Protections) -> Self {
        self.held |= protections;
        for protection in protections.members() {
            self.reasons[protection as usize] = None;
        }
        self
    }

    /// Notes why `protections` are not held; they no longer count as held.
    #[must_use]
    pub fn lack(mut self, protections: Protections, reason: Reason) -> Self {
        self.held -= protections;
        for protection in protections.members() {
            self.reasons[protection as usize] = Some(reason);
        }
        self
    }

    /// What was asked.
    pub const fn asked(&self) -> Protections {
        self.asked
    }

    /// What is held, asked or not.
    pub const fn held(&self) -> Protections {
        self.held
    }

    /// What was asked and is not held, each with its reason.
    pub fn missing(&self) -> impl Iterator<Item = (Protection, Reason)> + '_ {
        self.asked
            .difference(self.held)
            .members()
            .map(|p| (p, self.reasons[p as usize].unwrap_or(Reason::NotArranged)))
    }

    /// Whether everything that was asked is held.
    pub fn complete(&self) -> bool {
        self.held.contains(self.asked)
    }

    /// The highest level that is held whole.
    pub fn level(&self) -> Option<Level> {
        Level::reached(self.held)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "asked    {}", self.asked)?;
        write!(f, "held     {}", self.held)?;
        for (protection, reason) in self.missing() {
            write!(f, "\nmissing  {protection}: {reason}")?;
            if !reason.fix().is_empty() {
                write!(f, "; {}", reason.fix())?;
            }
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Receipt {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        struct Missing<'a>(&'a Receipt);
        impl serde::Serialize for Missing<'_> {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_map(self.0.missing())
            }
        }

        let mut object = s.serialize_struct("Receipt", 4)?;
        object.serialize_field("asked", &self.asked)?;
        object.serialize_field("held", &self.held)?;
        object.serialize_field("missing", &Missing(self))?;
        object.serialize_field("level", &self.level())?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_held_or_has_a_reason() {
        let asked = Level::Hidden.protections();
        let receipt = Receipt::new(asked)
            .hold(Level::Locked.protections())
            .lack(Protections::NO_DIRECT_MAP, Reason::NoSecretMemory);
        assert!(!receipt.complete());
        assert_eq!(receipt.level(), Some(Level::Locked));
        for (protection, reason) in receipt.missing() {
            let expected = if protection == Protection::NoDirectMap {
                Reason::NoSecretMemory
            } else {
                Reason::NotArranged
            };
            assert_eq!(reason, expected);
        }
        assert_eq!(
            receipt.missing().count() + receipt.held().intersection(asked).members().count(),
            asked.members().count()
        );
    }

    #[test]
    fn a_lack_takes_back_what_was_held() {
        let receipt = Receipt::new(Protections::NO_PEEK)
            .hold(Protections::NO_PEEK)
            .lack(Protections::NO_PEEK, Reason::Traced);
        assert_eq!(receipt.held(), Protections::empty());
        assert_eq!(
            receipt.missing().next(),
            Some((Protection::NoPeek, Reason::Traced))
        );
    }
}
