//! Processes that a measurement starts, looks at and ends.

use super::Result;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes: then it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a command writes to its standard output; its failure is an error.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{}", output.status, stderr.trim_end()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The one number that a command prints.
pub(super) fn number(command: &mut Command) -> Result<f64> {
    let text = output(command)?;
    text.trim()
        .parse()
        .map_err(|_| format!("{command:?} printed {text:?} and not a number").into())
}

/// Waits until something is there.
pub(super) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child that serves until it is dropped.
#[derive(Debug)]
pub(super) struct Service(Child);

impl Service {
    /// Starts it.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map(Self)
            .map_err(|error| format!("{command:?}: {error}").into())
    }

    /// Its process number.
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that is no child of ours and serves until this is dropped.
#[derive(Debug)]
pub(super) struct Daemon(u32);

impl Daemon {
    /// The process of that number, which this measurement started.
    pub(super) fn of(pid: u32) -> Self {
        Self(pid)
    }

    /// Its process number.
    pub(super) fn pid(&self) -> u32 {
        self.0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SAFETY: kill takes no pointer.
        unsafe { libc::kill(self.0.cast_signed(), libc::SIGTERM) };
        let path = format!("/proc/{}", self.0);
        let _ = wait_for("a daemon's end", || {
            (!Path::new(&path).exists()).then_some(())
        });
    }
}

/// The processor time that a process has used so far, its ended threads' too, in nanoseconds.
pub(super) fn processor_time(pid: u32) -> Result<f64> {
    // clock_getcpuclockid(3): glibc makes the same number.
    let clock = (!pid.cast_signed() << 3) | 2;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(format!("the processor time of process {pid}: {error}").into());
    }
    Ok(time.tv_sec as f64 * 1e9 + time.tv_nsec as f64)
}

/// An error where a process has no secret memory: its figures would be another's.
pub(super) fn must_be_protected(pid: u32) -> Result<()> {
    match fs::read_to_string(format!("/proc/{pid}/maps")) {
        Ok(maps) if maps.contains("/secretmem") => Ok(()),
        Ok(_) => Err(format!("process {pid} has no secret memory").into()),
        // Non-dumpable: an ordinary user sees nothing of it, which `run` alone arranges here.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Copies a directory and what is in it, sockets left out.
pub(super) fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_directory(&entry.path(), &to)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
