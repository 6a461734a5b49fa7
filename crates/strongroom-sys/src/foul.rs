//! Loads and stores at any address, as a bug would make them: for victims of attackers.
//!
//! They are instructions of their own, so that the compiler takes nothing for granted of what lies
//! there: past the end of a block, or in one that was freed.

use core::arch::asm;

/// Loads the byte at `address`; where nothing can be read there, the process gets SIGSEGV.
#[inline]
pub fn load(address: usize) -> u8 {
    let value: u8;
    // SAFETY: a load changes nothing, and one that faults does not return.
    unsafe {
        asm!(
            "mov {value}, byte ptr [{address}]",
            address = in(reg) address,
            value = out(reg_byte) value,
            options(nostack, preserves_flags, readonly),
        );
    }
    value
}

/// Stores a byte at `address`; where nothing can be written there, the process gets SIGSEGV.
///
/// # Safety
/// Nothing that this program goes on to use may be there.
#[inline]
pub unsafe fn store(address: usize, value: u8) {
    // SAFETY: the caller's promise; a store that faults does not return.
    unsafe {
        asm!(
            "mov byte ptr [{address}], {value}",
            address = in(reg) address,
            value = in(reg_byte) value,
            options(nostack, preserves_flags),
        );
    }
}
