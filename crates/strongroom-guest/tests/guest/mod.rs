//! A little guest: 64-bit user-mode code that does what a page tells it, on any backing.

#![allow(dead_code)]

#[path = "../../../../tests/skip.rs"]
mod skip;

use core::arch::global_asm;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVM_X86_SW_PROTECTED_VM, kvm_regs};
use kvm_ioctls::{Kvm, VcpuExit};
pub(crate) use skip::skip;
use std::sync::Arc;
use std::time::Duration;
use strongroom_core::driver::DEVICE;
use strongroom_guest::backing::{Attributes, DriverPoison, Pair, Poison};
use strongroom_guest::kvm::exit::{Outcome, Stop};
use strongroom_guest::kvm::request::{PORT, Request};
use strongroom_guest::kvm::{
    Desk, Interrupter, Layout, Limits, Machine, Privilege, Slot, Source, Vcpu, segments,
};
use strongroom_guest::{Backing, Contents, Error, GuestRam, GuestRegion, PAGE, Side};
use vm_memory::{GuestAddress, GuestMemoryBackend};

pub(crate) const MIB: usize = 1 << 20;
/// Where the guest's memory is.
pub(crate) const RAM: u64 = 1 << 30;
/// The port by which it says that a command is done.
const DONE: u16 = 0x10;
/// Code, page tables and commands: shared memory of its own.
const STUB: usize = 2 * MIB;
const CODE: usize = 0x1000;
const ROOT: usize = 0x2000;
const COMMANDS: usize = 0x1_0000;
/// A task state whose map allows all ports, for hosts that do not look at the I/O privilege.
const TASK: usize = 0x4_0000;
const TASK_LIMIT: u32 = 0x68 + 0x2000;

// The command page is in r15: number, four arguments; then the result, and a word that goes with it.
global_asm!(
    ".pushsection .rodata.guest,\"a\",@progbits",
    ".globl guest_code, guest_code_end",
    ".hidden guest_code, guest_code_end",
    "guest_code:",
    "2: mov rax, [r15]",
    "mov rdi, [r15 + 8]",
    "mov rsi, [r15 + 16]",
    "mov rdx, [r15 + 24]",
    "mov rcx, [r15 + 32]",
    "cmp rax, 1",
    "je 12f",
    "cmp rax, 2",
    "je 20f",
    "cmp rax, 3",
    "je 30f",
    "cmp rax, 4",
    "je 40f",
    "cmp rax, 5",
    "je 50f",
    "cmp rax, 6",
    "je 60f",
    "ud2",
    // Fill rsi words from rdi with rdx, rdx + 1, …
    "12: test rsi, rsi",
    "jz 9f",
    "mov [rdi], rdx",
    "add rdi, 8",
    "inc rdx",
    "dec rsi",
    "jmp 12b",
    // Compare them: the first address that differs and what is there, or 0.
    "20: xor eax, eax",
    "21: test rsi, rsi",
    "jz 9f",
    "mov rbx, [rdi]",
    "cmp rbx, rdx",
    "jne 22f",
    "add rdi, 8",
    "inc rdx",
    "dec rsi",
    "jmp 21b",
    "22: mov rax, rdi",
    "mov [r15 + 48], rbx",
    "jmp 9f",
    // A request: function, address, length, flags.
    "30: mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov dx, {port}",
    "out dx, al",
    "jmp 9f",
    // Count: rounds up to rdx over rsi pages from rdi; the word at rcx of each is the round, and goes up. The first
    // round is where the result will be. The first address that differs and what is there, or 0.
    "40: mov r8, [r15 + 40]",
    "41: cmp r8, rdx",
    "je 45f",
    "mov r9, rdi",
    "add r9, rcx",
    "mov r10, rsi",
    "42: mov rbx, [r9]",
    "cmp rbx, r8",
    "jne 44f",
    "inc rbx",
    "mov [r9], rbx",
    "add r9, 4096",
    "dec r10",
    "jnz 42b",
    "inc r8",
    "jmp 41b",
    "44: mov rax, r9",
    "mov [r15 + 48], rbx",
    "jmp 9f",
    "45: xor eax, eax",
    "jmp 9f",
    // Read a word.
    "50: mov rax, [rdi]",
    "jmp 9f",
    // Wait until a word is not 0, without leaving the guest.
    "60: mov rax, [rdi]",
    "test rax, rax",
    "jnz 9f",
    "pause",
    "jmp 60b",
    "9: mov [r15 + 40], rax",
    "out {done}, al",
    "jmp 2b",
    "guest_code_end:",
    ".popsection",
    port = const PORT,
    done = const DONE,
);

