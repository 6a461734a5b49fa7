//! A place to run programs in, plain or protected, as root or as an ordinary user.

use super::is_root;
use super::session::{self, Process, Session};
use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use tempfile::TempDir;

/// The ordinary user's number: nobody.
const USER: u32 = 65534;
/// The usual limit on locked memory.
const USER_MEMLOCK: u64 = 8 << 20;

/// As whom a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// As root.
    Root,
    /// As an ordinary user who may lock 8 MiB (the one who runs the tests, where that is not root).
    User,
}

/// As whom everything is tried.
#[allow(
    non_snake_case,
    reason = "it reads as the constant that it is, but for the user's number"
)]
pub(crate) fn WHO() -> &'static [Who] {
    if is_root() {
        &[Who::Root, Who::User]
    } else {
        &[Who::User]
    }
}

/// How a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// As it is.
    Plain,
    /// By `strongroom run` with these options.
    Run(&'static [&'static str]),
}

impl How {
    pub(crate) const HEAP: How = How::Run(&["--scope", "heap"]);
    pub(crate) const LOCKED: How = How::Run(&["--scope", "locked"]);

    pub(crate) fn is_protected(self) -> bool {
        self != How::Plain
    }
}

/// A directory of its own, and a way to run programs.
pub(crate) struct Room {
    directory: TempDir,
    who: Who,
    how: How,
    memlock: Option<u64>,
    without_secret_memory: bool,
    environment: Vec<(String, String)>,
}

impl Room {
    pub(crate) fn new(who: Who, how: How) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("strongroom-test-")
            .tempdir_in("/tmp")
            .expect("a directory in /tmp");
        if who == Who::User && is_root() {
            chown(directory.path(), Some(USER), Some(USER)).expect("chown by root");
        }
        Self {
            directory,
            who,
            how,
            memlock: None,
            without_secret_memory: false,
            environment: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn how(&self) -> How {
        self.how
    }

    pub(crate) fn who(&self) -> Who {
        self.who
    }

    pub(crate) fn is_protected(&self) -> bool {
        self.how.is_protected()
    }

    /// Sets RLIMIT_MEMLOCK, soft and hard.
    pub(crate) fn with_memlock(mut self, bytes: u64) -> Self {
        self.memlock = Some(bytes);
        self
    }

    /// Has the kernel answer ENOSYS to memfd_secret, as one does that has none.
    pub(crate) fn without_secret_memory(mut self) -> Self {
        self.without_secret_memory = true;
        self
    }

    /// Sets a variable for every command.
    pub(crate) fn with_env(mut self, key: &str, value: impl AsRef<Path>) -> Self {
        let value = value.as_ref().to_str().expect("text").to_owned();
        self.environment.push((key.to_owned(), value));
        self
    }

    /// A new directory that belongs to the room's user and is closed to others.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("chmod");
        self.give(&path);
        path
    }

    /// A new file that belongs to the room's user and is closed to others.
    pub(crate) fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, contents).expect("a new file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod");
        self.give(&path);
        path
    }

    fn give(&self, path: &Path) {
        if self.who == Who::User && is_root() {
            chown(path, Some(USER), Some(USER)).expect("chown by root");
        }
    }

    /// Compiles a program of tests/programs into the room.
    pub(crate) fn program(&self, source: &str, flags: &[&str]) -> PathBuf {
        let name = Path::new(source).file_stem().expect("a file name");
        self.copy(&build(source, flags), name.to_str().expect("text"))
    }

    /// Copies an executable into the room.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let path = self.path().join(name);
        // By a process of its own: while this one has a file open for writing, another
        // test may fork, and the file would be busy for as long as that child has it too.
        let status = Command::new("/usr/bin/install")
            .args(["-m", "755"])
            .arg(from)
            .arg(&path)
            .status();
        assert!(
            status.expect("install").success(),
            "a copy of {}",
            from.display()
        );
        path
    }

    /// A command in the room, plain or protected as the room is.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self.how {
            How::Plain => self.plain(program),
            How::Run(options) => {
                let mut command = self.plain(self.strongroom());
                command.arg("run").args(options).arg("--").arg(program);
                command
            }
        }
    }

    /// The `strongroom` command, at a place where the room's user can run it.
    fn strongroom(&self) -> PathBuf {
        let built = Path::new(env!("CARGO_BIN_EXE_strongroom"));
        if self.who == Who::Root || !is_root() || is_open(built) {
            return built.to_owned();
        }
        let copy = self.path().join("bin-strongroom");
        if copy.exists() {
            copy
        } else {
            self.copy(built, "bin-strongroom")
        }
    }

    /// A command in the room that is not protected, for what only asks or prepares.
    pub(crate) fn plain(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.path())
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(self.path())
            .stdin(Stdio::null())
            .process_group(0);
        let mut memlock = self.memlock;
        if self.who == Who::User {
            memlock = memlock.or(Some(USER_MEMLOCK));
            if is_root() {
                command.uid(USER).gid(USER);
            }
        }
        if let Some(bytes) = memlock {
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: bytes,
            };
            // SAFETY: setrlimit is async-signal-safe and reads only its argument.
            unsafe {
                command.pre_exec(
                    move || match libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) {
                        0 => Ok(()),
                        _ => Err(std::io::Error::last_os_error()),
                    },
                );
            }
        }
        if self.without_secret_memory {
            // SAFETY: it makes two system calls and allocates nothing.
            unsafe { command.pre_exec(deny_secret_memory) };
        }
        command
    }

    /// Runs a command of this room to its end.
    #[track_caller]
    pub(crate) fn run(&self, command: &mut Command) -> Transcript {
        let transcript = session::run(command);
        Transcript {
            status: transcript.status,
            stdout: self.anonymous(&transcript.stdout),
            stderr: self.anonymous(&transcript.stderr),
        }
    }

    /// Runs a command of this room to its end, which must be a success.
    #[track_caller]
    pub(crate) fn succeed(&self, command: &mut Command) -> Transcript {
        let transcript = self.run(command);
        assert_eq!(
            transcript.status, "exit 0",
            "{command:?} ({:?}, {:?})\n{transcript}",
            self.who, self.how
        );
        transcript
    }

    /// Starts a program that works in the background until the test is over.
    #[track_caller]
    pub(crate) fn start(&self, command: &mut Command) -> Process {
        Process::start(command)
    }

    /// Starts a test program that stops at named stages.
    #[track_caller]
    pub(crate) fn session(&self, command: &mut Command) -> Session {
        Session::start(command)
    }

    /// The room's own path stands in outputs as `@`, so that two rooms compare.
    fn anonymous(&self, text: &str) -> String {
        text.replace(self.path().to_str().expect("text"), "@")
    }
}

