//! What `strongroom run` refuses to start, with cause and fix, and what a program that it
//! does start finds as it would have without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use support::{is_root, skip};
use tempfile::TempDir;

const NOBODY: u32 = 65_534;

/// Held while a program file is written and while a process is started: a child that has not
/// yet reached its exec holds a file open that another test writes, and that is then "busy".
static BUSY: Mutex<()> = Mutex::new(());

fn alone<T>(work: impl FnOnce() -> T) -> T {
    let _guard = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    work()
}

fn start(command: &mut Command) -> Child {
    alone(|| command.spawn()).unwrap()
}

/// A directory that everyone may read, with the command in it and a home for [`NOBODY`].
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::set_permissions(place.directory.path(), Permissions::from_mode(0o755)).unwrap();
        let command = env!("CARGO_BIN_EXE_strongroom");
        alone(|| fs::copy(command, place.path("strongroom"))).unwrap();
        fs::create_dir(place.path("home")).unwrap();
        if is_root() {
            std::os::unix::fs::chown(place.path("home"), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, mode: u32, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        alone(|| fs::write(&path, content)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn copy(&self, from: &str, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        alone(|| fs::copy(from, &path)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn compile(&self, name: &str, source: &str, options: &[&str]) -> PathBuf {
        let source = self.file(&format!("{name}.c"), 0o644, source.as_bytes());
        let path = self.path(name);
        let mut command = Command::new("gcc");
        command.arg("-o").arg(&path).arg(&source).args(options);
        let status = start(&mut command).wait().unwrap();
        assert!(status.success(), "gcc {name}");
        path
    }

    /// `strongroom run …`, as an ordinary user even where the tests run as root.
    fn run<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new(self.path("strongroom"));
        command.arg("run").args(arguments);
        self.ordinary(&mut command);
        command
    }

    /// As [`Place::run`], as the user of the tests.
    fn run_as_is<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new(self.path("strongroom"));
        command.arg("run").args(arguments);
        command
    }

    fn ordinary(&self, command: &mut Command) {
        command
            .env("HOME", self.path("home"))
            .env("PATH", "/usr/bin:/bin");
        command.env_remove("XDG_CACHE_HOME").current_dir("/");
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
    }
}

/// What came of a command, for people to read where a test fails.
struct Outcome {
    status: i32,
    out: String,
    err: String,
}

impl Outcome {
    fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
            .wait_with_output()
            .unwrap();
        let status = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap());
        Self {
            status,
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    #[track_caller]
    fn says(&self, status: i32, words: &[&str]) -> &Self {
        assert_eq!(self.status, status, "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "no `{word}` in:\n{}", self.err);
        }
        self
    }
}

/// Not started, for this cause, with this fix.
#[track_caller]
fn refused(command: &mut Command, words: &[&str]) {
    let outcome = Outcome::of(command);
    outcome
        .says(125, words)
        .says(125, &["strongroom: ", "\n  fix: "]);
    assert_eq!(outcome.out, "");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_static_program() {
    let place = Place::new();
    let program = place.compile("static", "int main(void) { return 7; }", &["-static"]);
    refused(
        &mut place.run(["--", text(&program)]),
        &[text(&program), "statically linked", "--best-effort"],
    );

    let pie = place.compile(
        "static-pie",
        "int main(void) { return 7; }",
        &["-static-pie"],
    );
    refused(&mut place.run(["--", text(&pie)]), &["statically linked"]);

    // An interpreter of a script is no better.
    let script = place.file(
        "script",
        0o755,
        format!("#!{}\n", program.display()).as_bytes(),
    );
    refused(
        &mut place.run(["--", text(&script)]),
        &[text(&script), text(&program), "statically linked"],
    );
}

#[test]
fn best_effort_runs_it_and_says_what_is_missing() {
    let place = Place::new();
    let program = place.compile("static", "int main(void) { return 7; }", &["-static"]);
    let receipt = place.path("home/receipt");
    let mut command = place.run([
        "--best-effort",
        "--receipt",
        text(&receipt),
        "--",
        text(&program),
        "word",
    ]);
    let outcome = Outcome::of(&mut command);
    outcome.says(7, &["going on", "statically linked"]);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);

    let line = fs::read_to_string(&receipt).unwrap();
    let receipt: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line.lines().count(), 1);
    assert_eq!(receipt["schema"], 1);
    assert_eq!(
        receipt["command"],
        serde_json::json!([text(&program), "word"])
    );
    assert_eq!(receipt["level"], serde_json::Value::Null);
    assert_eq!(receipt["held"], serde_json::json!([]));
    assert_eq!(receipt["missing"]["NoPeek"]["reason"], "cannot-preload");
    let asked = receipt["asked"].as_array().unwrap().len();
    assert_eq!(receipt["missing"].as_object().unwrap().len(), asked);
}

#[test]
fn a_program_for_another_machine() {
    let place = Place::new();
    // What the kernel reads first: class, byte order, version, type, machine.
    for (name, class, machine) in [("i386", 1, 3), ("x32", 1, 62), ("arm64", 2, 183)] {
        let mut header = vec![0; 64];
        header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
        (header[16], header[18]) = (2, machine);
        let program = place.file(name, 0o755, &header);
        refused(
            &mut place.run(["--", text(&program)]),
            &["32-bit", "64-bit x86 build"],
        );
    }
}

#[test]
fn a_program_with_another_loader() {
    let place = Place::new();
    let loader = "/lib/ld-musl-x86_64.so.1";
    let program = place.compile(
        "musl",
        "int main(void) { return 0; }",
        &[&format!("-Wl,--dynamic-linker={loader}")],
    );
    refused(
        &mut place.run(["--", text(&program)]),
        &[loader, "for glibc"],
    );
}

#[test]
fn a_privileged_program() {
    if !is_root() {
        return skip("it needs root, to make programs privileged");
    }
    let place = Place::new();
    let set_uid = place.copy("/usr/bin/id", "set-uid", 0o4755);
    refused(
        &mut place.run(["--", text(&set_uid)]),
        &["setuid", "--no-new-privs"],
    );
    // To root it gives nothing that root has not.
    Outcome::of(&mut place.run_as_is(["--", text(&set_uid)])).says(0, &[]);

    let set_gid = place.copy("/usr/bin/id", "set-gid", 0o2755);
    refused(
        &mut place.run(["--", text(&set_gid)]),
        &["setgid", "--no-new-privs"],
    );
    // Without the group that it would gain, it runs, protected.
    Outcome::of(&mut place.run(["--no-new-privs", "--", text(&set_gid)])).says(0, &[]);

    let capable = place.copy("/usr/bin/id", "capable", 0o755);
    let set = alone(|| {
        Command::new("/usr/sbin/setcap")
            .arg("cap_net_raw+ep")
            .arg(&capable)
            .status()
    });
    if set.is_ok_and(|status| status.success()) {
        refused(
            &mut place.run(["--", text(&capable)]),
            &["file capabilities", "setcap -r"],
        );
    } else {
        skip("it needs setcap (Debian package libcap2-bin)");
    }
}

#[test]
fn what_env_would_not_start_either() {
    let place = Place::new();
    let text_file = place.file("text", 0o644, b"#!/bin/sh\n");
    let orphan = place.file("orphan", 0o755, b"#!/nonexistent/interpreter\n");
    for (program, status, word) in [
        ("/nonexistent", 127, "no such file"),
        ("no-such-program-in-path", 127, "PATH"),
        ("", 127, "empty"),
        (text(&orphan), 127, "/nonexistent/interpreter"),
        (text(&text_file), 126, "may not be executed"),
        ("/", 126, "directory"),
    ] {
        Outcome::of(&mut place.run(["--", program])).says(status, &["strongroom: ", word]);
    }
}

#[test]
fn a_script_without_interpreter_runs_as_with_execvp() {
    let place = Place::new();
    let script = place.file("bare", 0o755, b"echo \"$0 $1\"\n");
    let outcome = Outcome::of(&mut place.run(["--", text(&script), "word"]));
    outcome.says(0, &[]);
    assert_eq!(outcome.out, format!("{} word\n", script.display()));
}

#[test]
fn a_wrong_command_line() {
    let place = Place::new();
    for arguments in [
        ["--level", "closed"],
        ["--fork", "maybe"],
        ["--no-such", "x"],
    ] {
        Outcome::of(place.run(arguments).args(["--", "true"])).says(125, &["error: "]);
    }
    Outcome::of(&mut place.run(["--scope", "locked"])).says(125, &["<CMD>"]);
    refused(
        &mut place.run(["--scope", "process", "--", "true"]),
        &["not built yet", "--scope heap"],
    );
    refused(
        &mut place.run(["--receipt", "/nonexistent/receipt", "--", "true"]),
        &["/nonexistent/receipt"],
    );
}

#[test]
fn a_directory_without_the_object() {
    let place = Place::new();
    let words = ["libstrongroom_preload.so", "--preload-dir"];
    refused(
        &mut place.run(["--preload-dir", text(place.directory.path()), "--", "true"]),
        &words,
    );
    refused(
        place
            .run(["--", "true"])
            .env("STRONGROOM_PRELOAD_DIR", "/nonexistent"),
        &words,
    );

    let spaced = place.path("a directory");
    fs::create_dir(&spaced).unwrap();
    fs::write(spaced.join("libstrongroom_preload.so"), "").unwrap();
    refused(
        &mut place.run(["--preload-dir", text(&spaced), "--", "true"]),
        &["a space", "--preload-dir"],
    );
}

#[test]
fn an_object_that_somebody_changed() {
    let place = Place::new();
    Outcome::of(&mut place.run(["--", "true"])).says(0, &[]);
    let cache = place.path("home/.cache/strongroom");
    let directory = fs::read_dir(&cache)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let object = directory.join("libstrongroom_preload.so");
    let intact = fs::read(&object).unwrap();

    let mut changed = intact.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&object, &changed).unwrap();
    refused(&mut place.run(["--", "true"]), &[text(&object), "rm -r"]);

    fs::write(&object, &intact).unwrap();
    Outcome::of(&mut place.run(["--", "true"])).says(0, &[]);
    fs::set_permissions(&object, Permissions::from_mode(0o777)).unwrap();
    refused(&mut place.run(["--", "true"]), &[text(&object), "rm -r"]);

    fs::remove_file(&object).unwrap();
    symlink(place.file("elsewhere", 0o755, &intact), &object).unwrap();
    refused(&mut place.run(["--", "true"]), &[text(&object), "rm -r"]);

    fs::remove_file(&object).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    refused(&mut place.run(["--", "true"]), &[text(&directory), "rm -r"]);
}

