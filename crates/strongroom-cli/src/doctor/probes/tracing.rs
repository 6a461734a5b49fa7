//! ptrace: what `run`'s verifier needs, and what a debugger of the same user may.

use super::super::check::{Check, Part, Status, Text};
use super::{NO_PROC, number};
use rustix::io::Errno;
use rustix::process::{PTracer, Pid, Signal};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use strongroom_sys::process;
use strongroom_sys::trace::{self, Stop, Tracee};

/// The name of [`ptrace`]'s check.
pub(super) const PTRACE: &str = "ptrace";

const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// Traces a process started for it.
pub(super) fn ptrace() -> Check {
    let why = "lets `run` verify before the program starts";
    let check = |value: Text| Check::new(Part::Run, PTRACE, value, why);
    if let Ok(tracer @ 1..) = process::tracer() {
        return check(format!("process {tracer} traces strongroom already").into()).falls_short(
            Status::Missing,
            "run strongroom without strace or a debugger around it",
        );
    }
    match trace_someone() {
        Ok(()) => check("works: a process was traced".into()),
        Err(error) => {
            let fix = match number(YAMA) {
                _ if error.kind() == io::ErrorKind::NotFound => NO_PROC,
                Some(3) => "boot with kernel.yama.ptrace_scope=1: 3 stays until the next boot",
                Some(2) => "`sysctl kernel.yama.ptrace_scope=1`",
                _ => {
                    "allow it: `docker run --cap-add SYS_PTRACE`, or a seccomp profile or systemd \
                     SystemCallFilter with ptrace"
                }
            };
            check(format!("refused: {error}").into()).falls_short(Status::Missing, fix)
        }
    }
}

/// As `run` does it, but the other way round: a new process names this one to Yama and is traced by
/// it, until it is killed.
fn trace_someone() -> io::Result<()> {
    let (here, there) = UnixStream::pair()?;
    let mut here = Some(here);
    let tracer = rustix::process::getpid();
    trace::spawn_detached(|| {
        // It must see it when this process's end closes.
        here = None;
        be_traced(there, tracer).map_or(1, |()| 0)
    })?;
    let Some(mut here) = here else { return Ok(()) };
    // Should anything keep it from answering, the doctor still does.
    here.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut id = [0; 4];
    here.read_exact(&mut id)?;
    let id = i32::from_ne_bytes(id);
    let tracee = Tracee::seize(id)?;
    let pid = Pid::from_raw(id).ok_or(Errno::SRCH)?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    while !matches!(tracee.wait(), Ok(Stop::Ended) | Err(_)) {}
    Ok(())
}

/// The life of the process that is traced.
fn be_traced(mut tracer_end: UnixStream, tracer: Pid) -> io::Result<()> {
    // Under another `run` it is non-dumpable and could not be traced; there is no secret in it.
    process::set_dumpable(true)?;
    // Where Yama is, only a process named here may attach.
    let _ = rustix::process::set_ptracer(PTracer::ProcessID(tracer));
    tracer_end.write_all(&process::id().to_ne_bytes())?;
    // Until it is killed, or the other end closes.
    tracer_end.read_exact(&mut [0])
}

/// kernel.yama.ptrace_scope.
pub(super) fn yama() -> Check {
    let scope = number(YAMA);
    let (value, fix) = match scope {
        None => (
            "absent: processes of the same user may attach".to_owned(),
            "a kernel with CONFIG_SECURITY_YAMA, and yama in its lsm= list",
        ),
        Some(0) => (
            "0: processes of the same user may attach".to_owned(),
            "`sysctl kernel.yama.ptrace_scope=1`",
        ),
        Some(1) => ("1: only ancestors may attach".to_owned(), ""),
        Some(2) => ("2: only CAP_SYS_PTRACE may attach".to_owned(), ""),
        Some(3) => (
            "3: nobody may attach, nor `run`'s verifier".to_owned(),
            "`sysctl kernel.yama.ptrace_scope=1` where it is set, from the next boot",
        ),
        Some(other) => (format!("{other}: unknown"), ""),
    };
    let why = "what `run` starts refuses them, but for --dumpable";
    Check::new(Part::Run, "yama", value, why)
        .with("ptrace_scope", scope)
        .falls_short_if(!fix.is_empty(), Status::Limited, fix)
}
