//! What all victims share, and who they are.

use super::captive::Captive;
use super::program::{NotFound, Program};
use super::roster::{Owner, Spec, Subject, Visitor};
use super::{Broken, tree};
use rustix::io::FdFlags;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use strongroom_core::Protections;

/// The user that victims and thieves of the same user run as where root attacks.
const NOBODY: u32 = 65534;
/// File systems in memory, which write without a device and so without a pin.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Why there is no O_DIRECT write.
pub(super) const NO_DEVICE: &str = "neither $TMPDIR nor /var/tmp is on a disk; name one by TMPDIR";

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
    ground: Ground,
    roster: Vec<Spec>,
    program: Option<Program>,
}

/// Where the attacks take place, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    /// strongroom itself, where the victims' user can run it.
    pub(super) command: PathBuf,
    pub(super) directory: PathBuf,
    /// Who the victims are, and thieves of the same user: user and group, where root attacks.
    pub(super) user: Option<(u32, u32)>,
    /// /dev/kvm, which root hands to monitors of a user who may not open it.
    kvm: Option<Arc<File>>,
}

/// While it lives, children inherit the file.
#[derive(Debug)]
pub(super) struct Lent<'g>(&'g File);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let _ = rustix::io::fcntl_setfd(self.0, FdFlags::CLOEXEC);
    }
}

impl Ground {
    /// What a monitor that is started now inherits.
    pub(super) fn lend(&self, owner: Owner) -> Option<Lent<'_>> {
        let file = self.kvm.as_deref().filter(|_| owner == Owner::Guest)?;
        rustix::io::fcntl_setfd(file, FdFlags::empty()).ok()?;
        Some(Lent(file))
    }

    pub(super) fn is_root(&self) -> bool {
        self.user.is_some()
    }

    /// A new directory of the victims' user, closed to others.
    pub(super) fn new_directory(&self) -> io::Result<PathBuf> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("work-{number}"));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        if let Some((user, group)) = self.user {
            chown(&path, Some(user), Some(group))?;
        }
        Ok(path)
    }

    /// `program`, as the victims' user or as root.
    pub(super) fn start(&self, program: impl AsRef<OsStr>, root: bool) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.user.filter(|_| !root) {
            command.uid(user).gid(group);
        }
        command.env_remove("LD_PRELOAD");
        command
    }
}

impl Setup {
    /// Prepares for victims of an ordinary user; `command` is strongroom itself.
    ///
    /// # Errors
    /// Where no directory can be made, or the command cannot be copied there.
    pub fn new(command: &Path) -> Result<Self, SetupError> {
        let root = rustix::process::geteuid().is_root();
        allow_cores();
        // As /proc/PID/exe and cwd will name it.
        let base = base();
        let base = fs::canonicalize(&base).unwrap_or(base);
        let directory = base.join(format!("strongroom-attack-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| SetupError::Directory(base.clone(), error))?;
        let mut ground = Ground {
            command: command.to_owned(),
            directory,
            user: root.then_some((NOBODY, NOBODY)),
            // Without it the monitors look for themselves, and say what is missing.
            kvm: root.then(kvm).flatten().map(Arc::new),
        };
        let setup = |ground| Self {
            ground,
            roster: Spec::usual(),
            program: None,
        };
        if let Some((user, group)) = ground.user {
            // A process that may not read its own program is not dumpable: no control would be one.
            let copy = ground.directory.join("strongroom");
            let made = fs::copy(command, &copy)
                .and_then(|_| fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)))
                .and_then(|()| chown(&ground.directory, Some(user), Some(group)));
            if let Err(error) = made {
                // Its directory goes with it.
                drop(setup(ground));
                return Err(SetupError::Command(error));
            }
            ground.command = copy;
        }
        Ok(setup(ground))
    }

    /// Another victim beside the usual ones.
    pub fn invite(&mut self, visitor: Visitor) {
        self.roster.push(visitor.into());
    }

    /// A program instead of the usual victims. Where root attacks, it runs as the user who called
    /// sudo(8), or as the victims do otherwise. From now on orphaned processes below this one are
    /// its children.
    ///
    /// # Errors
    /// Where the directory cannot be given to that user.
    pub fn attack_program(&mut self, program: Program) -> Result<(), SetupError> {
        if let (Some(user), Some(who)) = (&mut self.ground.user, who_called_sudo()) {
            *user = who;
            chown(&self.ground.directory, Some(who.0), Some(who.1))
                .map_err(|error| SetupError::Directory(self.ground.directory.clone(), error))?;
        }
        tree::adopt_orphans();
        self.roster = Spec::of_program();
        self.program = Some(program);
        Ok(())
    }

