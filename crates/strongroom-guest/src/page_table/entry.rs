//! Entries of x86-64 page tables, as the processor reads them (Intel SDM volume 3, 4.5; AMD APM
//! volume 2, 5.3).

use bitflags::bitflags;

bitflags! {
    /// What an access to a mapped page may be, besides a read by the guest's kernel.
    ///
    /// Execution is a right to be given here; the entry's bit takes it away.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// Writes.
        const WRITE = 1;
        /// By user mode, too.
        const USER = 1 << 1;
        /// Fetches of instructions.
        const EXECUTE = 1 << 2;
    }
}

/// How much one entry maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Size {
    /// 4 KiB: an entry of a page table.
    Base,
    /// 2 MiB: an entry of a page directory.
    Large,
    /// 1 GiB: an entry of a page-directory-pointer table.
    Huge,
}

impl Size {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        span(self.level())
    }

    pub(super) const fn level(self) -> u8 {
        self as u8
    }

    /// The size of a leaf at a level.
    pub(super) const fn at(level: u8) -> Option<Self> {
        match level {
            0 => Some(Size::Base),
            1 => Some(Size::Large),
            2 => Some(Size::Huge),
            _ => None,
        }
    }
}

/// The level of the root; page tables are level 0.
pub(super) const ROOT: u8 = 3;
/// Entries of a table.
pub(super) const ENTRIES: u64 = 512;
/// Bits of an address that the tables translate.
pub(super) const VIRTUAL_BITS: u32 = 48;
/// The most physical bits that an entry has room for.
pub(super) const MOST_PHYSICAL_BITS: u8 = 52;

/// How much one entry of a table at a level maps, in bytes.
pub(super) const fn span(level: u8) -> u64 {
    1 << (12 + 9 * level as u32)
}

/// The entry of a table at a level that an address goes by.
pub(super) const fn index(level: u8, address: u64) -> u64 {
    address / span(level) % ENTRIES
}

/// An entry as it stands in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u64);

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Set beforehand: the processor has no reason to write to a table.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// In a directory or above: a leaf.
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = (1 << MOST_PHYSICAL_BITS) - 4096;

impl Entry {
    pub(super) const EMPTY: Entry = Entry(0);

    /// Maps a page of the level's size.
    pub(super) const fn leaf(level: u8, physical: u64, access: Access) -> Self {
        let mut bits = physical & ADDRESS | PRESENT | ACCESSED | DIRTY;
        if level > 0 {
            bits |= LARGE;
        }
        if access.contains(Access::WRITE) {
            bits |= WRITE;
        }
        if access.contains(Access::USER) {
            bits |= USER;
        }
        if !access.contains(Access::EXECUTE) {
            bits |= NO_EXECUTE;
        }
        Entry(bits)
    }

    /// Goes on to a table of the next level. The leaf alone decides on rights.
    pub(super) const fn table(physical: u64) -> Self {
        Entry(physical & ADDRESS | PRESENT | ACCESSED | WRITE | USER)
    }

    pub(super) const fn present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether it is a leaf in a table of this level.
    pub(super) const fn is_leaf(self, level: u8) -> bool {
        level == 0 || self.0 & LARGE != 0
    }

    /// Where it leads: a table, or a page of the level's size.
    pub(super) const fn address(self) -> u64 {
        self.0 & ADDRESS
    }

    /// The address of a leaf, without the bit that stands for a memory type there in large ones.
    pub(super) const fn leaf_address(self, level: u8) -> u64 {
        match level {
            0 => self.address(),
            _ => self.address() & !0x1000,
        }
    }

    pub(super) fn access(self) -> Access {
        let mut access = Access::empty();
        access.set(Access::WRITE, self.0 & WRITE != 0);
        access.set(Access::USER, self.0 & USER != 0);
        access.set(Access::EXECUTE, self.0 & NO_EXECUTE == 0);
        access
    }

    /// Whether a bit is set that the processor reserves, where physical addresses have so many bits.
    pub(super) const fn reserved(self, level: u8, physical_bits: u8) -> bool {
        let beyond = ADDRESS & !((1 << physical_bits) - 1);
        let misplaced = if self.is_leaf(level) {
            match level {
                ROOT => LARGE,
                // Where the address has zeros; bit 12 is part of the memory type in large leaves.
                _ => (span(level) - 1) & ADDRESS & !if level > 0 { 0x1000 } else { 0 },
            }
        } else {
            0
        };
        self.0 & (beyond | misplaced) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_it_was_made_of() {
        for level in 0..ROOT {
            for bits in 0..=Access::all().bits() {
                let access = Access::from_bits_retain(bits);
                let physical = 7 * span(level);
                let entry = Entry::leaf(level, physical, access);
                assert!(entry.present() && entry.is_leaf(level));
                assert_eq!(entry.leaf_address(level), physical);
                assert_eq!(entry.access(), access);
                assert!(!entry.reserved(level, 52));
            }
        }
        let table = Entry::table(0x5000);
        assert!(!table.is_leaf(1) && table.address() == 0x5000);
        assert_eq!(table.access(), Access::all(), "the leaf alone decides");
    }

    #[test]
    fn reserved_bits_are_known() {
        assert!(Entry::leaf(0, 1 << 40, Access::empty()).reserved(0, 40));
        assert!(!Entry::leaf(0, 1 << 39, Access::empty()).reserved(0, 40));
        assert!(Entry::leaf(1, 0x2000, Access::empty()).reserved(1, 52));
        assert!(Entry::leaf(ROOT, 0, Access::empty()).reserved(ROOT, 52));
    }
}
