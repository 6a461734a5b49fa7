//! Injection: the victim is made to hand its secret over itself.
//!
//! No protection of memory helps against the program's own hand. Held against the same uid
//! by refusing to be traced; never claimed against root.

use super::direct_map::Refusal;
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use strongroom_sys::Errno;
use strongroom_sys::trace::{Resume, Stop, Tracee};

/// What came of the attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The bytes that the victim handed over, or, for code, those that were written into it.
    Bytes(Vec<u8>),
    /// The kernel refused, with this errno.
    Refused(i32),
}

/// Stops process `pid` and makes its main thread write `len` bytes at `address` into a file,
/// from where they are read. The process goes on as if nothing had happened, also where it
/// was in a system call. Nobody may wait for the process meanwhile.
///
/// # Errors
/// Where the attack could not be made for another reason than a refusal.
pub fn hand_over(pid: i32, address: u64, len: usize) -> Result<Answer, Refusal> {
    let puppet = match Puppet::seize(pid) {
        Ok(puppet) => puppet,
        Err(Failure::Refused(errno)) => return Ok(Answer::Refused(errno.raw_os_error())),
        Err(Failure::Other(what)) => return Err(what),
    };
    let fd = puppet
        .call(
            libc::SYS_memfd_create,
            [puppet.name, u64::from(libc::MFD_CLOEXEC), 0, 0],
        )?
        .map_err(Refusal::because("the injected memfd_create"))?;
    let answer = puppet.write_and_fetch(fd, address, len);
    puppet
        .call(libc::SYS_close, [fd, 0, 0, 0])?
        .map_err(Refusal::because("the injected close"))?;
    answer
}

/// Writes one byte of process `pid`'s code through /proc/PID/mem, reads it back and restores
/// it. It is the last byte of the program's code, behind its functions.
///
/// # Errors
/// Where the attack could not be made for another reason than a refusal.
pub fn write_text(pid: i32) -> Result<Answer, Refusal> {
    let refused = |error: io::Error, what: &str| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) | None => Err(Refusal::because(what)(error)),
        Some(errno) => Ok(Answer::Refused(errno)),
    };
    let memory = match OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
    {
        Ok(memory) => memory,
        Err(error) => return refused(error, "/proc/PID/mem"),
    };
    let at = mappings(pid)
        .map_err(Refusal::because("/proc/PID/maps"))?
        .into_iter()
        .find(|mapping| mapping.executable && mapping.file)
        .ok_or_else(|| Refusal::new("the process has no code from a file"))?
        .end
        - 1;
    let byte = || {
        let mut byte = [0];
        memory
            .read_exact_at(&mut byte, at)
            .map(|()| byte)
            .map_err(Refusal::because("reading code"))
    };
    let before = byte()?;
    let other = before.map(|byte| !byte);
    if let Err(error) = memory.write_all_at(&other, at) {
        return refused(error, "writing code");
    }
    let seen = byte();
    memory
        .write_all_at(&before, at)
        .map_err(Refusal::because("restoring code"))?;
    if seen? == other && byte()? == before {
        Ok(Answer::Bytes(other.to_vec()))
    } else {
        Err(Refusal::new("code was written, and reads otherwise"))
    }
}

/// Why the victim was not seized.
pub(super) enum Failure {
    Refused(Errno),
    Other(Refusal),
}

impl From<Refusal> for Failure {
    fn from(what: Refusal) -> Self {
        Self::Other(what)
    }
}

/// A stopped process that makes system calls for us; let go on drop.
pub(super) struct Puppet {
    pid: i32,
    tracee: Tracee,
    /// As they are to be afterwards; none before the process has stopped.
    registers: Option<libc::user_regs_struct>,
    /// Address of a `syscall` instruction in the process.
    syscall: u64,
    /// Address of a readable text in the process, for memfd_create's name.
    name: u64,
    /// Signals of the process's own that arrived while it worked for us.
    late: RefCell<Vec<i32>>,
}

impl Puppet {
    pub(super) fn seize(pid: i32) -> Result<Self, Failure> {
        let tracee = Tracee::visit(pid).map_err(|errno| match errno {
            Errno::PERM | Errno::ACCESS => Failure::Refused(errno),
            errno => Failure::Other(Refusal::because("ptrace")(errno)),
        })?;
        // From here on Drop detaches.
        let mut puppet = Self {
            pid,
            tracee,
            registers: None,
            syscall: 0,
            name: 0,
            late: RefCell::default(),
        };
        puppet.tracee.interrupt().map_err(stopping)?;
        loop {
            match puppet.tracee.wait().map_err(stopping)? {
                Stop::Signal(signal) => puppet
                    .tracee
                    .resume(Resume::Free, signal)
                    .map_err(stopping)?,
                Stop::Ended => return Err(ended().into()),
                _ => break,
            }
        }
        let registers = puppet.tracee.registers().map_err(stopping)?;
        puppet.registers = Some(registers);
        (puppet.syscall, puppet.name) = landmarks(pid)?;
        Ok(puppet)
    }