unsafe extern "C" {
    static guest_code: u8;
    static guest_code_end: u8;
}

/// Whether there is KVM; otherwise it says that the test is skipped.
pub(crate) fn kvm() -> Option<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            skip(&format!("no KVM: {error}"));
            None
        }
    }
}

/// Those that have private pages.
pub(crate) const BACKINGS: [&str; 4] = ["poison", "pair", "attributes", "driver-poison"];

/// The backings of this kernel that have private pages, all of them shared at first, each in a machine of its
/// own. One that STRONGROOM_BACKINGS names has to be there.
pub(crate) fn each(len: usize, limits: Limits, mut test: impl FnMut(&'static str, Guest)) {
    let Some(kvm) = kvm() else { return };
    let mut some = false;
    for name in BACKINGS {
        match made(&kvm, name, len) {
            Ok((machine, backing)) => {
                eprintln!("{name}:");
                test(name, Guest::new(&kvm, machine, backing, limits));
                some = true;
            }
            Err(why) => {
                named(name, &why);
                eprintln!("{name}: not here: {why}");
            }
        }
    }
    if !some {
        skip("no backing has private pages here");
    }
}

/// STRONGROOM_BACKINGS names the backings that the kernel has; whether it is set at all. What it
/// names is not missing for a reason, and nor is the driver's where that is loaded.
fn named(backing: &str, why: &str) -> bool {
    let Ok(names) = std::env::var("STRONGROOM_BACKINGS") else {
        return false;
    };
    let there = names.split_whitespace().any(|name| name == backing);
    assert!(!there, "{backing}: {why}; STRONGROOM_BACKINGS names it");
    let loaded = backing == "driver-poison" && has_driver();
    assert!(!loaded, "{backing}: {why}; the driver is loaded");
    true
}

/// Whether the kernel driver is loaded.
pub(crate) fn has_driver() -> bool {
    std::path::Path::new(DEVICE).exists()
}

/// Says that a test cannot run where there is no such backing; that is no skip where it is known.
pub(crate) fn lacking(backing: &str, why: impl std::fmt::Display) {
    if named(backing, &why.to_string()) {
        eprintln!("{backing}: not here: {why}");
    } else {
        skip(&format!("no {backing} here: {why}"));
    }
}

/// A backing by its name, all of it shared at first, and a machine of the type that it needs.
pub(crate) fn made(
    kvm: &Kvm,
    name: &str,
    len: usize,
) -> Result<(Arc<Machine>, Box<dyn Backing>), String> {
    let type_ = match name {
        "attributes" => KVM_X86_SW_PROTECTED_VM.into(),
        _ => 0,
    };
    let machine = machine(kvm, type_, None).ok_or("no machines of that type")?;
    let backing: Result<Box<dyn Backing>, Error> = match name {
        "attributes" => Attributes::new(&machine, len, Side::Shared).map(|b| Box::new(b) as _),
        "pair" => Pair::new(&machine, len, Side::Shared).map(|b| Box::new(b) as _),
        "driver-poison" => DriverPoison::new(len).map(|b| Box::new(b) as _),
        _ => Poison::new(len).map(|b| Box::new(b) as _),
    };
    Ok((machine, backing.map_err(|error| error.to_string())?))
}

/// Memory of this process for a slot.
struct Stub(*mut u8);

// SAFETY: addresses; all accesses are volatile.
unsafe impl Send for Stub {}
// SAFETY: as above.
unsafe impl Sync for Stub {}

impl Stub {
    fn new() -> Self {
        // SAFETY: a new mapping.
        let start = unsafe {
            strongroom_sys::memory::map_private(strongroom_sys::memory::Place::Anywhere, STUB)
        };
        Self(start.unwrap())
    }

    fn put(&self, at: usize, value: u64) {
        assert!(at + 8 <= STUB);
        // SAFETY: within the mapping.
        unsafe { self.0.add(at).cast::<u64>().write_volatile(value) };
    }

    fn get(&self, at: usize) -> u64 {
        assert!(at + 8 <= STUB);
        // SAFETY: within the mapping.
        unsafe { self.0.add(at).cast::<u64>().read_volatile() }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; the slot has gone before.
        unsafe { strongroom_sys::memory::unmap(self.0, STUB) }.unwrap();
    }
}

/// A virtual machine with one region of guest memory at [`RAM`].
pub(crate) struct Guest {
    pub(crate) desk: Arc<Desk>,
    pub(crate) ram: Arc<GuestRam>,
    _slot: Slot,
    stub: Arc<Stub>,
    pub(crate) machine: Arc<Machine>,
    cpuid: CpuId,
}

/// A machine of the type that the backing wants: the kernel's own kind for tests where it has it.
pub(crate) fn machine(kvm: &Kvm, type_: u64, slots: Option<u32>) -> Option<Arc<Machine>> {
    let vm = Arc::new(kvm.create_vm_with_type(type_).ok()?);
    let mut layout = Layout::of(kvm);
    if let Some(most) = slots {
        layout.slots = 0..most;
    }
    Some(Machine::new(kvm, vm, layout).unwrap())
}

impl Guest {
    pub(crate) fn new(
        kvm: &Kvm,
        machine: Arc<Machine>,
        backing: impl Backing + 'static,
        limits: Limits,
    ) -> Self {
        let stub = Arc::new(Stub::new());
        // SAFETY: two symbols of one section.
        let code = unsafe {
            let (start, end) = (&raw const guest_code, &raw const guest_code_end);
            core::slice::from_raw_parts(start, end.offset_from(start) as usize)
        };
        assert!(code.len() <= PAGE);
        // SAFETY: within the mapping.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), stub.0.add(CODE), code.len()) };
        stub.put(TASK + 96, 0x68 << 48);
        // One to one, 4 GiB, in pages of 2 MiB; for user mode, accessed and dirty.
        stub.put(ROOT, (ROOT + PAGE) as u64 | 0x27);
        for gib in 0..4 {
            let table = ROOT + (2 + gib) * PAGE;
            stub.put(ROOT + PAGE + gib * 8, table as u64 | 0x27);
            for large in 0..512 {
                let address = (gib * 512 + large) as u64 * 2 * MIB as u64;
                stub.put(table + large * 8, address | 0xe7);
            }
        }
        // SAFETY: the mapping outlives the slot, by the order of the fields.
        let slot = unsafe { machine.slots().create(0, STUB, Source::Address(stub.0)) }.unwrap();
        let region = GuestRegion::new(RAM, backing).unwrap();
        region.place(&machine).unwrap();
        let ram = Arc::new(GuestRam::from_regions(vec![region]).unwrap());
        let desk = Arc::new(Desk::new(Arc::clone(&ram), limits));
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        Self {
            desk,
            ram,
            _slot: slot,
            stub,
            machine,
            cpuid,
        }
    }

    pub(crate) fn region(&self) -> &GuestRegion {
        self.ram.find_region(GuestAddress(RAM)).unwrap()
    }

    pub(crate) fn convert(
        &self,
        pages: core::ops::Range<usize>,
        to: Side,
        contents: Contents,
    ) -> Result<(), Error> {
        let bytes = pages.start * PAGE..pages.end * PAGE;
        self.region()
            .convert(bytes, to, contents, Duration::from_secs(5))
    }

    pub(crate) fn processor(&self, number: u64) -> Processor {
        let fd = self.machine.vm().create_vcpu(number).unwrap();
        fd.set_cpuid2(&self.cpuid).unwrap();
        let mut sregs = fd.get_sregs().unwrap();
        segments(&mut sregs, Privilege::User, TASK as u64, TASK_LIMIT);
        (sregs.cr0, sregs.cr4, sregs.efer) = (0x8005_0033, 0x620, 0xd01);
        sregs.cr3 = ROOT as u64;
        fd.set_sregs(&sregs).unwrap();
        let commands = COMMANDS + number as usize * PAGE;
        fd.set_regs(&kvm_regs {
            rip: CODE as u64,
            r15: commands as u64,
            rflags: 0x3002,
            ..Default::default()
        })
        .unwrap();
        Processor {
            vcpu: self.machine.enroll(fd),
            desk: Arc::clone(&self.desk),
            stub: Arc::clone(&self.stub),
            commands,
        }
    }
}

/// A virtual processor that waits for commands.
pub(crate) struct Processor {
    pub(crate) vcpu: Vcpu,
    desk: Arc<Desk>,
    stub: Arc<Stub>,
    commands: usize,
}

/// How a command ended otherwise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Stop(Stop),
    Interrupted,
    Exit(String),
}

