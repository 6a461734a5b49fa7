//! The system call instruction itself.

use crate::Errno;
use core::arch::asm;

/// Makes system call `number` and returns the register as the kernel left it:
/// a value in `-4095..=-1` is a negated errno.
///
/// # Safety
/// As for the system call: whatever memory it reads, writes, maps or unmaps must
/// be the caller's to have read, written, mapped or unmapped.
#[inline]
pub unsafe fn syscall(number: usize, arguments: [usize; 6]) -> isize {
    let result;
    // SAFETY: the x86-64 system call ABI (Linux, arch/x86/entry/entry_64.S): number in
    // rax, arguments in rdi, rsi, rdx, r10, r8, r9; rcx and r11 are clobbered. What the
    // call does to memory is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A register from [`syscall`] as a result.
#[inline]
pub fn check(register: isize) -> Result<usize, Errno> {
    if (-4095..0).contains(&register) {
        Err(Errno::from_raw_os_error(-register as i32))
    } else {
        Ok(register as usize)
    }
}