/// What a program said and how it ended.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Transcript {
    pub(crate) status: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl std::fmt::Display for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.status, self.stdout, self.stderr
        )
    }
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Does the same plain and protected, as everybody of `who`; what comes out must be equal.
#[track_caller]
pub(crate) fn same_as_plain<T: PartialEq + std::fmt::Debug>(
    who: &[Who],
    options: &'static [&'static str],
    act: impl Fn(&Room) -> T,
) {
    for &who in who {
        let plain = act(&Room::new(who, How::Plain));
        let protected = act(&Room::new(who, How::Run(options)));
        assert!(
            plain == protected,
            "as {who:?} with {options:?}, what came out differs\n=== plain\n{plain:#?}\n=== protected\n{protected:#?}"
        );
    }
}

/// Lets memfd_secret fail with ENOSYS, in this process and what becomes of it.
fn deny_secret_memory() -> std::io::Result<()> {
    const SYS_MEMFD_SECRET: u32 = 447;
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        // The call's number is the first field of what a filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            SYS_MEMFD_SECRET,
        ),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads `program` and the filter that it points to.
    let status = unsafe {
        match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
            0 => libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ),
            error => error,
        }
    };
    match status {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Waits until another process has made a file.
#[track_caller]
pub(crate) fn wait_for_file(path: &Path) {
    for _ in 0..18_000 {
        if path.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} does not appear", path.display());
}

/// Whether every user can reach a file: a checkout in a home directory often is closed.
fn is_open(path: &Path) -> bool {
    path.ancestors().skip(1).all(|directory| {
        std::fs::metadata(directory).is_ok_and(|data| data.permissions().mode() & 0o001 != 0)
    })
}

/// Compiles a program of tests/programs once per source and flags.
fn build(source: &str, flags: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());

    let mut built = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poison| poison.into_inner());
    let key = format!("{source} {}", flags.join(" "));
    if let Some((_, path)) = built.iter().find(|(done, _)| *done == key) {
        return path.clone();
    }
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    // One directory a test binary: two of them may compile the same program at once.
    let output = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("programs-{}", env!("CARGO_CRATE_NAME")));
    std::fs::create_dir_all(&output).expect("a directory for programs");
    let name = key.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let path = output.join(name);
    let compiler = if source.ends_with(".cpp") {
        "/usr/bin/g++"
    } else {
        "/usr/bin/gcc"
    };
    let result = Command::new(compiler)
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"])
        // What a program does with its memory is the test: no allocation and no write before a
        // free is to be left out.
        .args([
            "-fno-allocation-dce",
            "-fno-builtin-malloc",
            "-fno-builtin-calloc",
        ])
        .args(["-fno-builtin-realloc", "-fno-builtin-free", "-o"])
        .arg(&path)
        .arg(programs.join(source))
        .args(flags)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}; `cargo xtask test` installs it"));
    assert!(
        result.status.success(),
        "{source}:\n{}",
        String::from_utf8_lossy(&result.stderr)
    );
    built.push((key, path.clone()));
    path
}