impl Processor {
    pub(crate) fn interrupter(&self) -> Interrupter {
        self.vcpu.interrupter()
    }

    fn set(&self, words: [u64; 5]) {
        for (index, word) in words.into_iter().enumerate() {
            self.stub.put(self.commands + index * 8, word);
        }
    }

    fn go(&mut self, words: [u64; 5], once: bool) -> Result<u64, Ended> {
        self.set(words);
        loop {
            let exit = match self.vcpu.run() {
                Ok(exit) => exit,
                Err(error) => return Err(Ended::Exit(error.to_string())),
            };
            match exit {
                None if once => return Err(Ended::Interrupted),
                None => {}
                Some(VcpuExit::IoOut(DONE, _)) => return Ok(self.stub.get(self.commands + 40)),
                Some(VcpuExit::IoOut(PORT, _)) => {
                    self.desk.serve(&self.vcpu).unwrap();
                }
                Some(VcpuExit::MemoryFault { flags, gpa, size }) => {
                    if let Outcome::Stop(why) = self.desk.fault(flags, gpa, size) {
                        return Err(Ended::Stop(why));
                    }
                }
                Some(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _)) => {
                    return Err(match self.desk.mmio(address) {
                        Some(why) => Ended::Stop(why),
                        None => Ended::Exit(format!("MMIO at {address:#x}")),
                    });
                }
                Some(other) => return Err(Ended::Exit(format!("{other:?}"))),
            }
        }
    }

    /// Words from a page on: the first one is `first`, and so on.
    pub(crate) fn try_fill(&mut self, page: usize, words: usize, first: u64) -> Result<u64, Ended> {
        self.go([1, address(page), words as u64, first, 0], false)
    }

    pub(crate) fn fill(&mut self, page: usize, words: usize, first: u64) {
        self.try_fill(page, words, first).unwrap();
    }

    /// The first word that differs: its address, and what is there.
    pub(crate) fn differs(&mut self, page: usize, words: usize, first: u64) -> Option<(u64, u64)> {
        match self
            .go([2, address(page), words as u64, first, 0], false)
            .unwrap()
        {
            0 => None,
            at => Some((at, self.stub.get(self.commands + 48))),
        }
    }

    pub(crate) fn request(&mut self, request: Request) -> u64 {
        let Request {
            function,
            address,
            length,
            flags,
        } = request;
        self.go([3, function, address, length, flags], false)
            .unwrap()
    }

    /// Counts up the word at `word` of each page, from a round to a later one. The first word that differs.
    pub(crate) fn count(
        &mut self,
        page: usize,
        pages: usize,
        rounds: core::ops::Range<u64>,
        word: usize,
    ) -> Option<(u64, u64)> {
        self.stub.put(self.commands + 40, rounds.start);
        let words = [4, address(page), pages as u64, rounds.end, word as u64 * 8];
        match self.go(words, false).unwrap() {
            0 => None,
            at => Some((at, self.stub.get(self.commands + 48))),
        }
    }

    pub(crate) fn read(&mut self, page: usize, offset: usize) -> Result<u64, Ended> {
        self.read_at(address(page) + offset as u64)
    }

    pub(crate) fn read_at(&mut self, address: u64) -> Result<u64, Ended> {
        self.go([5, address, 0, 0, 0], false)
    }

    /// Waits in the guest until a word is not 0, or somebody interrupts it.
    pub(crate) fn wait_for(&mut self, page: usize) -> Result<u64, Ended> {
        self.go([6, address(page), 0, 0, 0], true)
    }
}

/// Where a page of the guest's memory is.
pub(crate) fn address(page: usize) -> u64 {
    RAM + (page * PAGE) as u64
}