    /// Starts the program plain, and ends it once its secret was found: without that there is nothing
    /// to attack.
    ///
    /// # Errors
    /// Where the secret is not found, and why.
    pub fn rehearse(&self) -> Result<(), NotFound> {
        match &self.program {
            Some(program) => Captive::of_program(&self.ground, program, None, None).map(drop),
            None => Ok(()),
        }
    }

    pub(super) fn program(&self) -> Option<&Program> {
        self.program.as_ref()
    }

    /// Whether root attacks, and the victims are another user's.
    pub fn is_root(&self) -> bool {
        self.ground.is_root()
    }

    pub(super) fn roster(&self) -> &[Spec] {
        &self.roster
    }

    /// The command that starts a victim which takes part.
    fn command(&self, victim: &str, spec: &Spec, receipt: Option<&Path>) -> Command {
        let mut command = self.ground.start(&self.ground.command, false);
        command.current_dir(&self.ground.directory);
        if let Some(level) = spec.run {
            command.args(["run", "--level", level]);
            if let Some(receipt) = receipt {
                command.arg("--receipt").arg(receipt);
            }
            command.arg("--").arg(&self.ground.command);
        }
        command.args(["victim", victim]);
        if let Some(kvm) = self
            .ground
            .kvm
            .as_ref()
            .filter(|_| spec.owner == Owner::Guest)
        {
            command.arg("--kvm").arg(kvm.as_raw_fd().to_string());
        }
        command
    }

    /// What a victim's receipt claims; none without strongroom. Those of `run` are written at exit,
    /// so it is that of a first one, started in the same way.
    pub(super) fn receipt(&self, spec: &Spec) -> Result<Option<serde_json::Value>, Broken> {
        if !spec.is_kept() {
            return Ok(None);
        }
        let victim = match (spec.subject, &self.program) {
            (Subject::Program, Some(program)) => {
                if let Some(receipt) = self.receipt_of_program(spec, program)? {
                    return Ok(Some(receipt));
                }
                // It ended by a signal and wrote none: what stands for it was started as it was.
                "plain"
            }
            (Subject::Partner(victim), _) => victim,
            (Subject::Program, None) => return Err(Broken("there is no program".to_owned())),
        };
        let path = self.receipt_path(spec);
        let command = self.command(victim, spec, Some(&path));
        let mut captive = Captive::start(&self.ground, spec.owner, command)?;
        captive.prove()?;
        if spec.run.is_none() {
            let line = captive.ask("receipt")?;
            return serde_json::from_str(&line)
                .map(Some)
                .map_err(|error| Broken(format!("the victim's receipt: {error}")));
        }
        captive.send(b"end\n")?;
        captive.ended()?;
        receipt_of(captive.pid(), &path)
            .map(Some)
            .ok_or_else(|| Broken("there is no receipt of the victim's".to_owned()))
    }

    fn receipt_of_program(
        &self,
        spec: &Spec,
        program: &Program,
    ) -> Result<Option<serde_json::Value>, Broken> {
        let path = self.receipt_path(spec);
        let captive = Captive::of_program(&self.ground, program, spec.run, Some(&path));
        let mut captive = captive.map_err(not_proven)?;
        captive.end_gently();
        Ok(receipt_of(captive.pid(), &path))
    }

    fn receipt_path(&self, spec: &Spec) -> PathBuf {
        self.ground.directory.join(format!("receipt-{}", spec.name))
    }

    /// A fresh victim, whose secret is in place and proven.
    pub(super) fn victim(&self, spec: &Spec) -> Result<Captive, Broken> {
        match (spec.subject, &self.program) {
            (Subject::Program, Some(program)) => {
                Captive::of_program(&self.ground, program, spec.run, None).map_err(not_proven)
            }
            (Subject::Partner(victim), _) => {
                let command = self.command(victim, spec, None);
                let mut captive = Captive::start(&self.ground, spec.owner, command)?;
                captive.prove()?;
                Ok(captive)
            }
            (Subject::Program, None) => Err(Broken("there is no program".to_owned())),
        }
    }
}

fn not_proven(why: NotFound) -> Broken {
    Broken(format!("not proven to be there: {why}"))
}

/// The receipt of one process among those of a file.
fn receipt_of(pid: i32, path: &Path) -> Option<serde_json::Value> {
    let text = fs::read_to_string(path).ok()?;
    let pid = u64::from(pid.unsigned_abs());
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|receipt| receipt["pid"].as_u64() == Some(pid))
}

/// User and group as sudo(8) tells them; none for root's own.
fn who_called_sudo() -> Option<(u32, u32)> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let user = number("SUDO_UID").filter(|&user| user != 0)?;
    Some((user, number("SUDO_GID").unwrap_or(user)))
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.ground.directory);
    }
}

fn kvm() -> Option<File> {
    File::options().read(true).write(true).open("/dev/kvm").ok()
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
