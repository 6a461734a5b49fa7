//! Processes that a test starts and ends, and test programs that stop at named stages.
//!
//! A test program prints `#stage NAME PID ADDRESS LENGTH` and then waits for one line
//! on its standard input; see tests/programs/common.h. Whatever else it prints is what
//! the test compares.

use super::room::Transcript;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

/// After this long a program hangs: far beyond what any takes, so that it decides
/// nothing but when a broken test run ends.
const HANGS: i32 = 180_000;

/// A running process; it and its process group end with the test.
pub(crate) struct Process {
    child: Child,
    stdout: File,
    stderr: File,
    ended: bool,
}

impl Process {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        // Files, not pipes: a daemon that inherits a pipe would keep its reader waiting.
        let (stdout, stderr) = (
            tempfile::tempfile().expect("a file"),
            tempfile::tempfile().expect("a file"),
        );
        let child = command
            .stdout(stdout.try_clone().expect("dup"))
            .stderr(stderr.try_clone().expect("dup"))
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self {
            child,
            stdout,
            stderr,
            ended: false,
        }
    }

    /// The program's process number.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What the process has written so far.
    pub(crate) fn so_far(&self) -> Transcript {
        Transcript {
            status: "running".to_owned(),
            stdout: contents(&self.stdout),
            stderr: contents(&self.stderr),
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Transcript {
        let status = wait(&mut self.child).unwrap_or_else(|| {
            panic!(
                "process {} hangs; so far it said\n{}",
                self.pid(),
                self.so_far()
            )
        });
        self.ended = true;
        Transcript {
            status: describe(status),
            stdout: contents(&self.stdout),
            stderr: contents(&self.stderr),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            end(&mut self.child);
        }
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Transcript {
    Process::start(command).wait()
}

/// A test program with stages.
pub(crate) struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    unread: Vec<u8>,
    said: String,
    stderr: File,
    ended: bool,
}

/// Where a test program has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) pid: i32,
    pub(crate) address: u64,
    pub(crate) length: usize,
}

impl Session {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let stderr = tempfile::tempfile().expect("a file");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().expect("dup"))
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Self {
            child,
            stdin,
            stdout: stdout.expect("a pipe"),
            unread: Vec::new(),
            said: String::new(),
            stderr,
            ended: false,
        }
    }

    /// Waits for the program to stop at the stage of that name.
    #[track_caller]
    pub(crate) fn stage(&mut self, name: &str) -> Stage {
        let Some(line) = self.next_mark() else {
            let status = wait(&mut self.child).map_or_else(|| "hangs".to_owned(), describe);
            panic!(
                "the program ended before its stage `{name}`: {status}\n--- stdout\n{}\n--- stderr\n{}",
                self.said,
                contents(&self.stderr)
            );
        };
        let stage = Stage::parse(&line).unwrap_or_else(|| panic!("not a stage: {line}"));
        assert_eq!(stage.name, name, "another stage than expected");
        stage
    }

    /// Waits for the program to stop at its next stage, or to have said all it has to say.
    #[track_caller]
    pub(crate) fn any_stage(&mut self) -> Option<Stage> {
        let line = self.next_mark()?;
        Some(Stage::parse(&line).unwrap_or_else(|| panic!("not a stage: {line}")))
    }

    /// Lets the program go on from where it stopped.
    #[track_caller]
    pub(crate) fn go(&mut self) {
        self.send(b"\n");
    }

    /// Writes to the program's standard input.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("the input is open");
        stdin.write_all(bytes).expect("the program reads its input");
    }

    /// Reads what the program still has to say, and waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Transcript {
        self.stdin = None;
        if let Some(line) = self.next_mark() {
            panic!("a stage that the test does not know: {line}");
        }
        let status =
            wait(&mut self.child).unwrap_or_else(|| panic!("process {} hangs", self.child.id()));
        self.ended = true;
        Transcript {
            status: describe(status),
            stdout: std::mem::take(&mut self.said),
            stderr: contents(&self.stderr),
        }
    }

    /// The next line that starts with `#`; the others are kept as what was said.
    fn next_mark(&mut self) -> Option<String> {
        loop {
            while let Some(end) = self.unread.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).into_owned();
                if line.starts_with('#') {
                    return Some(line.trim_end().to_owned());
                }
                self.said.push_str(&line);
            }
            assert!(
                readable(self.stdout.as_raw_fd()),
                "process {} hangs; so far it said\n{}\n--- stderr\n{}",
                self.child.id(),
                self.said,
                contents(&self.stderr)
            );
            let mut buffer = [0; 4096];
            match self.stdout.read(&mut buffer).expect("a pipe") {
                0 => {
                    self.said
                        .push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.unread)));
                    return None;
                }
                n => self.unread.extend_from_slice(&buffer[..n]),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            end(&mut self.child);
        }
    }
}

impl Stage {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("#stage ")?.split(' ');
        let name = words.next()?.to_owned();
        let pid = words.next()?.parse().ok()?;
        let address = u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?;
        let length = words.next()?.parse().ok()?;
        Some(Self {
            name,
            pid,
            address,
            length,
        })
    }
}

/// A process that is not our child, such as a daemon; it ends with the test.
pub(crate) struct Daemon {
    pidfd: OwnedFd,
    pid: i32,
}

impl Daemon {
    #[track_caller]
    pub(crate) fn of(pid: i32) -> Self {
        // SAFETY: pidfd_open takes no pointer.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        assert!(fd >= 0, "process {pid}: {}", io::Error::last_os_error());
        // SAFETY: the kernel has just made this descriptor and nobody else knows of it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Self { pidfd, pid }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub(crate) fn wait(self) {
        assert!(
            readable(self.pidfd.as_raw_fd()),
            "process {} does not end",
            self.pid
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            // SAFETY: no siginfo is passed.
            unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    self.pidfd.as_raw_fd(),
                    signal,
                    std::ptr::null::<libc::siginfo_t>(),
                    0,
                )
            };
            if poll(self.pidfd.as_raw_fd(), 5_000) {
                return;
            }
        }
    }
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: kill takes no pointer.
    unsafe { libc::kill(pid, signal) };
}

/// Ends a child and its process group, which the child leads.
fn end(child: &mut Child) {
    if let Ok(None) = child.try_wait() {
        kill(-(child.id() as i32), libc::SIGKILL);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    // SAFETY: pidfd_open takes no pointer; the child has not been waited for, so
    // its number is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    if fd >= 0 {
        // SAFETY: the kernel has just made this descriptor and nobody else knows of it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        if !readable(pidfd.as_raw_fd()) {
            return None;
        }
    }
    child.wait().ok()
}

/// Waits until a descriptor has something to read; false where it hangs.
fn readable(fd: i32) -> bool {
    poll(fd, HANGS)
}

fn poll(fd: i32, milliseconds: i32) -> bool {
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one valid entry.
        match unsafe { libc::poll(&mut entry, 1, milliseconds) } {
            0 => return false,
            n if n > 0 => return true,
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("{status:?}"),
    }
}

fn contents(file: &File) -> String {
    // Its own open file description would share the offset with the writer.
    let mut bytes = Vec::new();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    if let Ok(mut reader) = File::open(path) {
        let _ = reader.rewind();
        let _ = reader.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