#[test]
fn without_a_home_the_object_is_put_elsewhere() {
    let place = Place::new();
    Outcome::of(place.run(["--", "true"]).env("HOME", "/nonexistent")).says(0, &[]);
    Outcome::of(place.run(["--", "true"]).env_remove("HOME")).says(0, &[]);
}

/// Runs a command with limits: soft and hard.
fn with_lock_limit(place: &Place, soft: u64, hard: u64) -> Command {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--memlock={soft}:{hard}"))
        .arg(place.path("strongroom"))
        .arg("run");
    place.ordinary(&mut command);
    command
}

#[test]
fn too_little_locked_memory() {
    let place = Place::new();
    refused(
        with_lock_limit(&place, 4096, 4096).args(["--", "true"]),
        &[
            "4096",
            "65536",
            "ulimit -l",
            "LimitMEMLOCK=",
            "--ulimit memlock=",
        ],
    );
    // The soft limit is raised by itself.
    let outcome = Outcome::of(with_lock_limit(&place, 4096, 1 << 20).args([
        "--",
        "sh",
        "-c",
        "ulimit -l; ulimit -c",
    ]));
    outcome.says(0, &[]);
    assert_eq!(outcome.out, "1024\n0\n");
}

/// Makes system call `number` fail with `errno` and then starts the command.
fn without_call(place: &Place, number: libc::c_long, errno: i32) -> Command {
    let source = format!(
        r#"
#include <stddef.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
int main(int count, char **arguments) {{
    struct sock_filter filter[] = {{
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, {number}, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | {errno}),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    }};
    struct sock_fprog program = {{ 4, filter }};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 99;
    execv(arguments[1], arguments + 1);
    return 98;
}}
"#
    );
    let mut command = Command::new(place.compile("without-call", &source, &[]));
    command.arg(place.path("strongroom")).arg("run");
    place.ordinary(&mut command);
    command
}

