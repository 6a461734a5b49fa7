//! Starting and tracing another process: fork, execve and ptrace as thin functions.

use crate::{Errno, raw};
use core::ffi::{CStr, c_char, c_int};
use core::mem::MaybeUninit;
use rustix::process::{Pid, WaitOptions};

/// Forks twice and runs `body` in the grandchild, which init adopts: it is no child
/// that the caller's program, or the one it becomes, could wait for by accident.
/// The grandchild ends with the status that `body` returns.
///
/// # Errors
/// EBUSY where this process has more than one thread; those of fork(2).
pub fn spawn_detached(body: impl FnOnce() -> u8) -> Result<(), Errno> {
    // proc(5): the link count of the task directory is its threads and two.
    if rustix::fs::stat(c"/proc/self/task")?.st_nlink != 3 {
        return Err(Errno::BUSY);
    }
    match fork()? {
        None => {
            let status = match fork() {
                Ok(None) => body(),
                Ok(Some(_)) => 0,
                Err(_) => 1,
            };
            leave(status)
        }
        Some(child) => loop {
            match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(Some((_, status))) if status.exit_status() == Some(0) => return Ok(()),
                Ok(_) => return Err(Errno::AGAIN),
            }
        },
    }
}

fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: `spawn_detached` saw that this is the only thread, so no lock is held by
    // a thread that the child lacks and everything is as usable there as here.
    match unsafe { libc::fork() } {
        -1 => {
            let errno = std::io::Error::last_os_error().raw_os_error();
            Err(errno.map_or(Errno::AGAIN, Errno::from_raw_os_error))
        }
        child => Ok(Pid::from_raw(child)),
    }
}

fn leave(status: u8) -> ! {
    // SAFETY: _exit(2) runs no handler and touches no memory of this process.
    unsafe { libc::_exit(c_int::from(status)) }
}

/// execve(2); it returns only where it failed.
pub fn execute(
    path: &CStr,
    arguments: &[impl AsRef<CStr>],
    environment: &[impl AsRef<CStr>],
) -> Errno {
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    let registers = [
        path.as_ptr() as usize,
        arguments.as_ptr() as usize,
        environment.as_ptr() as usize,
        0,
        0,
        0,
    ];
    // SAFETY: `path` and the elements of both arrays are strings that outlive the call,
    // and both arrays end with a null pointer. The kernel only reads them.
    match raw::check(unsafe { raw::syscall(libc::SYS_execve as usize, registers) }) {
        Err(error) => error,
        Ok(_) => Errno::INVAL,
    }
}

fn pointers(texts: &[impl AsRef<CStr>]) -> Vec<*const c_char> {
    texts
        .iter()
        .map(|text| text.as_ref().as_ptr())
        .chain([core::ptr::null()])
        .collect()
}

/// Blocks every signal that can be blocked, in this thread.
///
/// # Errors
/// None in practice.
pub fn block_signals() -> Result<(), Errno> {
    crate::signals::set_mask(!0).map(|_| ())
}

/// A process that this one traces. Dropping it leaves the process traced: it dies with the tracer.
#[derive(Debug)]
pub struct Tracee(Pid);

/// Why a traced process stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Entering or leaving a system call.
    Call,
    /// A new program is in place and has not run yet.
    Exec,
    /// A signal is about to be delivered.
    Signal(i32),
    /// A stopping signal stopped the whole process, which must stay stopped until SIGCONT.
    Group,
    /// An event of no interest, such as the end of a group stop.
    Other,
    /// It is gone.
    Ended,
}

/// How a stopped process goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// To the next event.
    Free,
    /// To the next event, or by one instruction, after which it stops with SIGTRAP.
    Step,
    /// To the next event, or entry or exit of a system call.
    ToCall,
    /// Not at all, but events are reported (PTRACE_LISTEN).
    Stopped,
    /// For good, no longer traced.
    Detached,
}

/// A system call at its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl Call {
    /// Call `number` with the given arguments; the rest are 0.
    pub fn new<const N: usize>(number: i64, given: [i64; N]) -> Self {
        let mut arguments = [0; 6];
        for (argument, given) in arguments.iter_mut().zip(given) {
            *argument = given.cast_unsigned();
        }
        Self {
            number: number.cast_unsigned(),
            arguments,
        }
    }
}

/// Where in a system call a process stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStop {
    /// At the entry.
    Entry(Call),
    /// At the exit, with the result or the negated errno.
    Exit(i64),
    /// At the entry of a call that is not of the x86-64 interface, such as `int 0x80`.
    Foreign,
}

impl Tracee {
    /// Attaches without stopping the process. It dies if this process does.
    ///
    /// # Errors
    /// EPERM where the tracer may not, the process is traced already, or Yama forbids it; ESRCH; ENOSYS.
    pub fn seize(pid: i32) -> Result<Self, Errno> {
        Self::attach(
            pid,
            libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACESYSGOOD,
        )
    }

    /// Attaches without stopping the process and as a guest: it goes on if this process dies.
    ///
    /// # Errors
    /// As [`Tracee::seize`].
    pub fn visit(pid: i32) -> Result<Self, Errno> {
        Self::attach(pid, 0)
    }

    fn attach(pid: i32, options: i32) -> Result<Self, Errno> {
        let tracee = Self(Pid::from_raw(pid).ok_or(Errno::SRCH)?);
        // SAFETY: PTRACE_SEIZE takes no pointer.
        unsafe { tracee.request(libc::PTRACE_SEIZE, 0, options as usize) }?;
        Ok(tracee)
    }

