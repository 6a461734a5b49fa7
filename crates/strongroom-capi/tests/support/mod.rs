//! What the tests of the C library share: the library as it is installed, and C's compiler.

#![allow(
    dead_code,
    reason = "every test file compiles this module and uses its own part"
)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../../../../tests/skip.rs"]
mod skip;

#[allow(unused_imports, reason = "not every test program can lack something")]
pub(crate) use skip::skip;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The library as `install` puts it in place, and a directory for programs. It is removed at the end.
pub(crate) struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // An ordinary user is to run programs that are here.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        // Cargo builds the library for the tests, into the directory where they are themselves.
        let test = std::env::current_exe().unwrap();
        let output = Command::new(manifest("install"))
            .args([test.parent().unwrap(), directory.path()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.path().join("lib/libstrongroom.so")
    }

    /// What the compiler and the linker are told, by pkg-config.
    pub(crate) fn flags(&self, how: &[&str]) -> Vec<String> {
        let output = Command::new("pkg-config")
            .args(["--cflags", "--libs"])
            .args(how)
            .arg("strongroom")
            .env("PKG_CONFIG_PATH", self.path().join("lib/pkgconfig"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let flags = String::from_utf8(output.stdout).unwrap();
        flags.split_whitespace().map(str::to_owned).collect()
    }

    /// Compiles one of `tests/programs` against the header and the shared library.
    #[track_caller]
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let program = self.path().join(name);
        let mut gcc = compiler("gcc", "c99");
        gcc.arg("-D_GNU_SOURCE")
            .arg(manifest(&format!("tests/programs/{name}.c")))
            .arg("-o")
            .arg(&program)
            .args(self.flags(&[]))
            .args(["-pthread", "-ldl"]);
        run(&mut gcc);
        program
    }

    /// A program as users start it.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", self.path().join("lib"));
        command
    }

    /// Compiles one of the programs, has it run to a good end, and returns what it says.
    #[track_caller]
    pub(crate) fn says(&self, name: &str) -> String {
        run(&mut self.command(self.program(name)))
    }
}

/// A path of this package.
pub(crate) fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A compiler that takes no warning.
pub(crate) fn compiler(name: &str, standard: &str) -> Command {
    let mut compiler = Command::new(name);
    compiler.args(["-Wall", "-Wextra", "-Werror", "-O1"]);
    compiler.arg(format!("-std={standard}"));
    compiler
}

/// Runs a command to its good end. Returns what it wrote.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn told(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
