//! The guest's program: 64-bit user-mode code, position independent, which the monitor puts into guest
//! memory and never runs itself.
//!
//! It does what a page of commands tells it, and leaves by an `out` with nothing of its secret in any register:
//! those are the monitor's to read.

use core::arch::global_asm;
use strongroom_guest::kvm::request::PORT;

/// The port by which it says that a command is done.
pub(super) const DONE: u16 = 0x10;

/// What it can be told. The arguments are in the words that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Command {
    /// Makes the secret: where to, and the address of what it is made from.
    Make = 1,
    /// Hashes it: where it is.
    Hash = 2,
    /// Asks the monitor about pages: function, address, length, flags.
    Ask = 3,
    /// Copies the secret: where to, from where, and what each word is combined with.
    Copy = 4,
}

/// Where in the page of commands the answer is.
pub(super) const ANSWER: u64 = 40;

// r15: the page of commands.
global_asm!(
    ".pushsection .rodata.strongroom_victim_guest,\"a\",@progbits",
    ".globl strongroom_victim_guest, strongroom_victim_guest_end",
    ".hidden strongroom_victim_guest, strongroom_victim_guest_end",
    ".balign 16",
    "strongroom_victim_guest:",
    "mov rax, [r15]",
    "mov rdi, [r15 + 8]",
    "mov rsi, [r15 + 16]",
    "mov rdx, [r15 + 24]",
    "mov rcx, [r15 + 32]",
    "cmp rax, {make}",
    "je 10f",
    "cmp rax, {hash}",
    "je 20f",
    "cmp rax, {ask}",
    "je 30f",
    "cmp rax, {copy}",
    "je 40f",
    "ud2",
    // Each word is mixed as in splitmix64, and what it was made from is wiped.
    "10: mov ecx, {words}",
    "11: mov rax, [rsi]",
    "mov qword ptr [rsi], 0",
    "movabs rdx, 0x9e3779b97f4a7c15",
    "add rax, rdx",
    "mov rdx, rax",
    "shr rdx, 30",
    "xor rax, rdx",
    "movabs rdx, 0xbf58476d1ce4e5b9",
    "imul rax, rdx",
    "mov rdx, rax",
    "shr rdx, 27",
    "xor rax, rdx",
    "movabs rdx, 0x94d049bb133111eb",
    "imul rax, rdx",
    "mov rdx, rax",
    "shr rdx, 31",
    "xor rax, rdx",
    "mov [rdi], rax",
    "add rdi, 8",
    "add rsi, 8",
    "dec ecx",
    "jnz 11b",
    "xor eax, eax",
    "jmp 9f",
    // FNV-1a.
    "20: movabs rax, 0xcbf29ce484222325",
    "movabs rdx, 0x100000001b3",
    "mov ecx, {bytes}",
    "21: movzx ebx, byte ptr [rdi]",
    "xor rax, rbx",
    "imul rax, rdx",
    "inc rdi",
    "dec ecx",
    "jnz 21b",
    "jmp 9f",
    "30: mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov edx, {port}",
    "out dx, al",
    "jmp 9f",
    "40: mov ecx, {words}",
    "41: mov rbx, [rsi]",
    "xor rbx, rdx",
    "mov [rdi], rbx",
    "add rdi, 8",
    "add rsi, 8",
    "dec ecx",
    "jnz 41b",
    "xor eax, eax",
    "9: mov [r15 + {answer}], rax",
    "xor eax, eax",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "xor edx, edx",
    "out {done}, al",
    "jmp strongroom_victim_guest",
    "strongroom_victim_guest_end:",
    ".popsection",
    make = const Command::Make as u64,
    hash = const Command::Hash as u64,
    ask = const Command::Ask as u64,
    copy = const Command::Copy as u64,
    words = const strongroom_probe::victim::LENGTH / 8,
    bytes = const strongroom_probe::victim::LENGTH,
    port = const PORT,
    answer = const ANSWER,
    done = const DONE,
);

unsafe extern "C" {
    static strongroom_victim_guest: u8;
    static strongroom_victim_guest_end: u8;
}

/// The program.
pub(super) fn code() -> &'static [u8] {
    let (start, end) = (
        &raw const strongroom_victim_guest,
        &raw const strongroom_victim_guest_end,
    );
    // SAFETY: both are labels of the assembly above, in that order, and what lies between them is never
    // written.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}
