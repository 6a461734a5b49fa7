//! A machine of one processor: some shared memory with the guest's program, and guest memory of a backing.

use super::Kept;
use super::program::{self, ANSWER, Command, DONE};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_X86_SW_PROTECTED_VM, kvm_regs};
use kvm_ioctls::{Kvm, VcpuExit, VmFd};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use strongroom_guest::backing::{Backing, Plain};
use strongroom_guest::kvm::exit::Outcome;
use strongroom_guest::kvm::request::{Function, KEEP, PORT};
use strongroom_guest::kvm::{self, Desk, Layout, Limits, Privilege, Vcpu, segments};
use strongroom_guest::{Contents, GuestRam, GuestRegion, PAGE, Side};
use strongroom_probe::victim::{LENGTH, Monitor, OFFSET, UnderSlice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Where the guest's memory is, and how long it is, in bytes.
const RAM: u64 = 1 << 30;
const LEN: usize = 2 << 20;
/// Shared memory of its own, from address 0: code, commands, what secrets are made from, a task state
/// whose map allows all ports, and page tables.
const STUB: usize = 2 << 20;
const CODE: u64 = 0x1000;
const COMMANDS: u64 = 0x2000;
const SEED: u64 = 0x3000;
const TASK: u64 = 0x4000;
const TASK_LIMIT: u32 = 0x68 + 0x2000;
const ROOT: u64 = 0x8000;

/// A monitor and its guest.
pub(in crate::attack) struct Machine {
    vcpu: Vcpu,
    desk: Desk,
    ram: Arc<GuestRam>,
    kept: Kept,
    /// As monitors have it open.
    _kvm: Kvm,
}

/// For `map_err`: what failed, and why.
fn because<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

/// KVM itself: inherited, or opened.
fn device(inherited: Option<i32>) -> Result<Kvm, String> {
    let Some(number) = inherited else {
        return Kvm::new().map_err(because("there is no KVM for this user: /dev/kvm"));
    };
    // SAFETY: the parent gave the descriptor to this process, which has nothing else that owns it.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC).map_err(because("/dev/kvm"))?;
    // SAFETY: an open /dev/kvm, which nobody else owns.
    Ok(unsafe { Kvm::from_raw_fd(file.into_raw_fd()) })
}

impl Machine {
    /// Starts it.
    pub(in crate::attack) fn new(kept: Kept, inherited: Option<i32>) -> Result<Self, String> {
        let kvm = device(inherited)?;
        let vm = match kept {
            Kept::Attributes => kvm.create_vm_with_type(KVM_X86_SW_PROTECTED_VM.into()),
            _ => kvm.create_vm(),
        };
        let vm = match kept {
            Kept::Attributes => vm.map_err(because("a machine of the type SW_PROTECTED")),
            _ => vm.map_err(because("KVM_CREATE_VM")),
        }?;
        let vm = Arc::new(vm);
        let machine = kvm::Machine::new(&kvm, Arc::clone(&vm), Layout::of(&kvm))
            .map_err(because("the machine"))?;
        let backing = kept
            .backing(&machine, LEN)
            .map_err(because("this backing cannot be had here"))?;
        if kept == Kept::Plain
            && let Some(file) = backing.shared_file()
        {
            // Open past exec, too, as a descriptor is unless somebody thinks of it.
            rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())
                .map_err(because("fcntl"))?;
        }
        let mut regions = Vec::new();
        let stub = Plain::new(STUB).map_err(because("memory"))?;
        let stub: Box<dyn Backing> = Box::new(stub);
        for (start, backing) in [(0, stub), (RAM, backing)] {
            let region = GuestRegion::new(start, backing).map_err(because("a region"))?;
            region.place(&machine).map_err(because("a slot"))?;
            regions.push(region);
        }
        let ram = GuestRam::from_regions(regions).map_err(because("the guest's memory"))?;
        let ram = Arc::new(ram);
        load(&ram).map_err(because("loading the guest"))?;
        Ok(Self {
            vcpu: machine.enroll(processor(&kvm, &vm)?),
            desk: Desk::new(Arc::clone(&ram), Limits::default()),
            ram,
            kept,
            _kvm: kvm,
        })
    }

    fn region(&self) -> Result<&GuestRegion, String> {
        let region = self.ram.find_region(GuestAddress(RAM));
        region.ok_or_else(|| "the guest has no memory".to_owned())
    }

    /// Has the guest do something, and returns its answer.
    fn tell(&mut self, command: Command, arguments: [u64; 4]) -> Result<u64, String> {
        let words = [&[command as u64], arguments.as_slice()].concat();
        for (index, word) in words.into_iter().enumerate() {
            let at = GuestAddress(COMMANDS + index as u64 * 8);
            self.ram.write_obj(word, at).map_err(because("commands"))?;
        }
        loop {
            match self.vcpu.run().map_err(because("the processor"))? {
                None => {}
                Some(VcpuExit::IoOut(DONE, _)) => {
                    let answer = GuestAddress(COMMANDS + ANSWER);
                    return self.ram.read_obj(answer).map_err(because("commands"));
                }
                Some(VcpuExit::IoOut(PORT, _)) => {
                    self.desk
                        .serve(&self.vcpu)
                        .map_err(because("the guest's request"))?;
                }
                Some(VcpuExit::MemoryFault { flags, gpa, size }) => {
                    if let Outcome::Stop(why) = self.desk.fault(flags, gpa, size) {
                        return Err(why.to_string());
                    }
                }
                Some(exit) => return Err(format!("the guest left by {exit:?}")),
            }
        }
    }
}

