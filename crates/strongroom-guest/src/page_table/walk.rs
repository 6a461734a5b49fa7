//! Translation as the processor does it: an opinion of its own on what stands in memory.

use super::entry::{Access, Entry, ROOT, Size, VIRTUAL_BITS, index, span};

/// Where a virtual address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address.
    pub physical: u64,
    /// What all levels allow.
    pub access: Access,
    /// How much the entry maps.
    pub size: Size,
}

/// Why a virtual address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault<E> {
    /// The address is not one that the tables translate.
    #[error("the address is not canonical")]
    NotCanonical,
    /// No entry.
    #[error("no entry at level {level}")]
    Absent {
        /// The level, from 4 for the root down to 1.
        level: u8,
    },
    /// An entry has a bit set that the processor reserves.
    #[error("a reserved bit is set at level {level}")]
    Reserved {
        /// The level, from 4 for the root down to 1.
        level: u8,
    },
    /// A table could not be read.
    #[error("a table could not be read: {0}")]
    Unreadable(#[from] E),
}

/// Translates a virtual address by the tables under `root`, 4 levels, EFER.NXE set. `read` reads the
/// 8 bytes at a physical address.
///
/// # Errors
/// Where the processor faults, and what `read` says.
pub fn translate<E>(
    root: u64,
    address: u64,
    physical_bits: u8,
    mut read: impl FnMut(u64) -> Result<u64, E>,
) -> Result<Translation, Fault<E>> {
    if !canonical(address) {
        return Err(Fault::NotCanonical);
    }
    let mut table = root & !0xfff;
    let mut access = Access::all();
    for level in (0..=ROOT).rev() {
        let number = level + 1;
        let entry = Entry(read(table + index(level, address) * 8)?);
        if !entry.present() {
            return Err(Fault::Absent { level: number });
        }
        if entry.reserved(level, physical_bits) {
            return Err(Fault::Reserved { level: number });
        }
        access &= entry.access();
        match Size::at(level) {
            Some(size) if entry.is_leaf(level) => {
                return Ok(Translation {
                    physical: entry.leaf_address(level) + address % span(level),
                    access,
                    size,
                });
            }
            _ => table = entry.address(),
        }
    }
    // Level 0 has leaves only.
    Err(Fault::Absent { level: 1 })
}

/// Whether the bits above the translated ones are all equal to the highest of those.
pub(super) const fn canonical(address: u64) -> bool {
    let unused = 64 - VIRTUAL_BITS;
    ((address << unused) as i64 >> unused) as u64 == address
}
