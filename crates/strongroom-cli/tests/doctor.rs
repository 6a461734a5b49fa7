//! What `strongroom doctor` says, where things are well and where they are not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail the test"
)]

mod support;

use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::{is_root, need};
use tempfile::TempDir;

const NOBODY: u32 = 65_534;
const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");

/// Runs a command under a seccomp filter that answers system call N with errno E:
/// `deny N E CMD ARGS…`.
const DENY: &str = r#"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, atoi(argv[1]), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | atoi(argv[2])),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    if (argc < 4 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return 99;
    execvp(argv[3], argv + 3);
    return 98;
}
"#;

/// One test at a time: a file that is being written while another test forks is "busy" later.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory that everyone may read.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

fn denier(directory: &TempDir) -> PathBuf {
    let source = directory.path().join("deny.c");
    fs::write(&source, DENY).unwrap();
    let program = directory.path().join("deny");
    let status = Command::new("gcc")
        .arg("-o")
        .args([&program, &source])
        .status()
        .unwrap();
    assert!(status.success(), "gcc");
    program
}

/// Runs a command line; its exit status, standard output and standard error.
fn output(command: &mut Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// The table for people: it must fit 80 columns and hold no escape sequence.
fn table(command: &mut Command) -> (i32, String) {
    let (status, table, errors) = output(command.arg("doctor"));
    assert_eq!(errors, "");
    assert!(!table.contains('\x1b'), "colours on a pipe: {table}");
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "too long: {line}");
    }
    (status, table)
}

/// The JSON, checked for what must hold of every one.
fn json(command: &mut Command) -> (i32, Value) {
    let (status, text, errors) = output(command.args(["doctor", "--json"]));
    assert_eq!(errors, "");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["schema"], 1);
    assert!(
        report["kernel"]
            .as_str()
            .is_some_and(|kernel| kernel.contains('.'))
    );
    let checks = report["checks"].as_array().unwrap();
    let mut names: Vec<_> = checks.iter().map(|check| check["check"].as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), checks.len(), "a name stands twice");
    for check in checks {
        for key in ["check", "value", "why"] {
            assert!(
                check[key].as_str().is_some_and(|text| !text.is_empty()),
                "no {key}: {check}"
            );
        }
        match check["status"].as_str() {
            Some("ok") => assert!(check["fix"].is_null(), "{check}"),
            Some("limited" | "missing") => {
                // Only the absence of a count has nothing to be done about.
                let fixed = check["fix"].as_str().is_some_and(|fix| !fix.is_empty());
                assert!(fixed || check["check"] == "direct-map", "{check}");
            }
            other => panic!("{other:?}: {check}"),
        }
    }
    (status, report)
}

#[track_caller]
fn find<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["check"] == name)
        .unwrap_or_else(|| panic!("no check {name}"))
}

#[test]
fn a_machine_that_has_it_all_reaches_hidden() {
    need!(secretmem);
    let _alone = alone();
    let (status, report) = json(&mut Command::new(STRONGROOM));
    assert_eq!(report["level"], "hidden", "{report:#}");
    assert_eq!(status, 0);
    for name in ["memfd_secret", "locked", "ptrace", "fork-trap", "glibc"] {
        assert_eq!(find(&report, name)["status"], "ok", "{name}");
    }
    let (status, table) = table(&mut Command::new(STRONGROOM));
    assert_eq!(status, 0);
    assert!(table.contains("reaches the level hidden"), "{table}");
    for check in report["checks"].as_array().unwrap() {
        let name = check["check"].as_str().unwrap();
        assert!(table.contains(name), "{name} is not in the table");
    }
}

