//! The guest's program: 64-bit user-mode code, position independent, which the monitor copies into
//! guest memory and never runs itself.
//!
//! It makes a secret that never leaves its private memory, and answers requests from a ring (see
//! [`crate::ring`]) until it is told to stop. A request is copied into private memory before it is
//! looked at: the monitor can change the ring at any time.
//!
//! Registers at its start: rbp and r12 are the rings of requests and of answers, r13 its private
//! state (8 bytes for the secret, the number of pages it works on, and from 64 on the request), r14 the
//! pages, r15 the exit stub, rsp its stack.
//!
//! It leaves by one `out` instruction, in a page of its own that stays shared: where KVM emulates an
//! instruction, it fetches it by the monitor's addresses. Requests about pages go to
//! strongroom's port, with registers as [`strongroom_guest::kvm::request`] has them; everything else to
//! [`BELL`], with an [`Op`] in al.

use core::arch::global_asm;
use strongroom_guest::kvm::request::{Function, KEEP, PORT};

/// What a request, or an exit, asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Op {
    /// Encrypts or decrypts the words by the secret; `arg` is the number used once.
    Seal = 1,
    /// Fills page `arg` with the first word, and the numbers that follow it.
    Fill = 2,
    /// Adds up page `arg`.
    Sum = 3,
    /// Asks the monitor to make pages shared: from page `arg` on as many as the first word says.
    Show = 4,
    /// Asks the monitor to make them private again.
    Hide = 5,
    /// Nothing more.
    Stop = 6,
    /// Exit only: there are no requests, or no room for an answer.
    Idle = 7,
    /// Exit only: what was to be tried is done.
    Tried = 8,
}

impl Op {
    /// What an exit's al says.
    pub(crate) fn from_exit(al: u8) -> Option<Self> {
        [Op::Stop, Op::Idle, Op::Tried]
            .into_iter()
            .find(|op| *op as u32 == u32::from(al))
    }
}

/// The port that the guest leaves by when it waits or stops.
pub(crate) const BELL: u16 = 0x5350;

global_asm!(
    ".pushsection .rodata.minivmm_guest, \"a\"",
    // Other codegen units refer to these; other objects do not.
    ".globl minivmm_guest",
    ".hidden minivmm_guest",
    ".globl minivmm_guest_end",
    ".hidden minivmm_guest_end",
    ".globl minivmm_stub",
    ".hidden minivmm_stub",
    ".globl minivmm_stub_end",
    ".hidden minivmm_stub_end",
    ".balign 16",
    "minivmm_guest:",
    // RDRAND where CPUID has it, else the time: good enough to show that nobody sees it.
    "mov eax, 1",
    "cpuid",
    "mov esi, ecx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "bt esi, 30",
    "jnc 2f",
    "rdrand rax",
    "2: call 90f",
    "mov [r13], rax",
    // r8: requests taken, r9: answers given. Nobody else writes these.
    "xor r8d, r8d",
    "xor r9d, r9d",
    // Wait for a request, and go idle after a while.
    "10: mov ecx, 2000",
    "11: mov eax, [rbp]",
    "cmp eax, r8d",
    "jne 12f",
    "pause",
    "dec ecx",
    "jnz 11b",
    "mov eax, {idle}",
    "mov edx, {bell}",
    "call r15",
    "jmp 10b",
    // Copy it into private memory, and only then look at it.
    "12: mov esi, r8d",
    "and esi, {mask}",
    "shl esi, 6",
    "lea rsi, [rbp + rsi + {slots}]",
    "lea rdi, [r13 + 64]",
    "mov ecx, 8",
    "rep movsq",
    "inc r8d",
    "mov [rbp + {taken}], r8d",
    "mov eax, [r13 + 64]",
    "mov rbx, [r13 + 72]",
    "cmp eax, {stop}",
    "je 70f",
    "cmp eax, {seal}",
    "je 20f",
    // The rest is about pages.
    "cmp rbx, [r13 + 8]",
    "jae 60f",
    "mov rdi, rbx",
    "shl rdi, 12",
    "add rdi, r14",
    "cmp eax, {fill}",
    "je 30f",
    "cmp eax, {sum}",
    "je 40f",
    "cmp eax, {show}",
    "mov eax, {share}",
    "je 50f",
    "mov eax, {private}",
    "cmp dword ptr [r13 + 64], {hide}",
    "je 50f",
    "60: mov qword ptr [r13 + 80], -1",
    "jmp 80f",
    // Seal: words ^= mix(secret + 8 * arg + n).
    "20: xor ecx, ecx",
    "21: lea rax, [rcx + rbx*8]",
    "add rax, [r13]",
    "call 90f",
    "xor [r13 + rcx*8 + 80], rax",
    "inc ecx",
    "cmp ecx, 6",
    "jb 21b",
    "jmp 80f",
    // Fill.
    "30: mov rax, [r13 + 80]",
    "xor ecx, ecx",
    "31: mov [rdi + rcx*8], rax",
    "inc rax",
    "inc ecx",
    "cmp ecx, 512",
    "jb 31b",
    "jmp 80f",
    // Sum.
    "40: xor eax, eax",
    "xor ecx, ecx",
    "41: add rax, [rdi + rcx*8]",
    "inc ecx",
    "cmp ecx, 512",
    "jb 41b",
    "mov [r13 + 80], rax",
    "jmp 80f",
    // Show and hide: the monitor decides, and checks.
    "50: mov rsi, [r13 + 80]",
    "shl rsi, 12",
    "mov ecx, {keep}",
    "mov edx, {port}",
    "call r15",
    "mov [r13 + 80], rax",
    "jmp 80f",
    "70: mov eax, {stop}",
    "mov edx, {bell}",
    "call r15",
    "jmp 70b",
    // Answer, when there is room.
    "80: mov eax, r9d",
    "sub eax, [r12 + {taken}]",
    "cmp eax, {mask}",
    "jbe 81f",
    "mov eax, {idle}",
    "mov edx, {bell}",
    "call r15",
    "jmp 80b",
    "81: mov edi, r9d",
    "and edi, {mask}",
    "shl edi, 6",
    "lea rdi, [r12 + rdi + {slots}]",
    "lea rsi, [r13 + 64]",
    "mov ecx, 8",
    "rep movsq",
    "inc r9d",
    "mov [r12], r9d",
    "jmp 10b",
    // rax = mix(rax), as in splitmix64.
    "90: movabs rdx, 0x9e3779b97f4a7c15",
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
    "ret",
    "minivmm_guest_end:",
    // The exit stub.
    ".balign 64",
    "minivmm_stub:",
    "out dx, al",
    "ret",
    // What reads a word at rdi, in whatever context, and leaves with it in rbx.
    ".balign 64",
    "minivmm_stub_read:",
    "mov rbx, [rdi]",
    "mov eax, {tried}",
    "mov edx, {bell}",
    "out dx, al",
    // What switches between the contexts in rsi and rdi, rcx times, in kernel mode.
    ".balign 64",
    "minivmm_stub_switch:",
    "mov cr3, rsi",
    "mov cr3, rdi",
    "dec rcx",
    "jnz minivmm_stub_switch",
    "mov eax, {tried}",
    "mov edx, {bell}",
    "out dx, al",
    "minivmm_stub_end:",
    ".popsection",
    idle = const Op::Idle as u32,
    stop = const Op::Stop as u32,
    seal = const Op::Seal as u32,
    fill = const Op::Fill as u32,
    sum = const Op::Sum as u32,
    show = const Op::Show as u32,
    hide = const Op::Hide as u32,
    tried = const Op::Tried as u32,
    share = const Function::Share as u32,
    private = const Function::Hide as u32,
    keep = const KEEP as u32,
    bell = const BELL as u32,
    port = const PORT as u32,
    mask = const crate::ring::SLOTS - 1,
    slots = const crate::ring::FIRST_SLOT,
    taken = const crate::ring::TAKEN,
);