#[test]
fn without_ptrace_nothing_can_be_verified() {
    let place = Place::new();
    let words = ["ptrace", "yama.ptrace_scope", "SYS_PTRACE", "--best-effort"];
    refused(
        without_call(&place, libc::SYS_ptrace, libc::EPERM).args(["--", "echo", "x"]),
        &words,
    );

    let mut command = without_call(&place, libc::SYS_ptrace, libc::EPERM);
    let outcome = Outcome::of(command.args(["--best-effort", "--", "echo", "x"]));
    outcome.says(0, &["going on", "ptrace"]);
    assert_eq!(
        (outcome.out.as_str(), outcome.err.lines().count()),
        ("x\n", 1)
    );
}

#[test]
fn without_memfd_secret_hidden_is_refused_and_otherwise_locked_is_said() {
    let place = Place::new();
    let words = ["memfd_secret", "ENOSYS", "secretmem.enable=1"];
    let mut command = without_call(&place, libc::SYS_memfd_secret, libc::ENOSYS);
    refused(command.args(["--level", "hidden", "--", "true"]), &words);

    let mut command = without_call(&place, libc::SYS_memfd_secret, libc::ENOSYS);
    let outcome = Outcome::of(command.args(["--", "true"]));
    outcome.says(0, &["locked, not hidden"]).says(0, &words);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);

    let mut command = without_call(&place, libc::SYS_memfd_secret, libc::ENOSYS);
    let outcome = Outcome::of(command.args(["--level", "locked", "--", "true"]));
    outcome.says(0, &[]);
    assert_eq!(outcome.err, "");
}

