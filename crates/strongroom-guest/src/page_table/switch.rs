//! A processor's registers and contexts.

use super::{Context, Error};
use kvm_bindings::kvm_sregs;
use kvm_ioctls::VcpuFd;

const CR0_PROTECTION: u64 = 1;
const CR0_WRITE_PROTECT: u64 = 1 << 16;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_LEVEL_5: u64 = 1 << 12;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
const EFER_NO_EXECUTE: u64 = 1 << 11;

/// Whether KVM shadows guest page tables on this host: nested paging is off, or there is none. Taken for so
/// where it cannot be told.
pub fn shadowed() -> bool {
    let on = |path| std::fs::read(path).is_ok_and(|text| matches!(text.first(), Some(b'Y' | b'1')));
    let files = [
        "/sys/module/kvm_intel/parameters/ept",
        "/sys/module/kvm_amd/parameters/npt",
    ];
    !files.into_iter().any(on)
}

impl Context<'_, '_> {
    /// Puts the context into a processor's registers, with paging as contexts need it: long mode, 4 levels,
    /// no execution where it is not a right, and the kernel bound by read-only pages, too.
    pub fn enter(&self, registers: &mut kvm_sregs) {
        registers.cr0 |= CR0_PROTECTION | CR0_WRITE_PROTECT | CR0_PAGING;
        registers.cr4 = registers.cr4 & !CR4_LEVEL_5 | CR4_PAE;
        registers.efer |= EFER_LONG_MODE | EFER_NO_EXECUTE;
        registers.cr3 = self.root();
    }

    /// Switches a processor that stands still to the context.
    ///
    /// # Errors
    /// What KVM_GET_SREGS and KVM_SET_SREGS say.
    pub fn switch(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        let mut registers = vcpu.get_sregs().map_err(said("KVM_GET_SREGS"))?;
        self.enter(&mut registers);
        vcpu.set_sregs(&registers).map_err(said("KVM_SET_SREGS"))
    }

    /// Makes processors that stand still forget what they have cached of the context, and gives back what
    /// was unmapped. They must be all that run it.
    ///
    /// # Errors
    /// What KVM_GET_SREGS and KVM_SET_SREGS say; nothing is given back then.
    pub fn flush<'v>(&mut self, vcpus: impl IntoIterator<Item = &'v VcpuFd>) -> Result<(), Error> {
        for vcpu in vcpus {
            let mut registers = vcpu.get_sregs().map_err(said("KVM_GET_SREGS"))?;
            let root = registers.cr3;
            // KVM flushes where CR3 changes, and not where it is set to what it is.
            for cr3 in [root ^ 0x1000, root] {
                registers.cr3 = cr3;
                vcpu.set_sregs(&registers).map_err(said("KVM_SET_SREGS"))?;
            }
        }
        self.flushed();
        Ok(())
    }
}

fn said(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Kvm {
        call,
        errno: error.errno(),
    }
}
