//! Protections: each is one thing an adversary cannot do.

use core::fmt;

bitflags::bitflags! {
    /// A set of protections.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Protections: u32 {
        /// See [`Protection::NoSwap`].
        const NO_SWAP = 1 << 0;
        /// See [`Protection::NoCoreDump`].
        const NO_CORE_DUMP = 1 << 1;
        /// See [`Protection::NoForkShare`].
        const NO_FORK_SHARE = 1 << 2;
        /// See [`Protection::NoFdSpill`].
        const NO_FD_SPILL = 1 << 3;
        /// See [`Protection::WipedOnFree`].
        const WIPED_ON_FREE = 1 << 4;
        /// See [`Protection::NoPeek`].
        const NO_PEEK = 1 << 5;
        /// See [`Protection::NoPin`].
        const NO_PIN = 1 << 6;
        /// See [`Protection::NoDirectMap`].
        const NO_DIRECT_MAP = 1 << 7;
        /// See [`Protection::NoInject`].
        const NO_INJECT = 1 << 8;
        /// See [`Protection::Bounded`].
        const BOUNDED = 1 << 9;
        /// See [`Protection::ClosedWhenIdle`].
        const CLOSED_WHEN_IDLE = 1 << 10;
        /// See [`Protection::Shielded`].
        const SHIELDED = 1 << 11;
        /// See [`Protection::Uncached`].
        const UNCACHED = 1 << 12;
        /// See [`Protection::NoVmm`].
        const NO_VMM = 1 << 13;
    }
}

/// One thing an adversary cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protection {
    /// The memory never reaches a swap device.
    NoSwap = 0,
    /// The memory is in no core dump, the kernel's or a debugger's.
    NoCoreDump,
    /// A child sees its own snapshot or nothing; never later writes.
    NoForkShare,
    /// No file descriptor leads to the memory.
    NoFdSpill,
    /// What is freed is zero before anyone can be given it again.
    WipedOnFree,
    /// ptrace, /proc/PID/mem and process_vm_readv cannot read it, for root either.
    NoPeek,
    /// No device and no other process can pin the pages (get_user_pages).
    NoPin,
    /// The pages are absent from the kernel's direct map.
    NoDirectMap,
    /// A process of the same user cannot attach and make the owner hand it over.
    NoInject,
    /// Reading or writing past either end is caught.
    Bounded,
    /// Unreadable even by its owner between uses.
    ClosedWhenIdle,
    /// Encrypted between uses.
    Shielded,
    /// Not left in the CPU's caches.
    Uncached,
    /// The program that runs the guest cannot read it.
    NoVmm,
}

impl Protection {
    /// Every protection, in the order of [`Protections`]' bits.
    pub const ALL: [Protection; 14] = [
        Self::NoSwap,
        Self::NoCoreDump,
        Self::NoForkShare,
        Self::NoFdSpill,
        Self::WipedOnFree,
        Self::NoPeek,
        Self::NoPin,
        Self::NoDirectMap,
        Self::NoInject,
        Self::Bounded,
        Self::ClosedWhenIdle,
        Self::Shielded,
        Self::Uncached,
        Self::NoVmm,
    ];

    /// The protection's name as receipts print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoSwap => "NoSwap",
            Self::NoCoreDump => "NoCoreDump",
            Self::NoForkShare => "NoForkShare",
            Self::NoFdSpill => "NoFdSpill",
            Self::WipedOnFree => "WipedOnFree",
            Self::NoPeek => "NoPeek",
            Self::NoPin => "NoPin",
            Self::NoDirectMap => "NoDirectMap",
            Self::NoInject => "NoInject",
            Self::Bounded => "Bounded",
            Self::ClosedWhenIdle => "ClosedWhenIdle",
            Self::Shielded => "Shielded",
            Self::Uncached => "Uncached",
            Self::NoVmm => "NoVmm",
        }
    }

    /// The set that holds this protection alone.
    pub const fn only(self) -> Protections {
        Protections::from_bits_truncate(1 << self as u8)
    }

    /// The protection of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<Protection> for Protections {
    fn from(protection: Protection) -> Self {
        protection.only()
    }
}

impl Protections {
    /// The members, weakest first.
    pub fn members(self) -> impl Iterator<Item = Protection> {
        Protection::ALL
            .into_iter()
            .filter(move |p| self.contains(p.only()))
    }
}

impl fmt::Display for Protections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for protection in self.members() {
            if !first {
                f.write_str(" ")?;
            }
            first = false;
            f.write_str(protection.name())?;
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Protection {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Protections {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.members())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protection_has_its_own_bit_and_name() {
        let mut all = Protections::empty();
        for (bit, protection) in Protection::ALL.into_iter().enumerate() {
            assert_eq!(protection.only().bits(), 1 << bit);
            assert_eq!(Protection::from_name(protection.name()), Some(protection));
            all |= protection.only();
        }
        assert_eq!(all, Protections::all());
        assert_eq!(all.members().count(), Protection::ALL.len());
    }
}
