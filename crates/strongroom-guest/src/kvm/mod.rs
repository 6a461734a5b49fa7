//! Guest memory in a KVM virtual machine.
//!
//! The monitor makes the machine and its processors with `kvm-ioctls`, and hands over what is about memory: a
//! [`Machine`] has the slots and the gate, a [`Vcpu`] runs through it, a
//! [`GuestRegion`](crate::GuestRegion) is [placed](crate::GuestRegion::place) in it, and a [`Desk`] answers what the
//! guest asks about its pages and what the kernel could not.
//!
//! ```no_run
//! use kvm_ioctls::{Kvm, VcpuExit};
//! use std::sync::Arc;
//! use strongroom_guest::kvm::{Desk, Layout, Limits, Machine, exit::Outcome, request::PORT};
//! use strongroom_guest::{GuestRam, GuestRegion, Side, backing};
//!
//! let kvm = Kvm::new()?;
//! let vm = Arc::new(kvm.create_vm()?);
//! let machine = Machine::new(&kvm, Arc::clone(&vm), Layout::of(&kvm))?;
//! let chosen = backing::best(&machine, 64 << 20, Side::Private)?;
//! let region = GuestRegion::new(0, chosen.backing)?;
//! region.place(&machine)?;
//! let ram = Arc::new(GuestRam::from_regions(vec![region])?);
//! let desk = Desk::new(ram, Limits::default());
//! let mut vcpu = machine.enroll(vm.create_vcpu(0)?);
//! loop {
//!     match vcpu.run()? {
//!         None => {} // Interrupted: is there a reason to stop?
//!         Some(VcpuExit::IoOut(PORT, _)) => {
//!             desk.serve(&vcpu)?;
//!         }
//!         Some(VcpuExit::MemoryFault { flags, gpa, size }) => match desk.fault(flags, gpa, size) {
//!             Outcome::Retry => {}
//!             Outcome::Stop(why) => break println!("{why}"),
//!         },
//!         Some(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _)) => {
//!             if let Some(why) = desk.mmio(address) {
//!                 break println!("{why}");
//!             } // Otherwise a device's.
//!         }
//!         Some(other) => break println!("{other:?}"),
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod confine;
mod copier;
pub mod exit;
mod gate;
mod guest_memfd;
mod rate;
pub mod request;
mod segments;
mod slots;
mod vcpu;

pub use confine::confine;
pub use copier::BOUNCE;
pub(crate) use copier::Copier;
pub use gate::Gate;
pub(crate) use guest_memfd::{GuestMemfd, Kind, punch, resident};
pub use rate::Limits;
pub use request::Desk;
pub use segments::{Privilege, segments};
pub use slots::{Slot, Slots, Source};
pub use vcpu::{Interrupter, Vcpu};

use crate::Error;
use core::ops::Range;
use kvm_bindings::{
    CpuId, KVM_CAP_DISABLE_QUIRKS2, KVM_MAX_CPUID_ENTRIES, KVM_X86_QUIRK_SLOT_ZAP_ALL,
    kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What of a virtual machine is for guest memory alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Slot numbers.
    pub slots: Range<u32>,
    /// Where the processor that moves contents has its own memory: [`SCRATCH`] bytes of guest
    /// physical addresses without anything else, from a multiple of 1 GiB.
    pub scratch: u64,
    /// That processor's number.
    pub copier: u64,
    /// The signal by which processors are made to come out of the guest.
    pub signal: i32,
}

/// How much of the guest physical addresses [`Layout::scratch`] takes.
pub const SCRATCH: u64 = copier::SCRATCH;

impl Layout {
    /// All slot numbers that the kernel has, the end of the guest physical addresses, the last but one
    /// processor that has an xAPIC number, and the last real-time signal but one.
    pub fn of(kvm: &Kvm) -> Self {
        // What a processor has that does not tell.
        let bits = cpuid(kvm).map_or(36, |cpuid| copier::address_bits(&cpuid));
        let slots = u32::try_from(kvm.get_nr_memslots()).unwrap_or(u32::MAX);
        Self {
            slots: 0..slots,
            // Four-level tables of the host reach no further than 48 bits.
            scratch: (1 << bits.min(46)) - (1 << 30),
            copier: 254,
            signal: libc::SIGRTMAX() - 1,
        }
    }
}

fn cpuid(kvm: &Kvm) -> Result<CpuId, Error> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(Error::kvm("KVM_GET_SUPPORTED_CPUID"))
}

/// A virtual machine, as far as its memory goes.
#[derive(Debug)]
pub struct Machine {
    /// Before the slots and the machine: it has slots itself.
    copier: Mutex<Option<Copier>>,
    gate: Gate,
    slots: Slots,
    vm: Arc<VmFd>,
    layout: Layout,
    cpuid: CpuId,
}

impl Machine {
    /// The memory of a virtual machine that the caller has made. Switches off the kernel's habit of
    /// forgetting all of the guest's mappings when one slot goes, where that can be switched off.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(kvm: &Kvm, vm: Arc<VmFd>, layout: Layout) -> Result<Arc<Self>, Error> {
        // Linux 6.12. Refused where it is older: it works all the same, slower.
        let _ = vm.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_DISABLE_QUIRKS2,
            args: [u64::from(KVM_X86_QUIRK_SLOT_ZAP_ALL), 0, 0, 0],
            ..Default::default()
        });
        Ok(Arc::new(Self {
            copier: Mutex::new(None),
            gate: Gate::new(layout.signal)?,
            slots: Slots::new(Arc::clone(&vm), layout.slots.clone()),
            vm,
            cpuid: cpuid(kvm)?,
            layout,
        }))
    }

    /// The virtual machine itself.
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Its slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Takes a virtual processor in: from now on it runs by [`Vcpu::run`].
    pub fn enroll(self: &Arc<Self>, vcpu: VcpuFd) -> Vcpu {
        Vcpu::new(Arc::clone(self), vcpu)
    }

    /// Holds all processors out of the guest until the answer is dropped. Waits for others
    /// who do the same.
    pub(crate) fn hold(&self) -> Result<Held<'_>, Error> {
        // What it guards is made anew or complete.
        let copier = self.copier.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Held {
            closed: self.gate.close()?,
            copier,
            machine: self,
        })
    }
}

/// While it lives, no processor is in the guest, and slots can change.
#[derive(Debug)]
pub(crate) struct Held<'m> {
    /// First: the next one to hold them finds the gate open.
    #[expect(dead_code, reason = "opens when it is dropped")]
    closed: gate::Closed<'m>,
    copier: MutexGuard<'m, Option<Copier>>,
    machine: &'m Machine,
}

impl Held<'_> {
    /// The processor that moves contents.
    pub(crate) fn copier(&mut self) -> Result<&mut Copier, Error> {
        let machine = self.machine;
        let copier = match self.copier.take() {
            Some(copier) => copier,
            None => Copier::new(machine)?,
        };
        Ok(self.copier.insert(copier))
    }
}
