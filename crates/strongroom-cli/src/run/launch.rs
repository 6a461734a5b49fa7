//! Becoming the program, under the eyes of a verifier.
//!
//! The process keeps its number and its parent, and nothing of strongroom stays beside
//! it: the verifier is not its child, and is gone once the program may run.

use super::one_processor::OneProcessor;
use super::preload::Object;
use super::receipt::Unprotected;
use super::verify;
use crate::failure::{self, Failure};
use crate::locate;
use rustix::io::Errno;
use rustix::process::{PTracer, Pid};
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use strongroom_sys::trace::{self, Tracee};

/// What to become.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// The program's file.
    pub(super) path: &'a CStr,
    /// argv.
    pub(super) arguments: Vec<CString>,
    /// envp.
    pub(super) environment: Vec<CString>,
    /// What must be in the program.
    pub(super) object: &'a Object,
    /// What is asked, and the receipt to write where the program runs without it.
    pub(super) unprotected: Unprotected<'a>,
}

impl Launch<'_> {
    /// Starts the verifier and becomes the program. It returns only where that fails.
    pub(super) fn start(&self) -> Failure {
        if let Err(failure) = self.start_verifier() {
            if !self.unprotected.config.best_effort {
                return failure;
            }
            failure.print_as_warning();
        }
        exec(self.path, &self.arguments, &self.environment)
    }

    /// Returns once the verifier has attached to this process.
    fn start_verifier(&self) -> Result<(), Failure> {
        // Under another `run` this process is non-dumpable, and the verifier could not attach.
        // There is no secret in it, and exec sets this anew.
        strongroom_sys::process::set_dumpable(true).map_err(no_verifier)?;
        let (here, there) = UnixStream::pair().map_err(no_verifier)?;
        let mut here = Some(here);
        let launcher = own_id();
        trace::spawn_detached(|| {
            // Of the verifier's two ends: it must see it when the launcher's closes.
            here = None;
            self.verifier(there, launcher)
        })
        .map_err(no_verifier)?;
        let here = here.ok_or_else(|| no_verifier(Errno::PIPE))?;
        match be_attached_to(here).map_err(no_verifier)? {
            0 => Ok(()),
            errno => Err(not_traceable(Errno::from_raw_os_error(errno))),
        }
    }

    /// The verifier's life. Its status is nobody's to see.
    fn verifier(&self, launcher_end: UnixStream, launcher: i32) -> u8 {
        // A signal to the whole group, such as Ctrl-C, is for the program, and it gets it.
        if trace::block_signals().is_err() {
            return failure::STATUS;
        }
        let _ = rustix::process::setsid();
        let Ok(tracee) = attach(launcher_end, launcher) else {
            return failure::STATUS;
        };
        let one_processor = OneProcessor::share(launcher);
        let before_leaving = || one_processor.as_ref().map_or(Ok(()), OneProcessor::end);
        let verified = verify::until_protected(
            &tracee,
            launcher,
            self.object.path(),
            &self.unprotected,
            before_leaving,
        );
        match verified {
            Ok(()) => 0,
            // It was killed meanwhile.
            Err(Errno::SRCH | Errno::CHILD) => 0,
            Err(error) => {
                Failure::new(
                    format!("the protection cannot be verified: ptrace: {error}; the program is ended"),
                    "Linux 5.3 or newer is needed; --best-effort goes on without where tracing is refused from the start",
                )
                .print();
                // With this process the program ends too: EXITKILL.
                failure::STATUS
            }
        }
    }
}

/// The launcher's side: names the verifier to Yama, and returns the errno of its attaching.
fn be_attached_to(mut verifier_end: UnixStream) -> io::Result<i32> {
    let mut word = [0; 4];
    verifier_end.read_exact(&mut word)?;
    // Where Yama is, only a process named here may attach; elsewhere the call means nothing.
    if let Some(verifier) = Pid::from_raw(i32::from_ne_bytes(word)) {
        let _ = rustix::process::set_ptracer(PTracer::ProcessID(verifier));
    }
    verifier_end.write_all(&[0])?;
    verifier_end.read_exact(&mut word)?;
    let _ = rustix::process::set_ptracer(PTracer::None);
    Ok(i32::from_ne_bytes(word))
}

/// The verifier's side of the same.
fn attach(mut launcher_end: UnixStream, launcher: i32) -> io::Result<Tracee> {
    launcher_end.write_all(&own_id().to_ne_bytes())?;
    launcher_end.read_exact(&mut [0])?;
    let attached = Tracee::seize(launcher);
    let errno = attached
        .as_ref()
        .map_or_else(|error| error.raw_os_error(), |_| 0);
    launcher_end.write_all(&errno.to_ne_bytes())?;
    Ok(attached?)
}

fn own_id() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn no_verifier(error: impl Into<io::Error>) -> Failure {
    Failure::new(
        format!(
            "the process that verifies the protection cannot be started: {}",
            error.into()
        ),
        "see that there is a /proc and that the limits on processes and files (ulimit -u, -n) leave some; \
         --best-effort goes on unverified",
    )
}

fn not_traceable(error: Errno) -> Failure {
    Failure::new(
        format!("the protection cannot be verified: ptrace is refused: {error}"),
        "allow it: no debugger or strace around strongroom; sysctl kernel.yama.ptrace_scope=1 (3 stays until the next \
         boot); docker run --cap-add SYS_PTRACE or a seccomp profile with ptrace; --best-effort goes on unverified",
    )
}

/// Becomes the program. It returns only where that fails.
pub(super) fn exec(path: &CStr, arguments: &[CString], environment: &[CString]) -> Failure {
    let error = trace::execute(path, arguments, environment);
    let fix = match error {
        Errno::NOENT => "the file or the loader that it names is missing: install it",
        Errno::TOOBIG => "pass fewer arguments or less environment",
        _ => "",
    };
    let status = if error == Errno::NOENT {
        locate::NOT_FOUND
    } else {
        locate::NOT_EXECUTABLE
    };
    Failure::new(
        format!("cannot run {}: {error}", path.to_string_lossy()),
        fix,
    )
    .with_status(status)
}
