//! A virtual processor that moves the contents of private pages.
//!
//! The monitor cannot read or write private memory; a processor of the guest can. This one belongs to the
//! machine's memory and not to the guest: it runs a few bytes of code, for as long as a copy or a wipe
//! takes, between pages of the guest and a bounce buffer that the monitor sees, and only while all other
//! processors are held out. So contents move in a conversion without a program in the guest that
//! knows of it, at the launch too, when there is none yet.
//!
//! Its code and its page tables are in a slot that the guest can read only, where that works: the guest can map
//! them, and cannot make this processor do anything else. With nested paging on AMD it does not: there a walk of page
//! tables counts as a write, and KVM emulates each instruction, by the address of the slot instead of the private
//! file. That is found out by trying. The slot is writable then, and what should be in it is put back before
//! each run; no other processor of the guest runs in between. Its APIC is off, so that no interrupt, INIT or SIPI of the guest reaches it.
//! The bounce buffer is the guest's to write, but no other processor runs while something is in it.
//!
//! The page tables map guest physical addresses one to one, in pages of 2 MiB that are added when they are
//! first needed. An entry never changes once it is there, so that nothing that the
//! kernel or the processor remembers of the tables gets stale.

use super::{GuestMemfd, Kind, Machine, Privilege, Slot, Source, segments};
use crate::mapping::Mapping;
use crate::{Error, PAGE};
use kvm_bindings::{
    CpuId, KVM_CAP_MEMORY_ATTRIBUTES, KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_MP_STATE_RUNNABLE,
    kvm_memory_attributes, kvm_mp_state, kvm_regs,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use rustix::fd::AsFd;
use strongroom_sys::Errno;

/// The most that is moved at once, in bytes.
pub const BOUNCE: usize = 2 << 20;
/// The code, and the page tables after it: 16 TiB of guest memory need so many.
const TABLES: usize = 64 << 20;
/// Where the bounce buffer is, from the start of the scratch addresses.
const BOUNCE_AT: u64 = TABLES as u64;
/// Where a private page is, for a trial.
const TRIAL_AT: u64 = BOUNCE_AT + BOUNCE as u64;
pub(super) const SCRATCH: u64 = TRIAL_AT + PAGE as u64;

/// The port by which it says that it is done. It has nothing to do with the guest's ports.
const DONE: u8 = 0x51;
/// rep movsq; mov rdi, r8; mov rcx, r9; rep stosq; out DONE, al. Whole words, which a machine in a machine that
/// emulates each step does eight times faster than bytes.
const CODE: [u8; 14] = [
    0xf3, 0x48, 0xa5, // copy rcx words from rsi to rdi
    0x4c, 0x89, 0xc7, 0x4c, 0x89, 0xc9, //
    0xf3, 0x48, 0xab, // then set r9 words at r8 to rax
    0xe6, DONE,
];

/// Bytes at an address.
#[derive(Clone, Copy)]
struct Span {
    address: u64,
    len: usize,
}

const NOTHING: Span = Span { address: 0, len: 0 };

/// Of a page-table entry: present, writable, for user mode; accessed and dirty already, as the processor
/// cannot write here; 2 MiB.
const TABLE: u64 = 0b10_0111;
const LARGE_PAGE: u64 = 0b1110_0111;
const LARGE: u64 = 2 << 20;
const ENTRIES: usize = 512;
/// Where its task state is, with a map that allows the first ports: not every host looks at the I/O privilege.
const TASK: usize = 0x800;
const TASK_SIZE: usize = 0x68;
const PORTS: usize = 256;
/// The code and the task state are page 0 of the slot, the root of the page tables page 1.
const ROOT: usize = 1;

/// Moves contents between guest pages and its bounce buffer.
#[derive(Debug)]
pub(crate) struct Copier {
    vcpu: VcpuFd,
    /// Before the memory that they are.
    slots: [Slot; 2],
    /// What the guest sees: the code and the page tables.
    tables: Mapping,
    /// What should be there.
    truth: Mapping,
    bounce: Mapping,
    scratch: u64,
    /// The first page of the tables that is free.
    next: usize,
}

/// How many bits a guest physical address has.
pub(super) fn address_bits(cpuid: &CpuId) -> u32 {
    cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0x8000_0008)
        // What a processor without this leaf has.
        .map_or(36, |entry| entry.eax & 0xff)
}

