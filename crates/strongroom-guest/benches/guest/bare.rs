//! A virtual machine by KVM's bare calls: one processor in 64-bit user mode, which copies.

use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_MAX_CPUID_ENTRIES, KVM_MEM_GUEST_MEMFD, KVM_MP_STATE_RUNNABLE,
    KVM_X86_QUIRK_SLOT_ZAP_ALL, kvm_create_guest_memfd, kvm_enable_cap, kvm_mp_state, kvm_regs,
    kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};
use strongroom_guest::PAGE;
use strongroom_guest::kvm::{Privilege, segments};
use strongroom_sys::memory::{self, Advice};

pub(crate) const LARGE: usize = 2 << 20;
/// Code, task state and page tables.
const STUB: usize = LARGE;
const CODE: usize = 0x1000;
const ROOT: usize = 0x2000;
const TASK: usize = 0x1_0000;
const TASK_SIZE: usize = 0x68;
/// Where the buffer between the two sides is.
const BOUNCE: u64 = LARGE as u64;
/// rep movsq; out 0x10, al; then the same with rep stosq
const COPY: [u8; 5] = [0xf3, 0x48, 0xa5, 0xe6, 0x10];
const WIPE: [u8; 5] = [0xf3, 0x48, 0xab, 0xe6, 0x10];
const WIPE_AT: usize = CODE + COPY.len();

/// Memory of this process, from a multiple of 2 MiB, unmapped when it is dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    start: *mut u8,
    whole: (*mut u8, usize),
    len: usize,
}

impl Memory {
    fn new(len: usize, map: impl FnOnce(*mut u8)) -> Self {
        let wide = len + LARGE;
        // SAFETY: a new reservation.
        let start = unsafe { memory::reserve(memory::Place::Anywhere, wide) }.unwrap();
        let aligned = start.wrapping_add(start.align_offset(LARGE));
        map(aligned);
        Self {
            start: aligned,
            whole: (start, wide),
            len,
        }
    }

    /// Nothing: who touches it fails.
    pub(crate) fn nothing(len: usize) -> Self {
        Self::new(len, |_| ())
    }

    /// Zero, in large pages where the kernel has them.
    pub(crate) fn anonymous(len: usize) -> Self {
        Self::new(len, |start| {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: in the reservation, which nobody else has.
            unsafe {
                rustix::mm::mmap_anonymous(start.cast(), len, access, flags).unwrap();
                let _ = memory::advise(start, len, Advice::LinuxHugepage);
            }
        })
    }

    /// A file from its start.
    pub(crate) fn file(file: BorrowedFd<'_>, len: usize) -> Self {
        Self::new(len, |start| {
            let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: in the reservation, which nobody else has.
            unsafe { rustix::mm::mmap(start.cast(), len, access, flags, file, 0) }.unwrap();
        })
    }

    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len);
        self.start.wrapping_add(offset)
    }

    /// Sets bytes.
    pub(crate) fn fill(&self, offset: usize, len: usize, value: u8) {
        assert!(offset + len <= self.len);
        // SAFETY: within the memory, which is raw bytes to all who use it.
        unsafe { core::ptr::write_bytes(self.at(offset), value, len) };
    }

    pub(crate) fn copy(&self, offset: usize, from: &Memory, start: usize, len: usize) {
        assert!(offset + len <= self.len && start + len <= from.len);
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(from.at(start), self.at(offset), len) };
    }

    fn put(&self, offset: usize, value: u64) {
        assert!(offset + 8 <= self.len);
        // SAFETY: as above; unaligned where it must be.
        unsafe { self.at(offset).cast::<u64>().write_unaligned(value) };
    }

    /// Drops page-table entries of a file's mapping.
    pub(crate) fn forget(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.len);
        // SAFETY: of a shared file nothing is lost.
        unsafe { memory::advise(self.at(offset), len, Advice::LinuxDontNeed) }.unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and used by nobody any more.
        unsafe { memory::unmap(self.whole.0, self.whole.1) }.unwrap();
    }
}

/// A virtual machine, its processor and the buffer that it copies to and from.
pub(crate) struct Bare {
    pub(crate) vm: VmFd,
    vcpu: VcpuFd,
    pub(crate) bounce: Memory,
    _stub: Memory,
}

/// The memory of a slot.
pub(crate) enum Source<'a> {
    Nothing,
    Address(*mut u8),
    File(BorrowedFd<'a>, usize, *mut u8),
}

