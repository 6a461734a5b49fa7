//! What a forked child sees of secret memory.

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
