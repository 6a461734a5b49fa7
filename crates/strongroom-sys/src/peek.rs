//! Looking into another process, and the calls that pin pages: for attackers and their victims.

use crate::{Errno, PAGE, driver, page_floor, raw};
use core::ffi::c_void;
use core::mem::size_of;
use core::sync::atomic::{AtomicU32, Ordering};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Pid, WaitOptions};

#[repr(C)]
struct Range {
    start: usize,
    len: usize,
}

/// process_vm_readv(2) of one range; returns how many bytes arrived.
///
/// # Errors
/// EPERM where the caller may not, EFAULT where the kernel cannot reach the memory, ESRCH.
pub fn vm_read(pid: i32, address: usize, into: &mut [u8]) -> Result<usize, Errno> {
    let local = Range {
        start: into.as_mut_ptr() as usize,
        len: into.len(),
    };
    let remote = Range {
        start: address,
        len: into.len(),
    };
    let arguments = [
        pid as usize,
        core::ptr::from_ref(&local) as usize,
        1,
        core::ptr::from_ref(&remote) as usize,
        1,
        0,
    ];
    // SAFETY: `local` describes `into`, which is writable for its whole length; the remote
    // range is the kernel's to check.
    raw::check(unsafe { raw::syscall(libc::SYS_process_vm_readv as usize, arguments) })
}

/// Attaches by ptrace, reads by PTRACE_PEEKDATA word after word, and detaches.
///
/// # Errors
/// EPERM where the caller may not attach, EIO where the kernel cannot reach the memory, ESRCH.
pub fn ptrace_read(pid: i32, address: usize, into: &mut [u8]) -> Result<(), Errno> {
    let process = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    let request = |request: u32, address: usize, data: usize| {
        let arguments = [request as usize, pid as usize, address, data, 0, 0];
        // SAFETY: `data` is 0, a number, or, for PTRACE_PEEKDATA, the address of a word.
        raw::check(unsafe { raw::syscall(libc::SYS_ptrace as usize, arguments) })
    };
    request(libc::PTRACE_SEIZE, 0, 0)?;
    request(libc::PTRACE_INTERRUPT, 0, 0)?;
    while let Err(Errno::INTR) = rustix::process::waitpid(Some(process), WaitOptions::empty()) {}
    let mut read = Ok(());
    for (word, chunk) in into.chunks_mut(size_of::<usize>()).enumerate() {
        let mut value = 0usize;
        let from = address + word * size_of::<usize>();
        // The system call, unlike libc's function, stores the word at `data`.
        read = request(
            libc::PTRACE_PEEKDATA,
            from,
            core::ptr::from_mut(&mut value) as usize,
        )
        .map(|_| ());
        if read.is_err() {
            break;
        }
        chunk.copy_from_slice(&value.to_ne_bytes()[..chunk.len()]);
    }
    request(libc::PTRACE_DETACH, 0, 0)?;
    read
}