impl Bare {
    pub(crate) fn new(kvm: &Kvm, type_: u64) -> Option<Self> {
        let vm = kvm.create_vm_with_type(type_).ok()?;
        let _ = vm.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_DISABLE_QUIRKS2,
            args: [u64::from(KVM_X86_QUIRK_SLOT_ZAP_ALL), 0, 0, 0],
            ..Default::default()
        });
        let (stub, bounce) = (Memory::anonymous(STUB), Memory::anonymous(LARGE));
        for (n, byte) in COPY.iter().chain(&WIPE).enumerate() {
            stub.fill(CODE + n, 1, *byte);
        }
        stub.put(TASK + 96, (TASK_SIZE as u64) << 48);
        // One to one, 4 GiB, in pages of 2 MiB; for user mode, accessed and dirty.
        stub.put(ROOT, (ROOT + PAGE) as u64 | 0x27);
        for gib in 0..4 {
            let table = ROOT + (2 + gib) * PAGE;
            stub.put(ROOT + PAGE + gib * 8, table as u64 | 0x27);
            for large in 0..512 {
                let address = (gib * 512 + large) as u64 * LARGE as u64;
                stub.put(table + large * 8, address | 0xe7);
            }
        }
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut bare = Self {
            vm,
            vcpu,
            bounce,
            _stub: stub,
        };
        bare.slot(0, 0, STUB, Source::Address(bare._stub.at(0)));
        bare.slot(1, BOUNCE, LARGE, Source::Address(bare.bounce.at(0)));
        bare.arrange(kvm);
        Some(bare)
    }

    fn arrange(&mut self, kvm: &Kvm) {
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        self.vcpu.set_cpuid2(&cpuid).unwrap();
        let mut sregs = self.vcpu.get_sregs().unwrap();
        let limit = (TASK_SIZE + 0x2000) as u32;
        segments(&mut sregs, Privilege::User, TASK as u64, limit);
        (sregs.cr0, sregs.cr4, sregs.efer) = (0x8005_0033, 0x620, 0xd01);
        sregs.cr3 = ROOT as u64;
        self.vcpu.set_sregs(&sregs).unwrap();
        let mp_state = KVM_MP_STATE_RUNNABLE;
        let _ = self.vcpu.set_mp_state(kvm_mp_state { mp_state });
    }

    /// A file of guest memory.
    pub(crate) fn guest_memfd(&self, len: usize, flags: u64) -> Option<OwnedFd> {
        let wanted = kvm_create_guest_memfd {
            size: len as u64,
            flags,
            ..Default::default()
        };
        let fd = self.vm.create_guest_memfd(wanted).ok()?;
        // SAFETY: the kernel just gave it to us alone.
        Some(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Sets a slot, or deletes it. The memory must outlive the machine.
    pub(crate) fn slot(&self, number: u32, start: u64, len: usize, source: Source) {
        let mut region = kvm_userspace_memory_region2 {
            slot: number,
            guest_phys_addr: start,
            memory_size: len as u64,
            ..Default::default()
        };
        match source {
            Source::Nothing => region.memory_size = 0,
            Source::Address(address) => region.userspace_addr = address as u64,
            Source::File(file, offset, address) => {
                region.userspace_addr = address as u64;
                region.guest_memfd = file.as_raw_fd().cast_unsigned();
                region.guest_memfd_offset = offset as u64;
                region.flags = KVM_MEM_GUEST_MEMFD;
            }
        }
        // SAFETY: as all callers drop the machine before the memory, which is raw bytes.
        unsafe { self.vm.set_user_memory_region2(region) }.unwrap();
    }

    /// Copies from the buffer to guest memory.
    pub(crate) fn store(&mut self, to: u64, len: usize) {
        self.go(CODE, BOUNCE, to, len);
    }

    /// Copies from guest memory to the buffer.
    pub(crate) fn load(&mut self, from: u64, len: usize) {
        self.go(CODE, from, BOUNCE, len);
    }

    /// Sets guest memory to zero.
    pub(crate) fn wipe(&mut self, address: u64, len: usize) {
        self.go(WIPE_AT, 0, address, len);
    }

    fn go(&mut self, code: usize, from: u64, to: u64, len: usize) {
        let regs = kvm_regs {
            rip: code as u64,
            rsi: from,
            rdi: to,
            rcx: (len / 8) as u64,
            rflags: 0x3002,
            ..Default::default()
        };
        self.vcpu.set_regs(&regs).unwrap();
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(0x10, _)) => return,
                Ok(VcpuExit::Intr) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(matches!(error.errno(), libc::EINTR | libc::EAGAIN)),
            }
        }
    }
}
