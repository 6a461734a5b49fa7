//! Reading the kernel's memory: an eBPF program of type SYSCALL, run by hand.
//!
//! The program is assembled here, so no compiler, library or BTF is needed. It needs
//! CAP_BPF and CAP_PERFMON, and a kernel that is not locked down for confidentiality.

use crate::{Errno, PAGE, raw};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};

// include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: usize = 0;
const BPF_MAP_LOOKUP_ELEM: usize = 1;
const BPF_PROG_LOAD: usize = 5;
const BPF_PROG_TEST_RUN: usize = 10;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SYSCALL: u32 = 31;
/// A program of type SYSCALL must be sleepable.
const BPF_F_SLEEPABLE: u32 = 1 << 4;
const BPF_PSEUDO_MAP_VALUE: u8 = 2;
const BPF_FUNC_GET_CURRENT_TASK: i32 = 35;
const BPF_FUNC_PROBE_READ_KERNEL: i32 = 113;

/// The context: what the program is given and what it leaves there.
const ADDRESS: usize = 0;
const STATUS: usize = 1;
const TASK: usize = 2;
const CONTEXT: usize = 3;

/// No program that ran leaves this as its status.
const NOT_RUN: u64 = 1 << 32;

/// A loaded program that reads pages of kernel memory.
#[derive(Debug)]
pub struct KernelReader {
    program: OwnedFd,
    /// An array of one page, which the program fills.
    page: OwnedFd,
}

impl KernelReader {
    /// Loads the program.
    ///
    /// # Errors
    /// EPERM without the capabilities; EPERM or EINVAL under lockdown; ENOSYS; EINVAL before Linux 5.14.
    pub fn load() -> Result<Self, Errno> {
        let mut create = BPF_MAP_TYPE_ARRAY.to_ne_bytes().to_vec();
        for field in [size_of::<u32>() as u32, PAGE as u32, 1] {
            create.extend(field.to_ne_bytes());
        }
        // SAFETY: BPF_MAP_CREATE, as far as it is given here, takes no pointer.
        let page = unsafe { descriptor(BPF_MAP_CREATE, &mut create) }?;

        // eBPF calls take r1 to r5 and return r0; r6 to r9 survive them. r1 is the context.
        let program = [
            // r6 = r1
            instruction(0xbf, 6, 1, 0, 0),
            // r7 = &page
            instruction(0x18, 7, BPF_PSEUDO_MAP_VALUE, 0, page.as_raw_fd()),
            0,
            // context.task = bpf_get_current_task()
            instruction(0x85, 0, 0, 0, BPF_FUNC_GET_CURRENT_TASK),
            instruction(0x7b, 6, 0, TASK * 8, 0),
            // context.status = bpf_probe_read_kernel(&page, PAGE, context.address)
            instruction(0x79, 3, 6, ADDRESS * 8, 0),
            instruction(0xbf, 1, 7, 0, 0),
            instruction(0xb7, 2, 0, 0, PAGE as i32),
            instruction(0x85, 0, 0, 0, BPF_FUNC_PROBE_READ_KERNEL),
            instruction(0x7b, 6, 0, STATUS * 8, 0),
            // return 0
            instruction(0xb7, 0, 0, 0, 0),
            instruction(0x95, 0, 0, 0, 0),
        ];
        let program = load(&program)?;
        Ok(Self { program, page })
    }

    /// Reads the page of kernel memory at `address` into `to`.
    ///
    /// # Errors
    /// FAULT where nothing is mapped there; RANGE where it is no kernel address;
    /// IO where the program did not run; those of bpf(2).
    pub fn read(&self, address: u64, to: &mut [u8; PAGE]) -> Result<(), Errno> {
        self.reach(address)?;
        let key = 0u32;
        let mut lookup = u64::from(self.page.as_raw_fd().cast_unsigned())
            .to_ne_bytes()
            .to_vec();
        lookup.extend((&raw const key as u64).to_ne_bytes());
        lookup.extend((to.as_mut_ptr() as u64).to_ne_bytes());
        // SAFETY: the kernel reads the key and writes one value of the array, a page, to `to`.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut lookup) }?;
        Ok(())
    }

    /// Reads a page at a kernel address as [`Self::read`] does, and leaves what it read in the kernel.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn reach(&self, address: u64) -> Result<(), Errno> {
        match self.run(address)?[STATUS].cast_signed() {
            0 => Ok(()),
            error @ -4095..0 => Err(Errno::from_raw_os_error(-(error as i32))),
            _ => Err(Errno::IO),
        }
    }

    /// Where the kernel keeps its structure for this thread: an address in the direct map.
    ///
    /// # Errors
    /// IO where the program did not run; those of bpf(2).
    pub fn current_task(&self) -> Result<u64, Errno> {
        match self.run(0)?[TASK] {
            0 => Err(Errno::IO),
            task => Ok(task),
        }
    }

    fn run(&self, address: u64) -> Result<[u64; CONTEXT], Errno> {
        run(&self.program, address)
    }
}

/// A loaded program that counts pages of kernel memory which cannot be read, [`Self::PAGES`] at a time.
#[derive(Debug)]
pub struct KernelCounter {
    program: OwnedFd,
}

impl KernelCounter {
    /// How many pages in a row one call looks at.
    pub const PAGES: usize = 64;

