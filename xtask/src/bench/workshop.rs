//! Builds both sides, and makes the commands that start them.

use super::{Result, process};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The ordinary user's number: nobody.
const USER: u32 = 65534;

/// A directory of built programs, gone when this is dropped.
pub(super) struct Workshop {
    directory: TempDir,
    root: PathBuf,
}

/// A command without what cargo tells its own children: a loader that searches cargo's directories
/// too makes three times the calls of one that does not.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// Has cargo build a program, and tells where it is.
fn cargo(root: &Path, options: &[&str], name: &str) -> Result<PathBuf> {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .current_dir(root)
        .args(options)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let messages = process::output(&mut build)?;
    let built = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/name").and_then(|n| n.as_str()) == Some(name))
        .find_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)));
    built.ok_or_else(|| format!("cargo built no `{name}`").into())
}

impl Workshop {
    /// Builds the command, which holds the preload object, as a release.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let options = ["build", "--release", "--package", "strongroom-cli"];
        let built = cargo(root, &options, "strongroom")?;
        // In /tmp, where an ordinary user can run them.
        let directory = tempfile::Builder::new()
            .prefix("strongroom-bench-")
            .tempdir_in("/tmp")?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        fs::copy(built, directory.path().join("strongroom"))?;
        Ok(Self {
            directory,
            root: root.to_owned(),
        })
    }

    /// Where the programs are.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Compiles `source`.c as `name`, with the compiler's `options` after it.
    pub(super) fn compile(&self, source: &str, name: &str, options: &[&str]) -> Result<PathBuf> {
        let program = self.path().join(name);
        let mut gcc = Command::new("gcc");
        gcc.args([
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-std=gnu11",
            "-pthread",
        ])
        .arg(
            self.root
                .join("xtask/bench-programs")
                .join(source)
                .with_extension("c"),
        )
        .args(options)
        .arg("-o")
        .arg(&program);
        process::output(&mut gcc)?;
        Ok(program)
    }

    /// Builds a crate's own benches.
    pub(super) fn benches(&self, package: &str, name: &str) -> Result<PathBuf> {
        let options = ["bench", "--no-run", "--package", package, "--bench", name];
        cargo(&self.root, &options, name)
    }

    /// A new directory, only for its owner, who is root or whoever runs this.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        Ok(path)
    }

    /// A command as it is.
    pub(super) fn plain(&self, program: impl AsRef<OsStr>) -> Command {
        command(program)
    }

    /// The same under `strongroom run`: hidden, or not at all.
    pub(super) fn protected(&self, program: impl AsRef<OsStr>) -> Command {
        self.protected_as("heap", program)
    }

    /// As [`Workshop::protected`], in another scope.
    pub(super) fn protected_as(&self, scope: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = command(self.path().join("strongroom"));
        command
            .args(["run", "--level", "hidden", "--scope", scope, "--"])
            .arg(program);
        command
    }

    /// A command as an ordinary user who may lock `memlock` bytes.
    pub(super) fn as_user(&self, memlock: u64, command: &Command) -> Result<Command> {
        let mut limited = Command::new("prlimit");
        limited
            .arg(format!("--memlock={memlock}:{memlock}"))
            .arg(command.get_program())
            .args(command.get_args());
        if is_root() {
            let home = self.path().join("home");
            if !home.exists() {
                fs::create_dir(&home)?;
                chown(&home, Some(USER), Some(USER))?;
            }
            limited.uid(USER).gid(USER).env("HOME", home);
            limited.env_remove("XDG_CACHE_HOME").current_dir("/");
        }
        Ok(limited)
    }
}

/// Whether this process may become an ordinary user.
pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|status| status.uid() == 0)
}
