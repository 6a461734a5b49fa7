//! A victim as its attackers hold it: a process that answers, and that is ended with the handle.

use super::{Broken, Loot, Outcome};
use crate::victim::{Kind, LENGTH, OFFSET, hash};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use strongroom_core::Protections;

/// The user that victims and thieves of the same user run as where root attacks.
const NOBODY: u32 = 65534;
/// How long a victim may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// File systems in memory, which write without a device and so without a pin.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// What a victim is and how it is started.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    kind: Kind,
    /// The level of `strongroom run`, where that is around it.
    pub(super) level: Option<&'static str>,
}

impl Spec {
    pub(super) const ALL: [Spec; 5] = [
        Spec {
            name: "plain",
            kind: Kind::Plain,
            level: None,
        },
        Spec {
            name: "locked",
            kind: Kind::Locked,
            level: None,
        },
        Spec {
            name: "open-fd",
            kind: Kind::OpenFd,
            level: None,
        },
        Spec {
            name: "strongroom-locked",
            kind: Kind::Plain,
            level: Some("locked"),
        },
        Spec {
            name: "strongroom-hidden",
            kind: Kind::Plain,
            level: Some("hidden"),
        },
    ];
}

/// Why no attack can be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No directory for dumps and files.
    #[error("no directory for the attacks' files can be made in {0}: {1}")]
    Directory(PathBuf, #[source] io::Error),
    /// The command itself cannot be copied for another user to run.
    #[error("the command cannot be made ready for another user: {0}")]
    Command(#[source] io::Error),
}

/// What all victims share: the command to start them, and a directory that goes with this.
#[derive(Debug)]
pub struct Setup {
    command: PathBuf,
    directory: PathBuf,
    root: bool,
}

impl Setup {
    /// Prepares for victims of an ordinary user; `command` is strongroom itself.
    ///
    /// # Errors
    /// Where no directory can be made, or the command cannot be copied there.
    pub fn new(command: &Path) -> Result<Self, SetupError> {
        let root = rustix::process::geteuid().is_root();
        allow_cores();
        let base = base();
        let directory = base.join(format!("strongroom-attack-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| SetupError::Directory(base.clone(), error))?;
        let mut setup = Self {
            command: command.to_owned(),
            directory,
            root,
        };
        if root {
            // A process that may not read its own program is not dumpable: no control would be one.
            let copy = setup.directory.join("strongroom");
            fs::copy(command, &copy)
                .and_then(|_| fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)))
                .and_then(|()| chown(&setup.directory, Some(NOBODY), Some(NOBODY)))
                .map_err(SetupError::Command)?;
            setup.command = copy;
        }
        Ok(setup)
    }

    /// Whether root attacks, and the victims are another user's.
    pub fn is_root(&self) -> bool {
        self.root
    }

    fn program(&self, root: bool) -> Command {
        let mut command = Command::new(&self.command);
        if self.root && !root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
            .current_dir(&self.directory)
            .env_remove("LD_PRELOAD");
        command
    }

    fn command(&self, spec: &Spec, receipt: Option<&Path>) -> Command {
        let mut command = self.program(false);
        if let Some(level) = spec.level {
            command.args(["run", "--level", level]);
            if let Some(receipt) = receipt {
                command.arg("--receipt").arg(receipt);
            }
            command.arg("--").arg(&self.command);
        }
        command.args(["victim", spec.kind.name()]);
        command
    }

    /// What a victim's receipt claims; none without strongroom. Receipts are written at exit, so
    /// it is that of a first one, started in the same way.
    pub(super) fn receipt(&self, spec: &Spec) -> Result<Option<serde_json::Value>, Broken> {
        if spec.level.is_none() {
            return Ok(None);
        }
        let path = self.directory.join(format!("receipt-{}", spec.name));
        let mut captive = Captive::start(self, self.command(spec, Some(&path)))?;
        captive.prove()?;
        captive.send(b"end\n")?;
        captive.ended()?;
        let text = fs::read_to_string(&path)
            .map_err(|error| Broken(format!("the receipt cannot be read: {error}")))?;
        let pid = u64::from(captive.pid.unsigned_abs());
        text.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|receipt| receipt["pid"].as_u64() == Some(pid))
            .map(Some)
            .ok_or_else(|| Broken("there is no receipt of the victim's".to_owned()))
    }

    /// A fresh victim, whose secret is in place and proven.
    pub(super) fn victim(&self, spec: &Spec) -> Result<Captive, Broken> {
        let mut captive = Captive::start(self, self.command(spec, None))?;
        captive.prove()?;
        Ok(captive)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Where files go: a file system with a device below it, if there is one, that other users reach.
fn base() -> PathBuf {
    let usual = std::env::temp_dir();
    let candidates = [
        usual.clone(),
        PathBuf::from("/var/tmp"),
        PathBuf::from("/tmp"),
    ];
    let mut reached: Vec<_> = candidates
        .into_iter()
        .filter(|path| is_open(path))
        .collect();
    let best = reached.iter().position(|path| is_on_a_device(path));
    match best {
        Some(best) => reached.swap_remove(best),
        None => reached.into_iter().next().unwrap_or(usual),
    }
}

/// Whether any user may pass through to it, or it need not be so.
fn is_open(path: &Path) -> bool {
    let passable =
        |path: &Path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    !rustix::process::geteuid().is_root() || path.ancestors().all(passable)
}

pub(super) fn is_on_a_device(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| !IN_MEMORY.contains(&found.f_type))
}

/// Lets this process, and so the victims, dump core as far as its hard limit allows.
fn allow_cores() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Core).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    // Where that fails the control writes no dump, and says so.
    let _ = setrlimit(Resource::Core, limit);
}