    /// Makes the process stop soon, with [`Stop::Other`] or [`Stop::Group`].
    ///
    /// # Errors
    /// ESRCH.
    pub fn interrupt(&self) -> Result<(), Errno> {
        // SAFETY: PTRACE_INTERRUPT takes no pointer.
        unsafe { self.request(libc::PTRACE_INTERRUPT, 0, 0) }
    }

    /// Waits for the next stop or the end.
    ///
    /// # Errors
    /// ECHILD where it is traced no longer.
    pub fn wait(&self) -> Result<Stop, Errno> {
        let status = loop {
            match rustix::process::waitpid(Some(self.0), WaitOptions::empty()) {
                Err(Errno::INTR) | Ok(None) => {}
                Err(error) => return Err(error),
                Ok(Some((_, status))) => break status,
            }
        };
        let Some(signal) = status.stopping_signal() else {
            return Ok(Stop::Ended);
        };
        Ok(match (status.as_raw() >> 16, signal) {
            (0, signal) if signal == libc::SIGTRAP | 0x80 => Stop::Call,
            (0, signal) => Stop::Signal(signal),
            (libc::PTRACE_EVENT_EXEC, _) => Stop::Exec,
            (
                libc::PTRACE_EVENT_STOP,
                libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU,
            ) => Stop::Group,
            _ => Stop::Other,
        })
    }

    /// Lets the stopped process go on, with `signal` delivered where it is not 0.
    ///
    /// # Errors
    /// ESRCH where it was killed meanwhile.
    pub fn resume(&self, how: Resume, signal: i32) -> Result<(), Errno> {
        let request = match how {
            Resume::Free => libc::PTRACE_CONT,
            Resume::Step => libc::PTRACE_SINGLESTEP,
            Resume::ToCall => libc::PTRACE_SYSCALL,
            Resume::Stopped => libc::PTRACE_LISTEN,
            Resume::Detached => libc::PTRACE_DETACH,
        };
        // SAFETY: none of them takes a pointer.
        unsafe { self.request(request, 0, signal as usize) }
    }

    /// Which system call the process is stopped at. Only after [`Stop::Call`].
    ///
    /// # Errors
    /// EIO before Linux 5.3; ESRCH.
    pub fn call(&self) -> Result<CallStop, Errno> {
        const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
        let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        // SAFETY: the kernel writes at most the given size to `info`.
        unsafe {
            self.request(
                libc::PTRACE_GET_SYSCALL_INFO,
                size_of_val(&info),
                info.as_mut_ptr() as usize,
            )?;
        }
        // SAFETY: all fields are integers, for which zeroed and kernel-written bytes are valid.
        let info = unsafe { info.assume_init() };
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY if info.arch == AUDIT_ARCH_X86_64 => {
                // SAFETY: `op` says that the kernel filled `entry`.
                let entry = unsafe { info.u.entry };
                Ok(CallStop::Entry(Call {
                    number: entry.nr,
                    arguments: entry.args,
                }))
            }
            libc::PTRACE_SYSCALL_INFO_ENTRY => Ok(CallStop::Foreign),
            // SAFETY: `op` says that the kernel filled `exit`.
            libc::PTRACE_SYSCALL_INFO_EXIT => Ok(CallStop::Exit(unsafe { info.u.exit.sval })),
            _ => Err(Errno::IO),
        }
    }

    /// At a system call's entry: makes it another call.
    ///
    /// # Errors
    /// ESRCH where the process was killed meanwhile.
    pub fn replace_call(&self, call: &Call) -> Result<(), Errno> {
        let mut registers = self.registers()?;
        registers.orig_rax = call.number;
        [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ] = call.arguments;
        self.set_registers(&registers)
    }

    /// The registers of the stopped process.
    ///
    /// # Errors
    /// ESRCH where it is not stopped or was killed meanwhile.
    pub fn registers(&self) -> Result<libc::user_regs_struct, Errno> {
        let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
        // SAFETY: the kernel writes one user_regs_struct to `registers`.
        unsafe { self.request(libc::PTRACE_GETREGS, 0, registers.as_mut_ptr() as usize)? };
        // SAFETY: all fields are integers.
        Ok(unsafe { registers.assume_init() })
    }

    /// Gives the stopped process other registers.
    ///
    /// # Errors
    /// As [`Tracee::registers`]; EIO for a value that a register cannot have.
    pub fn set_registers(&self, registers: &libc::user_regs_struct) -> Result<(), Errno> {
        // SAFETY: the kernel reads one user_regs_struct.
        unsafe {
            self.request(
                libc::PTRACE_SETREGS,
                0,
                core::ptr::from_ref(registers) as usize,
            )
        }
    }

    /// ptrace(2).
    ///
    /// # Safety
    /// Where the request takes a pointer, `address` or `data` must be valid for it.
    unsafe fn request(
        &self,
        request: impl Into<i64>,
        address: usize,
        data: usize,
    ) -> Result<(), Errno> {
        let pid = self.0.as_raw_nonzero().get();
        let arguments = [request.into() as usize, pid as usize, address, data, 0, 0];
        // SAFETY: the pointers are the caller's promise; the rest are numbers.
        raw::check(unsafe { raw::syscall(libc::SYS_ptrace as usize, arguments) }).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_exec_says_why() {
        let none: [&CStr; 0] = [];
        assert_eq!(execute(c"/nonexistent", &[c"x"], &none), Errno::NOENT);
        assert_eq!(execute(c"/", &[c"x"], &none), Errno::ACCESS);
    }

    #[test]
    fn nobody_can_trace_what_is_not_there() {
        assert_eq!(Tracee::seize(0).unwrap_err(), Errno::SRCH);
        assert_eq!(Tracee::seize(i32::MAX).unwrap_err(), Errno::SRCH);
    }
}