    /// Loads the program.
    ///
    /// # Errors
    /// As [`KernelReader::load`].
    pub fn load() -> Result<Self, Errno> {
        // r6 = the context, r7 = context.address, r8 = 0
        let mut program = vec![
            instruction(0xbf, 6, 1, 0, 0),
            instruction(0x79, 7, 6, ADDRESS * 8, 0),
            instruction(0xb7, 8, 0, 0, 0),
        ];
        for _ in 0..Self::PAGES {
            program.extend([
                // bpf_probe_read_kernel(r10 - 8, 8, r7)
                instruction(0xbf, 1, 10, 0, 0),
                instruction(0x07, 1, 0, 0, -8),
                instruction(0xb7, 2, 0, 0, 8),
                instruction(0xbf, 3, 7, 0, 0),
                instruction(0x85, 0, 0, 0, BPF_FUNC_PROBE_READ_KERNEL),
                // r8 += r0 < 0; r7 += a page
                instruction(0x77, 0, 0, 0, 63),
                instruction(0x0f, 8, 0, 0, 0),
                instruction(0x07, 7, 0, 0, PAGE as i32),
            ]);
        }
        program.extend([
            // context.status = r8; return 0
            instruction(0x7b, 6, 8, STATUS * 8, 0),
            instruction(0xb7, 0, 0, 0, 0),
            instruction(0x95, 0, 0, 0, 0),
        ]);
        let program = load(&program)?;
        Ok(Self { program })
    }

    /// How many of the pages from `address` on cannot be read.
    ///
    /// # Errors
    /// IO where the program did not run; those of bpf(2).
    pub fn unreadable(&self, address: u64) -> Result<usize, Errno> {
        match run(&self.program, address)?[STATUS] {
            count if count <= Self::PAGES as u64 => Ok(count as usize),
            _ => Err(Errno::IO),
        }
    }
}

/// BPF_PROG_LOAD of a program of type SYSCALL.
fn load(program: &[u64]) -> Result<OwnedFd, Errno> {
    // bpf_probe_read_kernel is for programs under the GPL only.
    let license = c"GPL";
    let mut load = Vec::new();
    for field in [BPF_PROG_TYPE_SYSCALL, program.len() as u32] {
        load.extend(field.to_ne_bytes());
    }
    load.extend((program.as_ptr() as u64).to_ne_bytes());
    load.extend((license.as_ptr() as u64).to_ne_bytes());
    // log_level, log_size, log_buf (u64), kern_version: none.
    load.extend([0; 20]);
    load.extend(BPF_F_SLEEPABLE.to_ne_bytes());
    // SAFETY: the kernel reads the program's instructions and the license, which outlive the call.
    unsafe { descriptor(BPF_PROG_LOAD, &mut load) }
}

/// Runs a program with this address in its context, and returns what it left there.
fn run(program: &OwnedFd, address: u64) -> Result<[u64; CONTEXT], Errno> {
    let mut context = [0; CONTEXT];
    context[ADDRESS] = address;
    context[STATUS] = NOT_RUN;
    let mut test = program.as_raw_fd().to_ne_bytes().to_vec();
    // retval, data_size_in, data_size_out, data_in (u64), data_out (u64), repeat, duration.
    test.extend([0; 36]);
    test.extend((size_of_val(&context) as u32).to_ne_bytes());
    // ctx_size_out.
    test.extend([0; 4]);
    test.extend((context.as_mut_ptr() as u64).to_ne_bytes());
    // ctx_out, flags, cpu, batch_size and padding.
    test.extend([0; 24]);
    // SAFETY: the kernel reads the context and writes it back; it outlives the call. The
    // programs here write to it, to their stack and to an array of their own only.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut test) }?;
    Ok(context)
}

/// struct bpf_insn: opcode, destination and source register, offset, immediate.
fn instruction(opcode: u8, to: u8, from: u8, offset: usize, immediate: i32) -> u64 {
    u64::from(opcode)
        | u64::from(to | from << 4) << 8
        | (offset as u64 & 0xffff) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

/// A bpf(2) command that returns a new descriptor (close-on-exec, as all of them are).
///
/// # Safety
/// As for [`bpf`].
unsafe fn descriptor(command: usize, attributes: &mut [u8]) -> Result<OwnedFd, Errno> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// bpf(2).
///
/// # Safety
/// The pointers among the attributes must be valid for the command.
unsafe fn bpf(command: usize, attributes: &mut [u8]) -> Result<usize, Errno> {
    let arguments = [
        command,
        attributes.as_mut_ptr() as usize,
        attributes.len(),
        0,
        0,
        0,
    ];
    // SAFETY: the attributes are as long as said, and the rest is the caller's promise.
    raw::check(unsafe { raw::syscall(libc::SYS_bpf as usize, arguments) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_laid_out_as_the_kernel_has_them() {
        assert_eq!(instruction(0xbf, 6, 1, 0, 0), 0x16bf);
        assert_eq!(instruction(0x7b, 6, 0, 16, 0), 0x0010_067b);
        assert_eq!(instruction(0x85, 0, 0, 0, -1), 0xffff_ffff_0000_0085);
    }

    #[test]
    fn pages_that_cannot_be_read_are_counted() {
        let (Ok(reader), Ok(counter)) = (KernelReader::load(), KernelCounter::load()) else {
            return; // Not root; the probe's tests say so.
        };
        let task = reader.current_task().unwrap();
        // A 2 MiB piece of the direct map is there as a whole or page by page, this one at least.
        let unreadable = counter.unreadable(task).unwrap();
        assert!(unreadable < KernelCounter::PAGES, "{unreadable}");
        assert_eq!(counter.unreadable(0).unwrap(), KernelCounter::PAGES);
    }

    #[test]
    fn what_is_no_kernel_memory_is_not_read() {
        let Ok(reader) = KernelReader::load() else {
            return; // Not root; the probe's tests say so.
        };
        let mut page = [7; PAGE];
        assert_eq!(reader.read(0, &mut page), Err(Errno::RANGE));
        assert_eq!(page, [7; PAGE]);
        assert!(reader.current_task().unwrap() >= 1 << 63);
    }
}