/// Puts the program, its page tables and its task state in place.
fn load(ram: &GuestRam) -> Result<(), vm_memory::GuestMemoryError> {
    // Of page-table entries: present, writable, for user mode, accessed and dirty; 2 MiB.
    const TABLE: u64 = 0x27;
    const LARGE: u64 = 0xe7;
    let page = PAGE as u64;
    let put = |at: u64, value: u64| ram.write_obj(value, GuestAddress(at));
    ram.write_slice(program::code(), GuestAddress(CODE))?;
    put(TASK + 96, 0x68 << 48)?;
    // One to one, 2 GiB.
    put(ROOT, (ROOT + page) | TABLE)?;
    for gib in 0..2 {
        let table = ROOT + (2 + gib) * page;
        put(ROOT + page + gib * 8, table | TABLE)?;
        for large in 0..512 {
            let address = (gib * 512 + large) << 21;
            put(table + large * 8, address | LARGE)?;
        }
    }
    Ok(())
}

/// A processor in 64-bit user mode, at the program.
fn processor(kvm: &Kvm, vm: &VmFd) -> Result<kvm_ioctls::VcpuFd, String> {
    let fd = vm.create_vcpu(0).map_err(because("KVM_CREATE_VCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(because("KVM_GET_SUPPORTED_CPUID"))?;
    fd.set_cpuid2(&cpuid).map_err(because("KVM_SET_CPUID2"))?;
    let mut sregs = fd.get_sregs().map_err(because("KVM_GET_SREGS"))?;
    segments(&mut sregs, Privilege::User, TASK, TASK_LIMIT);
    (sregs.cr0, sregs.cr4, sregs.efer) = (0x8005_0033, 0x620, 0xd01);
    sregs.cr3 = ROOT;
    fd.set_sregs(&sregs).map_err(because("KVM_SET_SREGS"))?;
    fd.set_regs(&kvm_regs {
        rip: CODE,
        r15: COMMANDS,
        rflags: 0x3002,
        ..Default::default()
    })
    .map_err(because("KVM_SET_REGS"))?;
    Ok(fd)
}

fn address(page: usize) -> u64 {
    RAM + (page * PAGE) as u64
}

/// Where in a page the secret is.
fn secret(page: usize) -> u64 {
    address(page) + OFFSET as u64
}

impl Monitor for Machine {
    fn view(&self, page: usize) -> usize {
        self.region()
            .map_or(0, |region| region.backing().host() as usize + page * PAGE)
    }

    fn guest_address(&self, page: usize) -> u64 {
        address(page)
    }

    fn hide(&mut self, page: usize) -> Result<(), String> {
        // These have no private pages: the guest uses them as they are.
        if matches!(self.kept, Kept::Plain | Kept::Driver) {
            return Ok(());
        }
        let length = PAGE as u64;
        // Where a page is the same memory on both sides, it stays that one.
        let arguments = [Function::Hide as u64, address(page), length, KEEP];
        match self.tell(Command::Ask, arguments)?.cast_signed() {
            0 => Ok(()),
            refusal => Err(format!("the guest is told {refusal}")),
        }
    }

    fn make_secret(&mut self, page: usize, seed: &[u8; LENGTH]) -> Result<(), String> {
        self.ram
            .write_slice(seed, GuestAddress(SEED))
            .map_err(because("what the secret is made from"))?;
        self.tell(Command::Make, [secret(page), SEED, 0, 0])
            .map(|_| ())
    }

    fn copy_secret(&mut self, from: usize, to: usize, key: u64) -> Result<(), String> {
        self.tell(Command::Copy, [secret(to), secret(from), key, 0])
            .map(|_| ())
    }

    fn hash(&mut self, page: usize) -> Result<u64, String> {
        self.tell(Command::Hash, [secret(page), 0, 0, 0])
    }

    fn hide_under_slice(&mut self, from: usize, page: usize) -> Result<UnderSlice, String> {
        let ram = Arc::clone(&self.ram);
        std::thread::scope(|scope| {
            let (say, asked) = channel();
            let (answer, heard) = channel();
            let device = std::thread::Builder::new()
                .spawn_scoped(scope, move || hold_slice(&ram, page, &asked, &answer));
            device.map_err(because("a thread"))?;
            let hear = || heard.recv().map_err(|_| "the device has ended".to_owned());
            hear()??;
            let refused = match self.hide(page) {
                Ok(()) => {
                    self.copy_secret(from, page, 0)?;
                    None
                }
                // The guest learns a number; who is in the way the monitor is told.
                Err(told) => Some(format!("{told}, {}", self.in_the_way(page)?)),
            };
            say.send(()).map_err(because("the device"))?;
            let read = hear()??;
            if refused.is_some() {
                self.hide(page)?;
                self.copy_secret(from, page, 0)?;
            }
            let again = self.slice_again(page);
            Ok(UnderSlice {
                refused,
                read,
                again,
            })
        })
    }

    fn receipt(&self) -> Option<String> {
        serde_json::to_string(&self.region().ok()?.receipt()).ok()
    }
}

impl Machine {
    /// Who is in the way of a page's conversion.
    fn in_the_way(&self, page: usize) -> Result<String, String> {
        let bytes = page * PAGE..(page + 1) * PAGE;
        let result = self
            .region()?
            .convert(bytes, Side::Private, Contents::Kept, Duration::ZERO);
        match result {
            Ok(()) => Err("a conversion that was refused was done".to_owned()),
            Err(error) => Ok(error.to_string()),
        }
    }

    /// What comes of another slice; nothing where there is one.
    fn slice_again(&self, page: usize) -> Option<String> {
        let slice = self.ram.get_slice(GuestAddress(address(page)), PAGE);
        let error = slice.err()?;
        Some(match strongroom_guest::ram::cause(&error) {
            Some(error) => error.to_string(),
            None => error.to_string(),
        })
    }
}

/// A device: it takes a slice, says so, and reads by it once it is asked.
fn hold_slice(
    ram: &GuestRam,
    page: usize,
    asked: &Receiver<()>,
    answer: &Sender<Result<Vec<u8>, String>>,
) {
    let slice = ram.get_slice(GuestAddress(address(page)), PAGE);
    let slice = match slice {
        Ok(slice) => slice,
        Err(error) => {
            let _ = answer.send(Err(format!("a slice of a shared page: {error}")));
            return;
        }
    };
    let _ = answer.send(Ok(Vec::new()));
    if asked.recv().is_ok() {
        let mut bytes = vec![0; PAGE];
        slice.copy_to(&mut bytes);
        drop(slice);
        let _ = answer.send(Ok(bytes));
    }
}
