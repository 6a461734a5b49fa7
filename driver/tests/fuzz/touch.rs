//! Loads and stores that may fault, and say so.

use core::arch::global_asm;

// What faults is one of two instructions; the handler goes on after them.
global_asm!(
    ".globl fuzz_load",
    "fuzz_load:",
    "xor edx, edx",
    ".globl fuzz_load_at",
    "fuzz_load_at:",
    "mov rax, [rdi]",
    "ret",
    ".globl fuzz_store",
    "fuzz_store:",
    "xor eax, eax",
    ".globl fuzz_store_at",
    "fuzz_store_at:",
    "mov [rdi], rsi",
    "ret",
    ".globl fuzz_faulted",
    "fuzz_faulted:",
    "mov eax, 1",
    "mov edx, 1",
    "ret",
);

#[repr(C)]
struct Loaded {
    word: u64,
    faulted: u64,
}

unsafe extern "C" {
    fn fuzz_load(at: usize) -> Loaded;
    fn fuzz_load_at();
    fn fuzz_store(at: usize, word: u64) -> u64;
    fn fuzz_store_at();
    fn fuzz_faulted();
}

/// The word at an address; `None` where it cannot be read.
pub(crate) fn load(at: usize) -> Option<u64> {
    // SAFETY: a fault is caught; the callers read their own memory or what nobody has.
    let loaded = unsafe { fuzz_load(at) };
    (loaded.faulted == 0).then_some(loaded.word)
}

/// Writes the word; false where it cannot be written.
pub(crate) fn store(at: usize, word: u64) -> bool {
    // SAFETY: a fault is caught; the callers write to memory of the driver's that is theirs.
    unsafe { fuzz_store(at, word) == 0 }
}

extern "C" fn on_fault(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gave this context.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let place = &mut registers[libc::REG_RIP as usize];
    if *place == fuzz_load_at as *const () as i64 || *place == fuzz_store_at as *const () as i64 {
        *place = fuzz_faulted as *const () as i64;
        return;
    }
    // Anywhere else it is a mistake of this program: the next one is not caught.
    // SAFETY: no memory is involved.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Has faults of [`load`] and [`store`] caught from now on, in this process and its children.
pub(crate) fn prepare() {
    // SAFETY: a sigaction of zeros is a valid one, and the handler has the form that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            assert_eq!(libc::sigaction(signal, &action, core::ptr::null_mut()), 0);
        }
    }
}
