//! Loads and stores at any address, as a bug would make them: for victims of attackers.
//!
//! They are instructions of their own, so that the compiler takes nothing for granted of what lies
//! there: past the end of a block, or in one that was freed.

use crate::Errno;
use crate::signals::{self, Action};
use core::arch::{asm, global_asm};

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

// rdi: where to, rsi: from where, rdx: how many bytes. In eax the signal of a load that faulted, or 0.
global_asm!(
    ".pushsection .text.strongroom_foul_copy,\"ax\",@progbits",
    ".hidden strongroom_foul_copy, strongroom_foul_load, strongroom_foul_landing",
    ".globl strongroom_foul_copy, strongroom_foul_load, strongroom_foul_landing",
    ".type strongroom_foul_copy, @function",
    ".balign 16",
    "strongroom_foul_copy:",
    "mov rcx, rdx",
    "strongroom_foul_load:",
    "rep movsb",
    "xor eax, eax",
    "strongroom_foul_landing:",
    "ret",
    ".size strongroom_foul_copy, . - strongroom_foul_copy",
    ".popsection",
);

unsafe extern "C" {
    fn strongroom_foul_copy(to: *mut u8, from: usize, len: usize) -> i32;
    fn strongroom_foul_load();
    fn strongroom_foul_landing();
}

/// From now on a [`copy`] that faults comes back and says so; any other fault ends the process, as ever.
///
/// # Errors
/// None in practice.
pub fn survive() -> Result<(), Errno> {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the handler touches its context alone, and that only at an instruction that is known.
        unsafe { signals::set_action(signal, Some(&Action::new(land))) }?;
    }
    Ok(())
}

extern "C" fn land(signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel hands a handler with SA_SIGINFO the context of its thread.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    if registers[libc::REG_RIP as usize] == strongroom_foul_load as *const () as i64 {
        registers[libc::REG_RIP as usize] = strongroom_foul_landing as *const () as i64;
        registers[libc::REG_RAX as usize] = i64::from(signal);
        return;
    }
    let default = Action {
        handler: libc::SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    // SAFETY: no handler at all; the instruction faults again, and the process ends by that.
    let _ = unsafe { signals::set_action(signal, Some(&default)) };
}

/// Copies what lies at an address by plain loads; after [`survive`], one that faults ends the copy.
///
/// # Errors
/// The signal: SIGSEGV or SIGBUS. A part may have been copied then.
pub fn copy(from: usize, into: &mut [u8]) -> Result<(), i32> {
    // SAFETY: `into` is writable for its length; loads change nothing, and those that fault land behind it.
    match unsafe { strongroom_foul_copy(into.as_mut_ptr(), from, into.len()) } {
        0 => Ok(()),
        signal => Err(signal),
    }
}
