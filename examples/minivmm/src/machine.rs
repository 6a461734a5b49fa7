//! The virtual machine: memory, page tables and a processor.

use crate::guest;
use crate::layout::{self, ANSWERS, PROGRAM, REQUESTS, SECRET, STATE, STUB, WORK};
use crate::options::Choice;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_X86_SW_PROTECTED_VM, kvm_regs};
use kvm_ioctls::{Kvm, VmFd};
use std::sync::Arc;
use std::time::Duration;
use strongroom_guest::backing::{self, Attributes, Backing, DriverPoison, Pair, Plain, Poison};
use strongroom_guest::kvm::{self, Layout, Privilege, Vcpu, segments};
use strongroom_guest::page_table::{Access, Context, Features, Sharing, Size, Tables, shadowed};
use strongroom_guest::{Contents, GuestRam, GuestRegion, PAGE, Side};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryError, MemoryRegionAddress};

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cannot {
    #[error("/dev/kvm: {0}; {1}")]
    NoKvm(kvm_ioctls::Error, &'static str),
    #[error("{0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    #[error("the backing {0} cannot be had here: {1}")]
    Backing(&'static str, strongroom_guest::Error),
    #[error(transparent)]
    Memory(#[from] strongroom_guest::Error),
    #[error("guest memory: {0}")]
    Regions(#[from] vm_memory::GuestRegionCollectionError),
    #[error("page tables: {0}")]
    Tables(#[from] strongroom_guest::page_table::Error),
    #[error("loading the guest: {0}")]
    Load(#[from] GuestMemoryError),
}

fn said(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Cannot {
    move |error| Cannot::Kvm(call, error)
}

/// A virtual machine whose memory is one region.
#[derive(Debug)]
pub(crate) struct Machine {
    kvm: Kvm,
    vm: Arc<VmFd>,
    pub(crate) memory: Arc<kvm::Machine>,
    pub(crate) ram: Arc<GuestRam>,
    /// Better backings, and why they are not to be had.
    pub(crate) refused: Vec<(&'static str, strongroom_guest::Error)>,
}

impl Machine {
    /// A machine with so much memory, all of it shared at first.
    pub(crate) fn new(choice: Choice, len: usize) -> Result<Self, Cannot> {
        let device = Kvm::new().map_err(|error| {
            let fix = match error.errno() {
                2 | 6 => {
                    "this machine has no KVM: load kvm-intel or kvm-amd, or switch nested virtualization on"
                }
                13 | 1 => "run it as root or as a member of the group kvm",
                _ => "see dmesg",
            };
            Cannot::NoKvm(error, fix)
        })?;
        let vm = Arc::new(create(&device, choice)?);
        let memory = kvm::Machine::new(&device, Arc::clone(&vm), Layout::of(&device))?;
        let mut refused = Vec::new();
        let backing = match choice {
            Choice::Plain => boxed("plain", Plain::new(len))?,
            Choice::Poison => boxed("poison", Poison::new(len))?,
            Choice::DriverPoison => boxed("driver-poison", DriverPoison::new(len))?,
            Choice::Pair => boxed("pair", Pair::new(&memory, len, Side::Shared))?,
            Choice::Attributes => boxed("attributes", Attributes::new(&memory, len, Side::Shared))?,
            Choice::Best => match backing::best(&memory, len, Side::Shared) {
                Ok(best) => {
                    refused = best.refused;
                    best.backing
                }
                Err(error) => {
                    refused.push(("poison", error));
                    boxed("plain", Plain::new(len))?
                }
            },
        };
        let region = GuestRegion::new(0, backing)?;
        region.place(&memory)?;
        Ok(Self {
            kvm: device,
            vm,
            memory,
            ram: Arc::new(GuestRam::from_regions(vec![region])?),
            refused,
        })
    }

    /// Its memory.
    pub(crate) fn region(&self) -> Result<&GuestRegion, Cannot> {
        let first = self.ram.iter().next();
        Ok(first.ok_or(GuestMemoryError::InvalidBackendAddress)?)
    }

    /// What the guest's processor can do with page tables.
    pub(crate) fn features(&self) -> Result<Features, Cannot> {
        let cpuid = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(said("KVM_GET_SUPPORTED_CPUID"))?;
        let mut features = Features {
            shadowed: shadowed(),
            ..Features::default()
        };
        for entry in cpuid.as_slice() {
            match entry.function {
                0x8000_0001 if entry.edx & 1 << 26 != 0 => features.largest = Size::Huge,
                0x8000_0008 => features.physical_bits = (entry.eax as u8).clamp(32, 52),
                _ => {}
            }
        }
        Ok(features)
    }

    /// Puts the program into memory, and makes everything private that it does not share.
    pub(crate) fn load(&self) -> Result<(), Cannot> {
        let region = self.region()?;
        let put = |bytes: &[u8], at| region.write_slice(bytes, MemoryRegionAddress(at));
        put(guest::stub(), STUB)?;
        put(&guest::task(), STUB + guest::TASK)?;
        put(guest::program(), PROGRAM)?;
        let pages = (region.len() as u64 - WORK) / PAGE as u64;
        put(&pages.to_le_bytes(), STATE + 8)?;
        put(&layout::MARK.to_le_bytes(), SECRET)?;
        if keeps_private(region) {
            let all = PROGRAM as usize..region.len();
            region.convert(all, Side::Private, Contents::Kept, Duration::from_secs(1))?;
        }
        Ok(())
    }

    /// The guest's address space.
    pub(crate) fn map<'t, 'g>(&self, tables: &'t Tables<'g>) -> Result<Context<'t, 'g>, Cannot> {
        let page = PAGE as u64;
        let mut context = tables.context()?;
        let code = Access::EXECUTE | Access::USER;
        let data = Access::WRITE | Access::USER;
        let end = self.region()?.len() as u64;
        for (start, end, access) in [
            (STUB, STUB + page, code),
            (REQUESTS, ANSWERS + page, data),
            (PROGRAM, PROGRAM + page, code),
            (STATE, layout::STACK_END, data),
            (WORK, end, data),
        ] {
            context.map(start, start..end, access, Sharing::Common)?;
        }
        Ok(context)
    }

    /// Gives a context a page that no other one can have.
    pub(crate) fn map_secret(context: &mut Context<'_, '_>) -> Result<(), Cannot> {
        let memory = SECRET..SECRET + PAGE as u64;
        let access = Access::WRITE | Access::USER;
        Ok(context.map(SECRET, memory, access, Sharing::Exclusive)?)
    }

    /// A processor in a context, in 64-bit user or kernel mode, at an address.
    pub(crate) fn processor(
        &self,
        id: u64,
        context: &Context<'_, '_>,
        privilege: Privilege,
        regs: kvm_regs,
    ) -> Result<Vcpu, Cannot> {
        let vcpu = self.vm.create_vcpu(id).map_err(said("KVM_CREATE_VCPU"))?;
        let cpuid = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(said("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(said("KVM_SET_CPUID2"))?;
        let mut sregs = vcpu.get_sregs().map_err(said("KVM_GET_SREGS"))?;
        let task = STUB + guest::TASK;
        segments(&mut sregs, privilege, task, guest::TASK_LEN as u32 - 1);
        // AM, WP, NE, ET, MP; OSXMMEXCPT, OSFXSR; SCE. The context sets the rest.
        sregs.cr0 = 0x0005_0032;
        sregs.cr4 = 0x600;
        sregs.efer = 1;
        context.enter(&mut sregs);
        vcpu.set_sregs(&sregs).map_err(said("KVM_SET_SREGS"))?;
        let regs = kvm_regs {
            // The I/O privilege of user mode, and the bit that is always 1. Interrupts are off.
            rflags: 0x3002,
            ..regs
        };
        vcpu.set_regs(&regs).map_err(said("KVM_SET_REGS"))?;
        Ok(self.memory.enroll(vcpu))
    }
}

/// Whether a region has private pages at all.
pub(crate) fn keeps_private(region: &GuestRegion) -> bool {
    region.backing().name() != "plain"
}

/// The type of machine that the backing needs: the best one, or an ordinary one.
fn create(kvm: &Kvm, choice: Choice) -> Result<VmFd, Cannot> {
    if matches!(choice, Choice::Attributes | Choice::Best) {
        match kvm.create_vm_with_type(KVM_X86_SW_PROTECTED_VM.into()) {
            Ok(vm) => return Ok(vm),
            Err(error) if choice == Choice::Attributes => {
                return Err(Cannot::Kvm("KVM_CREATE_VM of type SW_PROTECTED", error));
            }
            Err(_) => {}
        }
    }
    kvm.create_vm().map_err(said("KVM_CREATE_VM"))
}

fn boxed(
    name: &'static str,
    backing: Result<impl Backing + 'static, strongroom_guest::Error>,
) -> Result<Box<dyn Backing>, Cannot> {
    match backing {
        Ok(backing) => Ok(Box::new(backing)),
        Err(error) => Err(Cannot::Backing(name, error)),
    }
}