unsafe extern "C" {
    static minivmm_guest: u8;
    static minivmm_guest_end: u8;
    static minivmm_stub: u8;
    static minivmm_stub_end: u8;
}

/// Where in the stub's page the code begins that reads a word.
pub(crate) const READ: u64 = 64;
/// Where in the stub's page the code begins that switches contexts.
pub(crate) const SWITCH: u64 = 128;

/// Where in the stub's page the task state is.
pub(crate) const TASK: u64 = 0x400;
/// Bytes of it: the state, which only privilege changes use, and a bit a port.
pub(crate) const TASK_LEN: usize = TASK_STATE + PORT as usize / 8 + 2;
const TASK_STATE: usize = 104;

/// A task state by which user mode may use the two ports.
///
/// Where user mode has the I/O privilege, as it has here, hardware does not look at it. KVM without nested paging
/// runs user mode without the privilege, and QEMU's processor takes no task state that is busy: one of the two works
/// everywhere.
pub(crate) fn task() -> [u8; TASK_LEN] {
    let mut task = [0xff; TASK_LEN];
    for (at, byte) in task.iter_mut().enumerate() {
        *byte = match at {
            // Where the bits begin.
            102 => TASK_STATE as u8,
            0..TASK_STATE => 0,
            // Both ports are in the same byte.
            _ if at == TASK_STATE + PORT as usize / 8 => !(1 << (PORT % 8) | 1 << (BELL % 8)),
            _ => 0xff,
        };
    }
    task
}

const _: () = assert!(BELL / 8 == PORT / 8);
const _: () = assert!(TASK as usize + TASK_LEN <= strongroom_guest::PAGE);

/// The program.
pub(crate) fn program() -> &'static [u8] {
    between(&raw const minivmm_guest, &raw const minivmm_guest_end)
}

/// The exit stub, and what else stays shared.
pub(crate) fn stub() -> &'static [u8] {
    between(&raw const minivmm_stub, &raw const minivmm_stub_end)
}

fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: both are labels of the assembly above, in that order, and what lies between them is
    // never written.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}
