//! What a process is to others: dumpable, traced.

use crate::Errno;
use rustix::fs::{Mode, OFlags};
use rustix::process::DumpableBehavior;

/// PR_GET_DUMPABLE: whether processes of the same user may look into this one.
///
/// # Errors
/// None in practice; EPERM from a seccomp filter.
pub fn is_dumpable() -> Result<bool, Errno> {
    Ok(rustix::process::dumpable_behavior()? == DumpableBehavior::Dumpable)
}

/// PR_SET_DUMPABLE.
///
/// # Errors
/// EPERM from a seccomp filter.
pub fn set_dumpable(dumpable: bool) -> Result<(), Errno> {
    rustix::process::set_dumpable_behavior(if dumpable {
        DumpableBehavior::Dumpable
    } else {
        DumpableBehavior::NotDumpable
    })
}

/// The process that traces this one (TracerPid of /proc/self/status), 0 for none.
///
/// # Errors
/// Those of open and read; EINVAL where the file has no such line.
pub fn tracer() -> Result<u32, Errno> {
    let tracer = number_in_status(b"TracerPid:")?;
    u32::try_from(tracer).map_err(|_| Errno::INVAL)
}

/// Bytes of locked memory that this process is charged for (VmLck of /proc/self/status).
///
/// # Errors
/// Those of open and read; EINVAL where the file has no such line.
pub fn locked_bytes() -> Result<u64, Errno> {
    Ok(number_in_status(b"VmLck:")? * 1024)
}

/// The number on the line of /proc/self/status that begins so, without allocating.
fn number_in_status(key: &[u8]) -> Result<u64, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/status", flags, Mode::empty())?;
    let mut piece = [0u8; 512];
    // How much of the key the line has so far; none where it is another line.
    let (mut matched, mut number) = (Some(0), 0u64);
    loop {
        let len = rustix::io::read(&file, &mut piece)?;
        if len == 0 {
            return Err(Errno::INVAL);
        }
        for &byte in &piece[..len] {
            let whole = matched == Some(key.len());
            match byte {
                b'\n' if whole => return Ok(number),
                b'\n' => matched = Some(0),
                b'0'..=b'9' if whole => {
                    number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
                }
                _ if whole => {}
                _ => {
                    matched = matched
                        .filter(|&n| key.get(n) == Some(&byte))
                        .map(|n| n + 1)
                }
            }
        }
    }
}

/// Whether the effective capabilities hold CAP_IPC_LOCK, under which RLIMIT_MEMLOCK does not bind.
pub fn may_lock_without_limit() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| {
        sets.effective
            .contains(rustix::thread::CapabilitySet::IPC_LOCK)
    })
}

/// The calling thread's process id, asked from the kernel each time: right after a fork too.
pub fn id() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The parent's process id, 0 where it is in another namespace.
pub fn parent_id() -> i32 {
    rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get())
}

/// Whether this process has one thread: /proc/self/task has a directory for each.
///
/// # Errors
/// Those of stat, without /proc.
pub fn is_single_threaded() -> Result<bool, Errno> {
    Ok(rustix::fs::stat(c"/proc/self/task")?.st_nlink == 3)
}

/// Writes to standard error, as much as it takes, and ignores failures: there is nobody else to tell.
pub fn complain(text: &[u8]) {
    // SAFETY: descriptor 2 may be closed or anything else; write(2) then fails.
    let stderr = unsafe { rustix::fd::BorrowedFd::borrow_raw(2) };
    let mut rest = text;
    while !rest.is_empty() {
        match rustix::io::write(stderr, rest) {
            Ok(0) => return,
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Whether the kernel lets this thread look at another process, by its real user and its effective
/// capabilities (get_robust_list(2), which asks PTRACE_MODE_READ_REALCREDS and changes nothing).
///
/// # Errors
/// EPERM where it may not, ESRCH.
pub fn may_look_at(pid: i32) -> Result<(), Errno> {
    let (mut head, mut len) = (0usize, 0usize);
    let arguments = [
        pid as usize,
        &raw mut head as usize,
        &raw mut len as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes one word to each.
    crate::raw::check(unsafe {
        crate::raw::syscall(libc::SYS_get_robust_list as usize, arguments)
    })?;
    Ok(())
}

/// Ends this process at once with the status, no handlers run.
pub fn exit_now(status: i32) -> ! {
    loop {
        // SAFETY: exit_group(2) does not return.
        unsafe {
            crate::raw::syscall(
                libc::SYS_exit_group as usize,
                [status as usize, 0, 0, 0, 0, 0],
            )
        };
    }
}

/// Whether a child of this process has ended; it can still be waited for.
///
/// # Errors
/// ECHILD where it was waited for already.
pub fn has_ended(child: i32) -> Result<bool, Errno> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let child = Pid::from_raw(child).ok_or(Errno::CHILD)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(child), options)?.is_some())
}

/// Waits for a child to end and takes its status away.
pub fn reap(child: i32) {
    use rustix::process::{Pid, WaitOptions, waitpid};
    if let Some(child) = Pid::from_raw(child) {
        while let Err(Errno::INTR) = waitpid(Some(child), WaitOptions::empty()) {}
    }
}

/// Has the command's process killed when the thread that starts it ends (PR_SET_PDEATHSIG).
pub fn end_with_parent(command: &mut std::process::Command) {
    use rustix::process::{Signal, set_parent_process_death_signal};
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_status_are_found() {
        assert_eq!(number_in_status(b"Pid:"), Ok(id() as u64));
        assert_eq!(tracer(), Ok(0));
        assert!(locked_bytes().is_ok());
        assert_eq!(number_in_status(b"NoSuchLine:"), Err(Errno::INVAL));
    }
}