/// A descriptor of another process (pidfd_open, pidfd_getfd).
///
/// # Errors
/// EPERM where the caller may not trace it, EBADF where there is no such descriptor, ESRCH.
pub fn take_descriptor(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd, Errno> {
    let arguments = [pidfd.as_raw_fd() as usize, number as usize, 0, 0, 0, 0];
    // SAFETY: pidfd_getfd takes no pointer.
    let fd = raw::check(unsafe { raw::syscall(libc::SYS_pidfd_getfd as usize, arguments) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// KVM_CREATE_VCPU: a processor of a virtual machine, by the machine's descriptor.
///
/// # Errors
/// EIO where the machine is another process's.
pub fn add_processor(machine: impl AsFd, number: usize) -> Result<OwnedFd, Errno> {
    // include/uapi/linux/kvm.h.
    const CREATE_VCPU: usize = 0xae41;
    let machine = machine.as_fd().as_raw_fd() as usize;
    let arguments = [machine, CREATE_VCPU, number, 0, 0, 0];
    // SAFETY: the request takes a number.
    let fd = raw::check(unsafe { raw::syscall(libc::SYS_ioctl as usize, arguments) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// pidfd_open(2).
///
/// # Errors
/// ESRCH; ENOSYS before Linux 5.3.
pub fn process_descriptor(pid: i32) -> Result<OwnedFd, Errno> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
}

/// process_madvise(2) with MADV_PAGEOUT: the kernel is asked to write another process's pages out to
/// swap, or back to their files.
///
/// # Errors
/// EINVAL for locked memory, EPERM without CAP_SYS_NICE, ESRCH; ENOSYS before Linux 5.10.
pub fn page_out(pidfd: BorrowedFd<'_>, address: usize, len: usize) -> Result<(), Errno> {
    let range = Range {
        start: address,
        len,
    };
    let arguments = [
        pidfd.as_raw_fd() as usize,
        core::ptr::from_ref(&range) as usize,
        1,
        libc::MADV_PAGEOUT as usize,
        0,
        0,
    ];
    // SAFETY: `range` is read only; this advice keeps the contents of what it names.
    raw::check(unsafe { raw::syscall(libc::SYS_process_madvise as usize, arguments) }).map(|_| ())
}

/// Copies memory that is known by its address alone, as a system call of this process sees it. Pages
/// that it cannot read are left out of `into`, which should be zero. Returns how many bytes it could read.
///
/// # Errors
/// Those of pipe and write, but for EFAULT.
pub fn copy_by_kernel(address: usize, into: &mut [u8]) -> Result<usize, Errno> {
    const PIPE: usize = 64 << 10;
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
    let (reads, writes) = rustix::pipe::pipe_with(flags)?;
    let (mut at, mut total) = (0, 0);
    while at < into.len() {
        let len = PIPE.min(into.len() - at);
        let written = match write_from(&writes, address.wrapping_add(at), len) {
            Ok(0) | Err(Errno::FAULT) => {
                // On to the next page.
                at = page_floor(address.wrapping_add(at))
                    .wrapping_add(PAGE)
                    .wrapping_sub(address);
                continue;
            }
            Ok(written) => written,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        let end = at + written;
        while at < end {
            let place = into.get_mut(at..end).unwrap_or_default();
            at += rustix::io::read(&reads, place)?;
        }
        total += written;
    }
    Ok(total)
}

/// A mapping of a whole file, or of its first bytes: writable where the file is, as who pins pages for a
/// device asks for that; nobody writes.
#[derive(Debug)]
pub struct MappedFile {
    start: *mut c_void,
    len: usize,
}

impl MappedFile {
    /// Maps it: shared, or privately. An object of the kernel driver does not say how long it is: `most` of it, or
    /// half of that, and so on.
    ///
    /// # Errors
    /// Those of fstat and mmap; EINVAL for an empty file.
    pub fn new(file: impl AsFd, most: usize, shared: bool) -> Result<Self, Errno> {
        let size = rustix::fs::fstat(&file)?.st_size;
        let mut len = usize::try_from(size).map_err(|_| Errno::INVAL)?.min(most);
        if len == 0 {
            if !driver::is_object(&file) {
                return Err(Errno::INVAL);
            }
            len = most;
            while len > PAGE {
                match Self::of(&file, len, shared) {
                    Err(Errno::INVAL) => len = page_floor(len / 2).max(PAGE),
                    result => return result,
                }
            }
        }
        Self::of(file, len, shared)
    }

    fn of(file: impl AsFd, len: usize, shared: bool) -> Result<Self, Errno> {
        let flags = if shared {
            MapFlags::SHARED
        } else {
            MapFlags::PRIVATE
        };
        let map = |access| {
            // SAFETY: a new mapping replaces nothing.
            unsafe { rustix::mm::mmap(core::ptr::null_mut(), len, access, flags, &file, 0) }
        };
        let start = match map(ProtFlags::READ | ProtFlags::WRITE) {
            Err(Errno::ACCESS | Errno::PERM) => map(ProtFlags::READ),
            result => result,
        }?;
        Ok(Self { start, len })
    }

    /// Where it begins. A page may be such that a touch of it is a fault.
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// How long it is, in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes. It always has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and its address is used by nobody who does not hold this.
        let _ = unsafe { rustix::mm::munmap(self.start, self.len) };
    }
}

/// A file, or a secret file, as a copy of what a shared mapping of it shows. Pages that cannot be had are
/// zero.
///
/// # Errors
/// Those of fstat, mmap and pipe; EINVAL for an empty file.
pub fn copy_by_mapping(file: impl AsFd, most: usize) -> Result<Vec<u8>, Errno> {
    let mapping = MappedFile::new(file, most, true)?;
    let mut bytes = vec![0; mapping.len()];
    copy_by_kernel(mapping.start(), &mut bytes)?;
    Ok(bytes)
}

/// vmsplice(2) of one range into a pipe: the pipe then refers to the pages themselves.
///
/// # Errors
/// EFAULT where the pages cannot be pinned, EBADF where `pipe` is none.
///
/// # Safety
/// The range must be the caller's, and readable.
pub unsafe fn vmsplice(pipe: impl AsFd, start: *const u8, len: usize) -> Result<usize, Errno> {
    let range = Range {
        start: start as usize,
        len,
    };
    let pipe = pipe.as_fd().as_raw_fd() as usize;
    let arguments = [pipe, core::ptr::from_ref(&range) as usize, 1, 0, 0, 0];
    // SAFETY: one range, which the caller vouches for.
    raw::check(unsafe { raw::syscall(libc::SYS_vmsplice as usize, arguments) })
}

/// write(2) of memory that is known by its address alone; it need not be mapped.
///
/// # Errors
/// EFAULT where it is not; those of write.
pub fn write_from(file: impl AsFd, address: usize, len: usize) -> Result<usize, Errno> {
    let file = file.as_fd().as_raw_fd() as usize;
    // SAFETY: the kernel only reads, and checks the range itself.
    raw::check(unsafe { raw::syscall(libc::SYS_write as usize, [file, address, len, 0, 0, 0]) })
}

/// send(2) of memory that is known by its address alone; it need not be mapped.
///
/// # Errors
/// EFAULT where it is not; those of send.
pub fn send_from(socket: impl AsFd, address: usize, len: usize) -> Result<usize, Errno> {
    let socket = socket.as_fd().as_raw_fd() as usize;
    let arguments = [socket, address, len, libc::MSG_DONTWAIT as usize, 0, 0];
    // SAFETY: the kernel only reads, and checks the range itself.
    raw::check(unsafe { raw::syscall(libc::SYS_sendto as usize, arguments) })
}

/// read(2) into memory that is known by its address alone.
///
/// # Errors
/// Those of read.
///
/// # Safety
/// The range must be the caller's to write.
pub unsafe fn read_into(file: impl AsFd, start: *mut u8, len: usize) -> Result<usize, Errno> {
    let file = file.as_fd().as_raw_fd() as usize;
    let arguments = [file, start as usize, len, 0, 0, 0];
    // SAFETY: the caller's promise.
    raw::check(unsafe { raw::syscall(libc::SYS_read as usize, arguments) })
}

/// An io_uring with a queue of one.
#[derive(Debug)]
pub struct Ring {
    file: OwnedFd,
    /// struct io_uring_params, as the kernel filled it in.
    parameters: [u32; 30],
}

// Where struct io_uring_params has what is needed of it, in words of 32 bits.
const SQ_ENTRIES: usize = 0;
const CQ_ENTRIES: usize = 1;
const SQ_TAIL: usize = 11;
const SQ_ARRAY: usize = 16;
const CQ_CQES: usize = 25;

impl Ring {
    /// io_uring_setup(2) with the smallest queue.
    ///
    /// # Errors
    /// ENOSYS or EPERM where io_uring is absent or switched off; ENOMEM.
    pub fn new() -> Result<Self, Errno> {
        // All zero for no options.
        let mut parameters = [0; 30];
        let arguments = [1, parameters.as_mut_ptr() as usize, 0, 0, 0, 0];
        // SAFETY: the kernel reads and writes one io_uring_params, as large as `parameters`.
        let fd = raw::check(unsafe { raw::syscall(libc::SYS_io_uring_setup as usize, arguments) })?;
        // SAFETY: the kernel just gave this descriptor to us alone.
        let file = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { file, parameters })
    }

    /// How large struct io_uring_params is, in bytes.
    pub const PARAMETERS: usize = 120;

    /// A ring that was set up elsewhere, by its descriptor and what the kernel said of it then.
    pub fn taken(file: OwnedFd, parameters: &[u8; Self::PARAMETERS]) -> Self {
        let mut words = [0; 30];
        for (word, bytes) in words.iter_mut().zip(parameters.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self {
            file,
            parameters: words,
        }
    }

    fn parameter(&self, index: usize) -> usize {
        self.parameters[index] as usize
    }

    fn fd(&self) -> usize {
        self.file.as_raw_fd() as usize
    }

    /// IORING_REGISTER_BUFFERS with one buffer: its pages stay pinned while the ring lives.
    ///
    /// # Errors
    /// EFAULT where the pages cannot be pinned; ENOMEM past RLIMIT_MEMLOCK.
    ///
    /// # Safety
    /// The range must be the caller's.
    pub unsafe fn register_buffer(&self, start: *mut u8, len: usize) -> Result<(), Errno> {
        const REGISTER_BUFFERS: usize = 0;
        let range = Range {
            start: start as usize,
            len,
        };
        let range = core::ptr::from_ref(&range) as usize;
        let arguments = [self.fd(), REGISTER_BUFFERS, range, 1, 0, 0];
        // SAFETY: the kernel reads one iovec; the pages are the caller's.
        raw::check(unsafe { raw::syscall(libc::SYS_io_uring_register as usize, arguments) })?;
        Ok(())
    }

    /// IORING_OP_WRITE_FIXED: writes the registered buffer, by its pinned pages, and waits for
    /// that. Once only.
    ///
    /// # Errors
    /// Those of mapping the queues and of the write.
    pub fn write_fixed(&self, to: impl AsFd, start: *const u8, len: u32) -> Result<usize, Errno> {
        const OFF_SQ_RING: u64 = 0;
        const OFF_CQ_RING: u64 = 0x800_0000;
        const OFF_SQES: u64 = 0x1000_0000;
        const WRITE_FIXED: u64 = 5;
        const GET_EVENTS: usize = 1;
        let submissions = self.map(
            OFF_SQ_RING,
            self.parameter(SQ_ARRAY) + self.parameter(SQ_ENTRIES) * 4,
        )?;
        let completions = self.map(
            OFF_CQ_RING,
            self.parameter(CQ_CQES) + self.parameter(CQ_ENTRIES) * 16,
        )?;
        let entries = self.map(OFF_SQES, self.parameter(SQ_ENTRIES) * 64)?;
        let to = to.as_fd().as_raw_fd() as u32;
        // struct io_uring_sqe: opcode and descriptor, offset, address, length, tag, buffer's index.
        let entry = [
            WRITE_FIXED | u64::from(to) << 32,
            0,
            start as u64,
            u64::from(len),
            0,
            0,
            0,
            0,
        ];
        // SAFETY: the queue has one entry of this size, an index of it at SQ_ARRAY and its tail at
        // SQ_TAIL, in what is mapped above; the kernel looks at them in the system call below.
        unsafe {
            entries.cast::<[u64; 8]>().write(entry);
            let index = submissions.byte_add(self.parameter(SQ_ARRAY));
            index.cast::<u32>().write(0);
            let tail = submissions.byte_add(self.parameter(SQ_TAIL));
            AtomicU32::from_ptr(tail.cast()).store(1, Ordering::Release);
        }
        let arguments = [self.fd(), 1, 1, GET_EVENTS, 0, 0];
        // SAFETY: the one request reads the registered buffer, which the kernel has pinned and
        // whose bounds it checks.
        raw::check(unsafe { raw::syscall(libc::SYS_io_uring_enter as usize, arguments) })?;
        // SAFETY: the call has waited for the completion, whose result follows its 8 bytes of tag.
        let result = unsafe {
            let first = completions.byte_add(self.parameter(CQ_CQES) + 8);
            first.cast::<i32>().read_volatile()
        };
        raw::check(result as isize)
    }

    /// A part of the ring's memory. It stays mapped.
    fn map(&self, offset: u64, len: usize) -> Result<*mut c_void, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping replaces nothing.
        unsafe {
            rustix::mm::mmap(
                core::ptr::null_mut(),
                len,
                access,
                flags,
                &self.file,
                offset,
            )
        }
    }
}

/// PR_SET_PTRACER with PR_SET_PTRACER_ANY: Yama's scope 1 then keeps nobody off.
pub fn let_anyone_trace() {
    // Where there is no Yama it means nothing.
    let _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
}
