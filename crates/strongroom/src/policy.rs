//! Policies: what the caller requires and what it would prefer.

use strongroom_core::{Level, Protections, Reason};

/// What a forked child sees of secret memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForkPolicy {
    /// Its own snapshot, at the same addresses.
    #[default]
    Copy,
    /// Zero pages.
    Drop,
    /// fork fails.
    Deny,
}

impl ForkPolicy {
    /// The policy's name as the command line writes it.
    pub const fn name(self) -> &'static str {
        match self {
            ForkPolicy::Copy => "copy",
            ForkPolicy::Drop => "drop",
            ForkPolicy::Deny => "deny",
        }
    }

    /// The policy of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Copy, Self::Drop, Self::Deny]
            .into_iter()
            .find(|policy| policy.name() == name)
    }
}

/// What the caller requires and what it would prefer.
///
/// ```
/// use strongroom::{Level, Policy};
///
/// // An error where the machine cannot do it:
/// let strict = Policy::require(Level::Hidden);
/// // The best there is, and an error below `Locked`:
/// let flexible = Policy::prefer(Level::Hidden).at_least(Level::Locked);
/// # let _ = (strict, flexible);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    required: Level,
    preferred: Level,
    besides: Protections,
    fork: ForkPolicy,
}

impl Policy {
    /// Exactly this much or an error.
    pub const fn require(level: Level) -> Self {
        Self {
            required: level,
            preferred: level,
            besides: Protections::empty(),
            fork: ForkPolicy::Drop,
        }
    }

    /// This much where it can be had, [`Level::Locked`] otherwise; the receipt tells which.
    pub const fn prefer(level: Level) -> Self {
        Self {
            required: Level::Locked,
            preferred: level,
            besides: Protections::empty(),
            fork: ForkPolicy::Drop,
        }
    }

    /// The least that is acceptable.
    #[must_use]
    pub const fn at_least(mut self, level: Level) -> Self {
        self.required = level;
        self
    }

    /// Requires these protections, too, whatever the level has: [`Protections::UNCACHED`], say, which
    /// only [`Level::Closed`] has otherwise.
    #[must_use]
    pub const fn and(mut self, protections: Protections) -> Self {
        self.besides = self.besides.union(protections);
        self
    }

    /// What a forked child sees; [`ForkPolicy::Drop`] unless said otherwise.
    #[must_use]
    pub const fn on_fork(mut self, fork: ForkPolicy) -> Self {
        self.fork = fork;
        self
    }

    /// The least that is acceptable.
    pub const fn required(&self) -> Level {
        self.required
    }

    /// What is tried first.
    pub const fn preferred(&self) -> Level {
        self.preferred
    }

    /// What is required besides the level.
    pub const fn besides(&self) -> Protections {
        self.besides
    }

    /// The protections without which there is no memory.
    pub const fn demanded(&self) -> Protections {
        self.required.protections().union(self.besides)
    }

    /// The protections that a receipt is to tell of.
    pub const fn asked(&self) -> Protections {
        self.preferred.protections().union(self.besides)
    }

    /// What a forked child sees.
    pub const fn fork(&self) -> ForkPolicy {
        self.fork
    }
}

/// Secret memory could not be had, with the cause and the fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory cannot be kept at level `{level}`: {reason}{}{}", if reason.fix().is_empty() { "" } else { "; " }, reason.fix())]
pub struct Refused {
    /// The level that was required.
    pub level: Level,
    /// Why it cannot be had.
    pub reason: Reason,
}