/// A preload object that lies as it is told by the macro.
const LIAR: &str = r#"
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
struct handshake { uint32_t version, held; uint64_t address, length; uint32_t secretmem, non_dumpable; };
__attribute__((constructor)) static void start(void) {
    int file = syscall(SYS_memfd_secret, 0);
    ftruncate(file, 8192);
    void *secret = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    void *plain = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!LEAVE_OPEN) close(file);
    if (!STAY_DUMPABLE) prctl(PR_SET_DUMPABLE, 0);
    struct handshake said = { VERSION, HELD, (uint64_t)(NOT_SECRET ? plain : secret), 8192, HELD == 0xff, 1 };
    (void)plain, (void)secret;
    if (!SILENT) prctl(0x53524f4d, &said, sizeof said);
}
"#;

/// A directory with an object that lies in one thing and else tells the truth.
fn liar(place: &Place, lie: &str) -> PathBuf {
    let defaults = [
        "LEAVE_OPEN=0",
        "STAY_DUMPABLE=0",
        "NOT_SECRET=0",
        "SILENT=0",
        "VERSION=1",
        "HELD=0xff",
    ];
    let name = lie.split('=').next().unwrap();
    let definitions: Vec<String> = defaults
        .iter()
        .filter(|definition| !definition.starts_with(name))
        .chain([&lie])
        .map(|definition| format!("-D{definition}"))
        .collect();
    let mut options = vec!["-shared", "-fPIC"];
    options.extend(definitions.iter().map(String::as_str));
    fs::create_dir(place.path(name)).unwrap();
    place.compile(&format!("{name}/libstrongroom_preload.so"), LIAR, &options);
    place.path(name)
}

#[test]
fn an_object_that_does_not_do_what_it_says() {
    let place = Place::new();
    for (lie, words) in [
        ("LEAVE_OPEN=1", ["descriptor", "report"]),
        ("STAY_DUMPABLE=1", ["dumpable", "report"]),
        ("NOT_SECRET=1", ["called secret is not", "report"]),
        ("HELD=0x1", ["would run without NoCoreDump", "doctor"]),
        ("VERSION=9", ["another version", "--preload-dir"]),
        (
            "SILENT=1",
            ["before the preload object was active", "plain build"],
        ),
    ] {
        let directory = liar(&place, lie);
        refused(
            &mut place.run(["--preload-dir", text(&directory), "--", "echo", "ran"]),
            &words,
        );
    }
    // The same object when it tells the truth: it was the lies that were refused.
    let directory = liar(&place, "NONE=0");
    let outcome =
        Outcome::of(&mut place.run(["--preload-dir", text(&directory), "--", "echo", "ran"]));
    assert_eq!(outcome.says(0, &[]).out, "ran\n");
}