/// What a receipt says is held.
pub(super) fn held(receipt: &serde_json::Value) -> Protections {
    let names = receipt["held"].as_array().into_iter().flatten();
    names
        .filter_map(|name| strongroom_core::Protection::from_name(name.as_str()?))
        .map(strongroom_core::Protection::only)
        .collect()
}

/// A running victim. It ends with this value.
#[derive(Debug)]
pub struct Captive {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    unread: Vec<u8>,
    pid: i32,
    address: usize,
    secret: [u8; LENGTH],
    setup: SetupView,
}

/// What a captive needs of its setup.
#[derive(Debug)]
struct SetupView {
    command: PathBuf,
    directory: PathBuf,
    root: bool,
}

impl Captive {
    fn start(setup: &Setup, mut command: Command) -> Result<Self, Broken> {
        let broken = |error: io::Error| Broken(format!("the victim cannot be started: {error}"));
        let mut secret = [0; LENGTH];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut secret))
            .map_err(broken)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Broken("the victim has no pipes".to_owned()));
        };
        let mut captive = Self {
            pid: i32::try_from(child.id()).unwrap_or(0),
            child,
            stdin: Some(stdin),
            stdout,
            unread: Vec::new(),
            address: 0,
            secret,
            setup: SetupView {
                command: setup.command.clone(),
                directory: setup.directory.clone(),
                root: setup.root,
            },
        };
        let line = match captive.line() {
            Ok(line) => line,
            Err(broken) => return Err(captive.complaint().unwrap_or(broken)),
        };
        let words: Vec<&str> = line.split(' ').collect();
        let &["ready", pid, address, _] = words.as_slice() else {
            let refusal = line.strip_prefix("refused ").and_then(|n| n.parse().ok());
            return Err(Broken(refusal.map_or_else(
                || format!("the victim says: {line}"),
                |errno| {
                    let why = crate::thief::name(rustix::io::Errno::from_raw_os_error(errno));
                    format!("the victim could not get its memory: {why}")
                },
            )));
        };
        captive.address = address.parse().unwrap_or(0);
        if pid.parse() != Ok(captive.pid) {
            return Err(Broken("the victim has another process id".to_owned()));
        }
        captive.send(&secret)?;
        Ok(captive)
    }

    /// What it, or `run`, wrote to standard error before it ended.
    fn complaint(&mut self) -> Option<Broken> {
        let _ = self.child.kill();
        let mut text = String::new();
        let _ = self.child.stderr.take()?.read_to_string(&mut text);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then_some(Broken(text))
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Where the secret is.
    pub fn address(&self) -> usize {
        self.address
    }

    /// What is there.
    pub fn secret(&self) -> &[u8; LENGTH] {
        &self.secret
    }

    /// Where the page begins that the secret is in.
    pub fn page(&self) -> usize {
        self.address - OFFSET
    }

    pub(super) fn directory(&self) -> &Path {
        &self.setup.directory
    }

    pub(super) fn is_attacked_by_root(&self) -> bool {
        self.setup.root
    }

    /// Has the victim look whether the secret is where it says.
    ///
    /// # Errors
    /// Where it is not, or the victim does not answer.
    pub fn prove(&mut self) -> Result<(), Broken> {
        let answer = self.ask("hash")?;
        if answer == format!("hash {:x}", hash(self.secret)) {
            Ok(())
        } else {
            Err(Broken(
                "the secret is not where the victim says it is".to_owned(),
            ))
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let stdin = self
            .stdin
            .as_mut()
            .ok_or_else(|| Broken("the victim listens no longer".to_owned()))?;
        stdin
            .write_all(bytes)
            .map_err(|error| Broken(format!("the victim does not listen: {error}")))
    }

    /// Sends a command and returns the line that answers it.
    pub(super) fn ask(&mut self, command: &str) -> Result<String, Broken> {
        self.send(format!("{command}\n").as_bytes())?;
        self.line()
    }

    /// Sends a command that is answered by pages, and returns those and the call's result.
    pub(super) fn pages(&mut self, command: &str) -> Result<(Vec<u8>, i64), Broken> {
        const END: &[u8] = b"\nresult ";
        self.ask(command)?;
        loop {
            let end = self.unread.windows(END.len()).rposition(|w| w == END);
            if let (Some(at), Some(b'\n')) = (end, self.unread.last()) {
                let number = self.unread.get(at + END.len()..).unwrap_or_default();
                let number = std::str::from_utf8(number).ok();
                if let Some(result) = number.and_then(|text| text.trim_end().parse().ok()) {
                    let mut bytes = std::mem::take(&mut self.unread);
                    bytes.truncate(at);
                    return Ok((bytes, result));
                }
            }
            self.more()?;
        }
    }

    pub(super) fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<(), Broken> {
        let timeout = Timespec {
            tv_sec: PATIENCE.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut ready = [PollFd::new(&self.stdout, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) => return Err(Broken("the victim does not answer".to_owned())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Broken(format!("poll: {error}"))),
        }
        let mut bytes = [0; 8192];
        match self.stdout.read(&mut bytes) {
            Ok(0) => Err(Broken("the victim has ended".to_owned())),
            Ok(read) => {
                self.unread
                    .extend_from_slice(bytes.get(..read).unwrap_or_default());
                Ok(())
            }
            Err(error) => Err(Broken(format!("the victim cannot be heard: {error}"))),
        }
    }

    /// Kills it, and returns once it is gone.
    pub(super) fn kill(&mut self) -> Result<(), Broken> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed
            .map(|_| ())
            .map_err(|error| Broken(format!("the victim cannot be killed: {error}")))
    }

    /// Waits until it has ended by itself.
    pub(super) fn ended(&mut self) -> Result<ExitStatus, Broken> {
        self.stdin = None;
        wait(&mut self.child)
    }

    /// Lifts the victim's limit on core dumps, from outside.
    pub(super) fn allow_core(&self) -> Result<(), rustix::io::Errno> {
        use rustix::process::{Resource, Rlimit, prlimit};
        let pid = Pid::from_raw(self.pid);
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        prlimit(pid, Resource::Core, unlimited).map(|_| ())
    }

    /// The victim's hard limit on core dumps, as /proc shows it, is 0.
    pub(super) fn may_not_dump(&self) -> bool {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.pid));
        limits.is_ok_and(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("Max core file size"))
                .any(|line| line.split_whitespace().nth(1) == Some("0"))
        })
    }

    /// Lets a thief look for the secret, as the victim's user or as root.
    pub(super) fn rob(&mut self, way: &str, root: bool) -> Result<Outcome, Broken> {
        let broken = |error: io::Error| Broken(format!("the thief cannot be started: {error}"));
        let mut command = Command::new(&self.setup.command);
        if self.setup.root && !root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut thief = command
            .arg("thief")
            .arg(way)
            .args([self.pid.to_string(), self.address.to_string()])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(broken)?;
        if let Some(mut stdin) = thief.stdin.take() {
            let _ = stdin.write_all(&self.secret);
        }
        let status = wait(&mut thief)?;
        let mut text = String::new();
        if let Some(mut stdout) = thief.stdout.take() {
            stdout.read_to_string(&mut text).map_err(broken)?;
        }
        let loot: Option<Vec<Loot>> = text.lines().map(Loot::parse).collect();
        match loot {
            Some(loot) if status.success() && !loot.is_empty() => Ok(Loot::sum(&loot)),
            _ => Err(Broken(format!("the thief failed ({status})"))),
        }
    }
}

/// Waits for a child that should end soon; one that does not is killed.
pub(super) fn wait(child: &mut Child) -> Result<ExitStatus, Broken> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if start.elapsed() > 2 * PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Broken("it did not end in time".to_owned()));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(Broken(format!("it cannot be waited for: {error}"))),
        }
    }
}

impl Drop for Captive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
