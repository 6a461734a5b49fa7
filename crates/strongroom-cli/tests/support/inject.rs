//! What a process itself sees of its secret memory.
//!
//! Nobody outside can read memfd_secret memory, so "the bytes were not found" could
//! mean that they are not there at all. Here the process is stopped by ptrace (as
//! root) and made to write its secret mappings into an ordinary memfd, which is then
//! read and closed; its registers are put back and it goes on as if nothing had
//! happened. No byte of its memory is changed.

use super::outside::{Mapping, Outside};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// The view of a process from inside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inside {
    pid: i32,
}

impl Inside {
    pub(crate) fn of(pid: i32) -> Self {
        Self { pid }
    }

    /// Every readable memfd_secret mapping with its contents.
    #[track_caller]
    pub(crate) fn secret_memory(&self) -> Vec<(Mapping, Vec<u8>)> {
        let puppet = Puppet::seize(self.pid)
            .unwrap_or_else(|e| panic!("ptrace of process {}: {e}", self.pid));
        Outside::of(self.pid)
            .mappings()
            .into_iter()
            .filter(|mapping| mapping.is_secret() && mapping.is_readable())
            .map(|mapping| {
                let bytes = puppet
                    .hand_over(mapping.start, mapping.len())
                    .unwrap_or_else(|e| {
                        panic!("process {} at {:#x}: {e}", self.pid, mapping.start)
                    });
                (mapping, bytes)
            })
            .collect()
    }

    /// What the process has at an address, whatever kind of memory that is.
    #[track_caller]
    pub(crate) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let puppet = Puppet::seize(self.pid)
            .unwrap_or_else(|e| panic!("ptrace of process {}: {e}", self.pid));
        puppet
            .hand_over(address, length)
            .unwrap_or_else(|e| panic!("process {} at {address:#x}: {e}", self.pid))
    }
}

/// A stopped process that makes system calls for us; let go on drop.
struct Puppet {
    pid: i32,
    registers: libc::user_regs_struct,
    /// Address of a `syscall` instruction in the process.
    syscall: u64,
    /// Address of a readable text in the process, for memfd_create's name.
    name: u64,
    /// Signals of the process's own that arrived while it worked for us.
    late: std::cell::RefCell<Vec<i32>>,
}

impl Puppet {
    fn seize(pid: i32) -> io::Result<Self> {
        ptrace(libc::PTRACE_SEIZE, pid, 0, 0)?;
        let mut puppet = Self {
            pid,
            // SAFETY: a structure of integers, for which zero is a value.
            registers: unsafe { std::mem::zeroed() },
            syscall: 0,
            name: 0,
            late: Default::default(),
        };
        // From here on Drop detaches.
        ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0)?;
        while let Some(signal) = puppet.wait_for_stop()? {
            ptrace(libc::PTRACE_CONT, pid, 0, signal as u64)?;
        }
        puppet.registers = puppet.get_registers()?;
        (puppet.syscall, puppet.name) = puppet.landmarks()?;
        Ok(puppet)
    }

    /// Waits until the process has stopped. A signal of its own that stopped it is
    /// the caller's to pass on.
    fn wait_for_stop(&self) -> io::Result<Option<i32>> {
        loop {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the result.
            let waited = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
            if waited < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            if !libc::WIFSTOPPED(status) {
                return Err(io::Error::other(format!(
                    "the process ended (status {status:#x})"
                )));
            }
            let is_event = status >> 16 != 0;
            let signal = libc::WSTOPSIG(status);
            return Ok((!is_event && signal != libc::SIGTRAP).then_some(signal));
        }
    }

    fn get_registers(&self) -> io::Result<libc::user_regs_struct> {
        // SAFETY: a structure of integers, for which zero is a value.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(
            libc::PTRACE_GETREGS,
            self.pid,
            0,
            std::ptr::from_mut(&mut registers) as u64,
        )?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        ptrace(
            libc::PTRACE_SETREGS,
            self.pid,
            0,
            std::ptr::from_ref(registers) as u64,
        )
    }

    fn landmarks(&self) -> io::Result<(u64, u64)> {
        let mem = File::open(format!("/proc/{}/mem", self.pid))?;
        let mappings = Outside::of(self.pid).mappings();
        let mut syscall = None;
        let mut name = None;
        for mapping in &mappings {
            if name.is_none() && mapping.is_readable() && !mapping.is_secret() {
                let mut magic = [0; 8];
                // "\x7fELF\2\1\1" and a zero: as good a name as any.
                if mem.read_exact_at(&mut magic, mapping.start).is_ok()
                    && magic == *b"\x7fELF\x02\x01\x01\0"
                {
                    name = Some(mapping.start);
                }
            }
            if syscall.is_none() && mapping.permissions.starts_with("r-x") {
                let mut text = vec![0; mapping.len()];
                let got = mem.read_at(&mut text, mapping.start).unwrap_or(0);
                syscall = text[..got]
                    .windows(2)
                    .position(|pair| pair == [0x0f, 0x05])
                    .map(|at| mapping.start + at as u64);
            }
        }
        syscall
            .zip(name)
            .ok_or_else(|| io::Error::other("no syscall instruction or no ELF header to be found"))
    }

    /// Makes the process make a system call.
    fn call(&self, number: libc::c_long, arguments: [u64; 6]) -> io::Result<u64> {
        let mut registers = self.registers;
        registers.rip = self.syscall;
        registers.rax = number as u64;
        // No interrupted call of the process's own is to be restarted meanwhile.
        registers.orig_rax = u64::MAX;
        [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ] = arguments;
        self.set_registers(&registers)?;
        ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0)?;
        while let Some(signal) = self.wait_for_stop()? {
            // Its handler must not run on these registers.
            self.late.borrow_mut().push(signal);
            ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0)?;
        }
        let result = self.get_registers()?.rax;
        match result as i64 {
            error @ -4095..=-1 => Err(io::Error::from_raw_os_error(-error as i32)),
            _ => Ok(result),
        }
    }

    fn hand_over(&self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        let fd = self.call(
            libc::SYS_memfd_create,
            [self.name, u64::from(libc::MFD_CLOEXEC), 0, 0, 0, 0],
        )?;
        let written = self.write_all(fd, address, length as u64);
        let mut bytes = Vec::with_capacity(length);
        let read = written.and_then(|()| {
            File::open(format!("/proc/{}/fd/{fd}", self.pid))?.read_to_end(&mut bytes)
        });
        self.call(libc::SYS_close, [fd, 0, 0, 0, 0, 0])?;
        read.map(|_| bytes)
    }

    fn write_all(&self, fd: u64, address: u64, length: u64) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            done += self.call(
                libc::SYS_write,
                [fd, address + done, length - done, 0, 0, 0],
            )?;
        }
        Ok(())
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        if self.syscall != 0 {
            let _ = self.set_registers(&self.registers);
        }
        let _ = ptrace(libc::PTRACE_DETACH, self.pid, 0, 0);
        for signal in self.late.take() {
            // SAFETY: kill takes no pointer.
            unsafe { libc::kill(self.pid, signal) };
        }
    }
}

fn ptrace(request: libc::c_uint, pid: i32, address: u64, data: u64) -> io::Result<()> {
    // SAFETY: the callers pass either no pointer or one to a register set that the
    // request in question reads or fills.
    match unsafe { libc::ptrace(request, pid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