    /// The address of a text in the process, for calls that take a name.
    pub(super) fn name(&self) -> u64 {
        self.name
    }

    /// Where the process's stack ends at the moment.
    pub(super) fn stack(&self) -> u64 {
        self.registers.map_or(0, |registers| registers.rsp)
    }

    /// Makes the process make a system call. The outer result is about the making.
    pub(super) fn call(
        &self,
        number: libc::c_long,
        arguments: [u64; 4],
    ) -> Result<Result<u64, Errno>, Refusal> {
        let mut registers = self
            .registers
            .ok_or_else(|| Refusal::new("the process has not stopped"))?;
        registers.rip = self.syscall;
        registers.rax = number.cast_unsigned();
        // No interrupted call of the process's own is to be restarted meanwhile.
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10] = arguments;
        self.tracee.set_registers(&registers).map_err(stopping)?;
        loop {
            self.tracee.resume(Resume::Step, 0).map_err(stopping)?;
            match self.tracee.wait().map_err(stopping)? {
                Stop::Signal(libc::SIGTRAP) => {}
                // Its handler must not run on these registers.
                Stop::Signal(signal) => self.late.borrow_mut().push(signal),
                Stop::Ended => return Err(ended()),
                _ => {}
            }
            let after = self.tracee.registers().map_err(stopping)?;
            if after.rip != self.syscall {
                let result = after.rax.cast_signed();
                return Ok(match result {
                    -4095..0 => Err(Errno::from_raw_os_error(-(result as i32))),
                    _ => Ok(after.rax),
                });
            }
        }
    }

    fn write_and_fetch(&self, fd: u64, address: u64, len: usize) -> Result<Answer, Refusal> {
        let len = len as u64;
        let mut done = 0;
        while done < len {
            match self.call(libc::SYS_write, [fd, address + done, len - done, 0])? {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(errno) if done == 0 => return Ok(Answer::Refused(errno.raw_os_error())),
                // What came before is a leak all the same.
                Err(_) => break,
            }
        }
        let mut bytes = Vec::new();
        File::open(format!("/proc/{}/fd/{fd}", self.pid))
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(Refusal::because("the file that the victim wrote"))?;
        Ok(Answer::Bytes(bytes))
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        if let Some(registers) = &self.registers {
            let _ = self.tracee.set_registers(registers);
        }
        let _ = self.tracee.resume(Resume::Detached, 0);
        for signal in self.late.take() {
            // SAFETY: kill takes no pointer.
            unsafe { libc::kill(self.pid, signal) };
        }
    }
}

fn stopping(errno: Errno) -> Refusal {
    Refusal::because("stopping the victim")(errno)
}

fn ended() -> Refusal {
    Refusal::new("the victim ended")
}

/// A mapping of a process.
struct Mapping {
    start: u64,
    end: u64,
    readable: bool,
    executable: bool,
    /// Whether a file is behind it.
    file: bool,
}

fn mappings(pid: i32) -> io::Result<Vec<Mapping>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(text.lines().filter_map(mapping).collect())
}

/// A line of /proc/PID/maps: range, access, offset, device, inode, name.
fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let access = fields.next()?;
    let inode = fields.nth(2)?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        readable: access.starts_with('r'),
        executable: access.contains('x'),
        file: inode != "0",
    })
}

/// A `syscall` instruction and an ELF header, as good a name as any, of the stopped process.
fn landmarks(pid: i32) -> Result<(u64, u64), Refusal> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    const ELF: &[u8] = b"\x7fELF\x02\x01\x01";
    // Code is searched by parts, since a program's can be large.
    const PART: u64 = 1 << 20;
    let memory =
        File::open(format!("/proc/{pid}/mem")).map_err(Refusal::because("/proc/PID/mem"))?;
    let mappings = mappings(pid).map_err(Refusal::because("/proc/PID/maps"))?;
    let read = |start: u64, len: u64| {
        let mut bytes = vec![0; len as usize];
        let got = memory.read_at(&mut bytes, start).unwrap_or(0);
        bytes.truncate(got);
        bytes
    };
    let name = mappings
        .iter()
        .filter(|mapping| mapping.readable)
        .find(|mapping| read(mapping.start, 8).starts_with(ELF))
        .map(|mapping| mapping.start);
    let syscall = mappings
        .iter()
        .filter(|mapping| mapping.readable && mapping.executable)
        .flat_map(|mapping| {
            (mapping.start..mapping.end)
                .step_by(PART as usize)
                .map(|start| (start, PART.min(mapping.end - start)))
        })
        .find_map(|(start, len)| {
            let code = read(start, len);
            let at = code.windows(2).position(|pair| pair == SYSCALL)?;
            Some(start + at as u64)
        });
    syscall
        .zip(name)
        .ok_or_else(|| Refusal::new("no syscall instruction or no ELF header in the victim"))
}
