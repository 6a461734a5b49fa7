//! Steering: the monitor gives its machine a processor and memory of its own, with code that copies what
//! the guest has.
//!
//! Nothing keeps the program that runs a machine from this, as long as the processor takes its word for what a
//! guest is. The guest's memory is the machine's, wherever its pages lie.

use super::{judge, places};
use crate::attack::Loot;
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{Errno, PAGE};

const WAY: &str = "a processor of its own";

/// Where its own memory is in the machine: far from what guests have.
const OWN: u64 = 32 << 30;
/// Which slot, counted from the last, and which processor.
const SLOT_FROM_END: usize = 2;
const NUMBER: u64 = 199;
/// Pages of it: the tables (one of each of the upper levels, and one for either GiB), code, and the copy.
const ROOT: usize = 0;
const UPPER: usize = 1;
const OF_OWN: usize = 2;
const OF_GUEST: usize = 3;
const CODE: usize = 4;
const COPY: usize = 5;
const PAGES: usize = 6;

/// rep movsq; then ud2, for which there is no handler: the processor stops.
const PROGRAM: [u8; 5] = [0xf3, 0x48, 0xa5, 0x0f, 0x0b];

/// Memory of this process for a slot.
struct Own(*mut u8);

impl Own {
    fn new() -> Result<Self, Errno> {
        // SAFETY: a new mapping replaces nothing.
        let start = unsafe { memory::map_private(Place::Anywhere, PAGES * PAGE) }?;
        Ok(Self(start))
    }

    fn put(&self, page: usize, index: u64, value: u64) {
        let at = page * PAGE + index as usize % 512 * 8;
        // SAFETY: callers name one of its pages; the processor does not run.
        unsafe { self.0.add(at).cast::<u64>().write_volatile(value) };
    }

    /// Tables for user mode that map the GiB of its own memory and the guest's, in pages of 2 MiB.
    fn map(&self, guest: u64) {
        const TABLE: u64 = 0x27;
        const LARGE: u64 = 0xe7;
        let own = |page: usize| OWN + (page * PAGE) as u64;
        self.put(ROOT, 0, own(UPPER) | TABLE);
        for (table, address) in [(OF_OWN, OWN), (OF_GUEST, guest)] {
            self.put(UPPER, address >> 30, own(table) | TABLE);
            let page = address & !((2 << 20) - 1);
            self.put(table, address >> 21, page | LARGE);
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; the slot has gone before.
        let _ = unsafe { memory::unmap(self.0, PAGES * PAGE) };
    }
}

/// Copies the guest's page at `guest`, which is below 512 GiB.
pub(super) fn steer(guest: u64, masked: &[u8]) -> Result<Vec<Loot>, String> {
    let number = places::machine().ok_or("no descriptor is a machine")?;
    let page = match copy(number, guest) {
        Ok(page) => page,
        Err(error) => return Err(format!("{WAY}: {error}")),
    };
    Ok(vec![judge(WAY, &page, masked)])
}

fn copy(machine: i32, guest: u64) -> Result<Vec<u8>, String> {
    let said = |call: &'static str| move |error: kvm_ioctls::Error| format!("{call}: {error}");
    let device = places::device().ok_or("no descriptor is /dev/kvm")?;
    // SAFETY: both numbers were just looked up, and are duplicated: what is dropped is not the monitor's.
    let (kvm, vm) = unsafe {
        let kvm = <Kvm as std::os::fd::FromRawFd>::from_raw_fd(duplicate(device)?);
        let vm = kvm
            .create_vmfd_from_rawfd(duplicate(machine)?)
            .map_err(said("the machine"))?;
        (kvm, vm)
    };
    let own = Own::new().map_err(|error| format!("mmap: {error}"))?;
    own.map(guest);
    // SAFETY: the code is shorter than its page.
    unsafe {
        let code = own.0.add(CODE * PAGE);
        code.copy_from_nonoverlapping(PROGRAM.as_ptr(), PROGRAM.len());
    }
    let mut region = kvm_userspace_memory_region {
        slot: (kvm.get_nr_memslots() - SLOT_FROM_END) as u32,
        guest_phys_addr: OWN,
        memory_size: (PAGES * PAGE) as u64,
        userspace_addr: own.0 as u64,
        flags: 0,
    };
    // SAFETY: the memory stays until the slot is gone.
    unsafe { vm.set_user_memory_region(region) }.map_err(said("a slot of its own"))?;
    let ran = run(&kvm, &vm, guest);
    region.memory_size = 0;
    // SAFETY: a slot of no bytes is a deletion.
    unsafe { vm.set_user_memory_region(region) }.map_err(said("the slot's end"))?;
    ran?;
    let mut page = vec![0; PAGE];
    // SAFETY: a page of its own, which nobody writes any more.
    unsafe {
        page.as_mut_ptr()
            .copy_from_nonoverlapping(own.0.add(COPY * PAGE), PAGE)
    };
    Ok(page)
}

fn duplicate(number: i32) -> Result<i32, String> {
    // SAFETY: fcntl takes no pointer here.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err("a descriptor cannot be duplicated".to_owned()),
        copy => Ok(copy),
    }
}

fn run(kvm: &Kvm, vm: &VmFd, guest: u64) -> Result<(), String> {
    let said = |call: &'static str| move |error: kvm_ioctls::Error| format!("{call}: {error}");
    let mut vcpu = vm.create_vcpu(NUMBER).map_err(said("KVM_CREATE_VCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(said("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(said("KVM_SET_CPUID2"))?;
    let mut sregs = vcpu.get_sregs().map_err(said("KVM_GET_SREGS"))?;
    user_mode(&mut sregs);
    vcpu.set_sregs(&sregs).map_err(said("KVM_SET_SREGS"))?;
    vcpu.set_regs(&kvm_regs {
        rip: OWN + (CODE * PAGE) as u64,
        rsi: guest,
        rdi: OWN + (COPY * PAGE) as u64,
        rcx: (PAGE / 8) as u64,
        rflags: 2,
        ..Default::default()
    })
    .map_err(said("KVM_SET_REGS"))?;
    finish(&mut vcpu)
}

/// Runs it until its program ends.
fn finish(vcpu: &mut VcpuFd) -> Result<(), String> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Shutdown) => break,
            Ok(VcpuExit::Intr) => {}
            Ok(exit) => return Err(format!("its processor left by {exit:?}")),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            Err(error) => return Err(format!("KVM_RUN: {error}")),
        }
    }
    Ok(())
}

/// 64-bit user mode, which runs at full speed on every host, without any handler.
fn user_mode(sregs: &mut kvm_sregs) {
    let segment = |selector, type_| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 3,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        l: 1,
        ..segment(0x33, 11)
    };
    let data = kvm_segment {
        db: 1,
        ..segment(0x2b, 3)
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        limit: 0x67,
        selector: 0x40,
        // A 64-bit TSS, busy.
        type_: 11,
        present: 1,
        ..Default::default()
    };
    (sregs.idt.limit, sregs.gdt.limit) = (0, 0);
    (sregs.cr0, sregs.cr4, sregs.efer) = (0x8005_0033, 0x620, 0xd01);
    sregs.cr3 = OWN + (ROOT * PAGE) as u64;
}