#[test]
fn code_that_runs_before_the_object_is_refused() {
    let place = Place::new();
    let source = r#"
#include <unistd.h>
static void early(int count, char **arguments, char **environment) { write(1, "early\n", 6); }
__attribute__((section(".preinit_array"), used)) static void (*entry)(int, char **, char **) = early;
int main(void) { return 0; }
"#;
    let program = place.compile("early", source, &[]);
    // An object that is not linked with `-z initfirst` comes too late here.
    let directory = liar(&place, "NONE=0");
    let mut command = place.run(["--preload-dir", text(&directory), "--", text(&program)]);
    refused(
        &mut command,
        &["before the preload object was active", "plain build"],
    );
    // Ours comes first.
    assert_eq!(
        Outcome::of(&mut place.run(["--", text(&program)]))
            .says(0, &[])
            .out,
        "early\n"
    );
}

#[test]
fn the_program_finds_what_it_would_have_found() {
    let place = Place::new();
    let run = place.path("strongroom");
    let compare = |script: &str| {
        let outcome = |prefix: &str| {
            let mut command = Command::new("bash");
            place.ordinary(command.args(["-c", &script.replace("RUN", prefix)]));
            Outcome::of(&mut command)
        };
        let (plain, protected) = (outcome(""), outcome(&format!("{} run --", run.display())));
        assert_eq!(
            (protected.status, &protected.out),
            (plain.status, &plain.out),
            "{script}: {}",
            protected.err
        );
    };
    // Signals ignored and blocked, SIGPIPE too.
    compare("trap '' PIPE USR1; RUN grep -E 'Sig(Ign|Blk)' /proc/self/status");
    compare("RUN grep -E 'Sig(Ign|Blk)' /proc/self/status");
    compare("RUN sh -c 'kill -TERM $$'");
    compare("RUN sh -c 'exit 3'");
    compare("RUN false");
    compare("RUN printf '%s|' a 'b c' ''");
    compare("echo in | RUN cat");
    // Same process, no child that it did not start, nothing left open.
    compare("RUN cat /proc/thread-self/children");
    compare("sh -c 'echo $$; exec RUN sh -c \"echo \\$\\$\"' | uniq | wc -l");
    compare("RUN bash -c 'wait -n; echo $?'");
    compare("RUN sh -c 'umask; pwd; ulimit -n'");
    compare("RUN RUN echo nested");
}

#[test]
fn a_containers_init_is_left_no_child() {
    if !is_root() {
        return skip("it needs root, to be the first process of a container");
    }
    let place = Place::new();
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(place.path("strongroom"));
    // A program that reaps nobody: a zombie would stay.
    command.args([
        "run",
        "--",
        "sh",
        "-c",
        "exec grep -l '^State:.Z' /proc/*/status",
    ]);
    assert_eq!(Outcome::of(&mut command).out, "");
}

#[test]
fn python_allocates_by_malloc() {
    let place = Place::new();
    let python = place.copy("/usr/bin/printenv", "python3", 0o755);
    let alias = place.path("other-name");
    symlink(&python, &alias).unwrap();
    for program in [&python, &alias] {
        let outcome = Outcome::of(&mut place.run(["--", text(program), "PYTHONMALLOC"]));
        assert_eq!(outcome.says(0, &[]).out, "malloc\n");
    }
    let mut command = place.run(["--scope", "locked", "--", text(&python), "PYTHONMALLOC"]);
    Outcome::of(command.env_remove("PYTHONMALLOC")).says(1, &[]);
}

#[test]
fn signals_that_come_at_the_start_reach_the_program() {
    let place = Place::new();
    for delay in 0..20 {
        let mut child = start(&mut place.run(["--", "sleep", "60"]));
        let pid = child.id().cast_signed();
        std::thread::sleep(std::time::Duration::from_micros(delay * 300));
        for signal in [libc::SIGSTOP, libc::SIGCONT, libc::SIGTERM] {
            // SAFETY: kill(2) of a child that has not been waited for.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        }
        assert_eq!(
            child.wait().unwrap().signal(),
            Some(libc::SIGTERM),
            "after {delay}"
        );
    }
}