impl Copier {
    pub(super) fn new(machine: &Machine) -> Result<Self, Error> {
        let mut copier = Self::made(machine)?;
        if copier.try_private_page(machine).is_err() {
            copier.open(machine)?;
            copier.try_private_page(machine)?;
        }
        Ok(copier)
    }

    /// Makes the tables a slot that the guest can write.
    fn open(&mut self, machine: &Machine) -> Result<(), Error> {
        let [tables, _] = &mut self.slots;
        tables.delete()?;
        let source = Source::Address(self.tables.start());
        // SAFETY: the mapping lives longer than the slot, and is used as raw memory only.
        *tables = unsafe { machine.slots.create(self.scratch, TABLES, source) }?;
        Ok(())
    }

    /// Writes a page of guest_memory whose address is nowhere: what KVM emulates fails.
    fn try_private_page(&mut self, machine: &Machine) -> Result<(), Error> {
        let known = machine
            .vm
            .check_extension_raw(KVM_CAP_MEMORY_ATTRIBUTES.into());
        let attributes = known & KVM_MEMORY_ATTRIBUTE_PRIVATE as i32 != 0;
        let kind = match attributes {
            true => Kind::Unmappable,
            false => Kind::Private,
        };
        let file = match GuestMemfd::new(&machine.vm, PAGE, kind) {
            Ok(file) => file,
            // No private files here: then there is nothing that could be missed.
            Err(_) => return Ok(()),
        };
        let nowhere = Mapping::nothing(PAGE)?;
        let address = self.scratch + TRIAL_AT;
        let source = Source::File {
            file: file.as_fd(),
            offset: 0,
            address: nowhere.start(),
        };
        // SAFETY: there is nothing at the address, and the slot goes before it does.
        let slot = unsafe { machine.slots.create(address, PAGE, source) }?;
        let mark = |attributes| {
            machine.vm.set_memory_attributes(kvm_memory_attributes {
                address,
                size: PAGE as u64,
                attributes,
                flags: 0,
            })
        };
        if attributes {
            mark(u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE))
                .map_err(Error::kvm("KVM_SET_MEMORY_ATTRIBUTES"))?;
        }
        let result = self.wipe(address, PAGE);
        if attributes {
            mark(0).map_err(Error::kvm("KVM_SET_MEMORY_ATTRIBUTES"))?;
        }
        drop(slot);
        result
    }

    fn made(machine: &Machine) -> Result<Self, Error> {
        let scratch = machine.layout.scratch;
        let tables = Mapping::sparse(TABLES)?;
        let truth = Mapping::sparse(TABLES)?;
        let bounce = Mapping::large(BOUNCE)?;
        truth.put(0, &CODE);
        // The I/O permission map's place in the task state; the map is zero.
        truth.put(TASK + 102, &(TASK_SIZE as u16).to_ne_bytes());
        let code = Source::ReadOnly(tables.start());
        let buffer = Source::Address(bounce.start());
        // SAFETY: both mappings live longer than the slots, and are used as raw memory only.
        let slots = unsafe {
            [
                machine.slots.create(scratch, TABLES, code)?,
                machine.slots.create(scratch + BOUNCE_AT, BOUNCE, buffer)?,
            ]
        };
        let vcpu = machine
            .vm
            .create_vcpu(machine.layout.copier)
            .map_err(Error::kvm("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&machine.cpuid)
            .map_err(Error::kvm("KVM_SET_CPUID2"))?;
        let mut copier = Self {
            vcpu,
            slots,
            tables,
            truth,
            bounce,
            scratch,
            next: ROOT + 1,
        };
        copier.map(scratch, SCRATCH)?;
        copier.arrange()?;
        Ok(copier)
    }

    /// Puts the processor into 64-bit user mode, which runs at full speed on every host.
    fn arrange(&self) -> Result<(), Error> {
        let mut sregs = self.vcpu.get_sregs().map_err(Error::kvm("KVM_GET_SREGS"))?;
        let task = self.scratch + TASK as u64;
        let limit = (TASK_SIZE + PORTS / 8) as u32;
        segments(&mut sregs, Privilege::User, task, limit);
        // PG, AM, WP, NE, ET, MP, PE; OSXMMEXCPT, OSFXSR, PAE; NXE, LMA, LME, SCE.
        sregs.cr0 = 0x8005_0033;
        sregs.cr4 = 0x620;
        sregs.efer = 0xd01;
        sregs.cr3 = self.scratch + (ROOT * PAGE) as u64;
        // The APIC's enable bit.
        sregs.apic_base &= !(1 << 11);
        self.vcpu
            .set_sregs(&sregs)
            .map_err(Error::kvm("KVM_SET_SREGS"))?;
        // With the kernel's APICs, processors wait for INIT and SIPI at first; without, there is no such state.
        let runnable = kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        let _ = self.vcpu.set_mp_state(runnable);
        Ok(())
    }

    /// Makes guest physical addresses reachable.
    fn map(&mut self, start: u64, len: u64) -> Result<(), Error> {
        let first = start / LARGE;
        let last = (start + (len - 1)) / LARGE;
        for large in first..=last {
            let mut table = ROOT;
            for level in [3, 2, 1] {
                let index = (large >> (9 * (level - 1))) as usize % ENTRIES;
                let at = table * PAGE + index * size_of::<u64>();
                let entry = self.truth.word(at);
                if level == 1 {
                    self.truth.set_word(at, (large * LARGE) | LARGE_PAGE);
                } else if entry == 0 {
                    if (self.next + 1) * PAGE > TABLES {
                        return Err(Error::Copier("its page tables are full"));
                    }
                    let address = self.scratch + (self.next * PAGE) as u64;
                    self.truth.set_word(at, address | TABLE);
                    table = self.next;
                    self.next += 1;
                } else {
                    table = ((entry - self.scratch) / PAGE as u64) as usize;
                }
            }
        }
        Ok(())
    }

    /// Moves what guest pages hold to the start of the bounce buffer: the pages are zero then.
    pub(crate) fn take(&mut self, address: u64, len: usize) -> Result<&Mapping, Error> {
        let bounce = self.scratch + BOUNCE_AT;
        self.map(address, len as u64)?;
        let pages = Span { address, len };
        self.go(pages, bounce, pages)?;
        Ok(&self.bounce)
    }

    /// Copies what is at the start of the bounce buffer into guest pages.
    pub(crate) fn store(&mut self, address: u64, len: usize) -> Result<(), Error> {
        self.map(address, len as u64)?;
        let bounce = Span {
            address: self.scratch + BOUNCE_AT,
            len,
        };
        self.go(bounce, address, NOTHING)
    }

    /// Sets guest pages to zero.
    pub(crate) fn wipe(&mut self, address: u64, len: usize) -> Result<(), Error> {
        self.map(address, len as u64)?;
        self.go(NOTHING, 0, Span { address, len })
    }

    /// The bounce buffer.
    pub(crate) fn bounce(&self) -> &Mapping {
        &self.bounce
    }

    /// Copies words, and then sets words to zero.
    fn go(&mut self, from: Span, to: u64, zero: Span) -> Result<(), Error> {
        let words = |span: Span| (span.len / size_of::<u64>()) as u64;
        let regs = kvm_regs {
            rip: self.scratch,
            rsi: from.address,
            rdi: to,
            rcx: words(from),
            r8: zero.address,
            r9: words(zero),
            // The I/O privilege of user mode, and the bit that is always 1. Interrupts are off.
            rflags: 0x3002,
            ..Default::default()
        };
        // KVM_RUN takes them from there: a call less.
        self.vcpu.sync_regs_mut().regs = regs;
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        // Whatever the guest has made of it, where it can.
        self.tables.restore(&self.truth, self.next * PAGE);
        loop {
            let errno = match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) if port == u16::from(DONE) => return Ok(()),
                Ok(VcpuExit::Intr) => continue,
                Ok(VcpuExit::MemoryFault { .. }) => {
                    return Err(Error::Copier("the kernel had no page for it"));
                }
                Ok(VcpuExit::Shutdown) => return Err(Error::Copier("it faulted")),
                Ok(_) => return Err(Error::Copier("an exit that its code does not make")),
                Err(error) => Errno::from_raw_os_error(error.errno()),
            };
            // A signal of this thread, which is somebody else's business.
            if errno != Errno::INTR && errno != Errno::AGAIN {
                let call = "KVM_RUN";
                return Err(Error::Kernel { call, errno });
            }
        }
    }
}
