//! One pointer a thread, read in two instructions.
//!
//! `thread_local!` in a shared object goes through `__tls_get_addr`; malloc asks
//! for its thread's cache at every call, so the slot uses the initial-exec model
//! (ELF Handling For Thread-Local Storage, Drepper, 4.4.6). That wants static TLS:
//! objects loaded at start have it, and glibc keeps a surplus for late ones.

use core::arch::{asm, global_asm};

global_asm!(
    ".pushsection .tbss.strongroom_thread_slot,\"awT\",@nobits",
    ".hidden strongroom_thread_slot",
    ".globl strongroom_thread_slot",
    ".type strongroom_thread_slot, @object",
    ".size strongroom_thread_slot, 8",
    ".balign 8",
    "strongroom_thread_slot:",
    ".zero 8",
    ".popsection",
);

/// This thread's pointer; null in a new thread.
#[inline(always)]
pub fn get() -> *mut u8 {
    let value;
    // SAFETY: the linker resolves the symbol's offset from fs, the thread pointer;
    // the slot is ours and only its own thread touches it.
    unsafe {
        asm!(
            "mov {value}, qword ptr [rip + strongroom_thread_slot@GOTTPOFF]",
            "mov {value}, qword ptr fs:[{value}]",
            value = out(reg) value,
            options(nostack, preserves_flags, readonly),
        );
    }
    value
}

/// Sets this thread's pointer.
#[inline]
pub fn set(value: *mut u8) {
    // SAFETY: as in `get`.
    unsafe {
        asm!(
            "mov {offset}, qword ptr [rip + strongroom_thread_slot@GOTTPOFF]",
            "mov qword ptr fs:[{offset}], {value}",
            offset = out(reg) _,
            value = in(reg) value,
            options(nostack, preserves_flags),
        );
    }
}