#[test]
fn a_small_lock_limit_is_told_with_its_fix() {
    need!(secretmem);
    let _alone = alone();
    let directory = directory();
    // The tests' own directory may be closed to this user.
    let strongroom = directory.path().join("strongroom");
    fs::copy(STRONGROOM, &strongroom).unwrap();
    let limited = |limit: &str| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--memlock={limit}")).arg(&strongroom);
        command.current_dir("/");
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };

    let (status, report) = json(&mut limited("65536"));
    let memlock = find(&report, "memlock");
    assert_eq!(memlock["status"], "limited");
    assert_eq!(memlock["data"]["hard"], 65_536);
    assert_eq!(memlock["data"]["usable"], 65_536);
    assert_eq!((status, &report["level"]), (0, &Value::from("hidden")));
    let (_, table) = table(&mut limited("65536"));
    for text in [
        "64 KiB a process",
        "`ulimit -l unlimited`",
        "LimitMEMLOCK=infinity",
        "--ulimit memlock=-1",
    ] {
        assert!(table.contains(text), "no {text} in {table}");
    }

    // The soft limit is not the end of it: `run` raises it.
    let (status, report) = json(&mut limited("0:65536"));
    assert_eq!(find(&report, "memlock")["data"]["soft"], 0);
    assert_eq!((status, &report["level"]), (0, &Value::from("hidden")));

    // With less, `run` starts nothing.
    let (status, report) = json(&mut limited("8192"));
    assert_eq!(find(&report, "memlock")["status"], "missing");
    assert_eq!(report["blocked_by"], serde_json::json!(["memlock"]));
    assert_eq!((status, &report["level"]), (1, &Value::Null));

    let (status, report) = json(&mut limited("0"));
    assert_eq!(
        find(&report, "memfd_secret")["data"]["reason"],
        "lock-limit"
    );
    assert_eq!(find(&report, "locked")["data"]["reason"], "lock-limit");
    assert_eq!(status, 1);
}

#[test]
fn a_filter_on_memfd_secret_leaves_locked() {
    let _alone = alone();
    let directory = directory();
    let denier = denier(&directory);
    for (errno, reason, cause) in [
        (libc::EPERM, "not-permitted", "not permitted"),
        (libc::ENOSYS, "no-secret-memory", "no memfd_secret"),
    ] {
        let denied = || {
            let mut command = Command::new(&denier);
            command.args([
                &libc::SYS_memfd_secret.to_string(),
                &errno.to_string(),
                STRONGROOM,
            ]);
            command
        };
        let (status, report) = json(&mut denied());
        let keeper = find(&report, "memfd_secret");
        assert_eq!(keeper["status"], "missing");
        assert_eq!(keeper["data"]["reason"], reason);
        assert_eq!((status, &report["level"]), (1, &Value::from("locked")));
        assert_eq!(find(&report, "seccomp")["data"]["mode"], 2);
        // Locked memory is each process's own: the limit is not the user's.
        let charged = &find(&report, "memlock")["data"]["charged"];
        assert_eq!(charged, "on mmap, to the process");
        let (status, table) = table(&mut denied());
        assert_eq!(status, 1);
        assert!(table.contains(cause), "{table}");
        assert!(table.contains("reaches the level locked"), "{table}");
    }
}

#[test]
fn where_ptrace_is_refused_run_starts_nothing() {
    let _alone = alone();
    let directory = directory();
    let (status, report) = json(Command::new(denier(&directory)).args([
        &libc::SYS_ptrace.to_string(),
        &libc::EPERM.to_string(),
        STRONGROOM,
    ]));
    assert_eq!(find(&report, "ptrace")["status"], "missing");
    assert_eq!(report["blocked_by"], serde_json::json!(["ptrace"]));
    assert_eq!((status, &report["level"]), (1, &Value::Null));
}

#[test]
fn what_cannot_be_written_is_its_own_failure() {
    let _alone = alone();
    for arguments in [&["doctor"][..], &["doctor", "--json"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(STRONGROOM)
            .args(arguments)
            .stdout(full)
            .stderr(Stdio::piped())
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .unwrap();
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be written"));
    }
}
