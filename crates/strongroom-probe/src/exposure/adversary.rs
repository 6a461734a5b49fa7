//! Those who may want what is in a mapping.

use serde::{Serialize, Serializer};

/// One who reaches for memory that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Adversary {
    /// Another process of the same user, by /proc/PID/mem, ptrace or process_vm_readv.
    SameUser,
    /// Root, by the same ways. Not by injected code: that is always possible to root.
    Root,
    /// A core dump: the kernel's on a crash, or one that the same user makes with gcore.
    CoreDump,
    /// The swap device, or the hibernation image on it.
    Swap,
    /// A child, after a fork by the kernel.
    ForkChild,
    /// A device or the kernel, by a pinned page: vmsplice, O_DIRECT, io_uring buffers.
    Pin,
    /// The kernel's direct map: a bug, a speculation or an eBPF program in the kernel.
    DirectMap,
}

impl Adversary {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::SameUser,
        Self::Root,
        Self::CoreDump,
        Self::Swap,
        Self::ForkChild,
        Self::Pin,
        Self::DirectMap,
    ];

    /// The name in tables, JSON and options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SameUser => "same-user",
            Self::Root => "root",
            Self::CoreDump => "core-dump",
            Self::Swap => "swap",
            Self::ForkChild => "fork-child",
            Self::Pin => "pin",
            Self::DirectMap => "direct-map",
        }
    }

    /// What it does, in a sentence.
    pub const fn about(self) -> &'static str {
        match self {
            Self::SameUser => {
                "another process of the same user, by /proc/PID/mem, ptrace or process_vm_readv"
            }
            Self::Root => "root, by the same ways; code that root injects reaches everything",
            Self::CoreDump => "the kernel's dump on a crash, or one by the same user's gcore",
            Self::Swap => "the swap device, or the hibernation image on it",
            Self::ForkChild => "a child that the kernel forks",
            Self::Pin => "a pinned page: vmsplice, O_DIRECT, io_uring's registered buffers",
            Self::DirectMap => "the kernel's own mapping of all memory",
        }
    }

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl Serialize for Adversary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_index() {
        for (place, adversary) in Adversary::ALL.into_iter().enumerate() {
            assert_eq!(adversary.index(), place);
        }
    }
}
