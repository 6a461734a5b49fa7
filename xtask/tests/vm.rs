//! `cargo xtask vm`: what must not pass for success, and what must not be left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail the test"
)]

#[path = "../../tests/skip.rs"]
mod skip;

use skip::skip;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
/// `xtask vm` where no guest can be made.
const UNAVAILABLE: i32 = 77;

fn vm(options: &[&str]) -> Command {
    let mut command = Command::new(XTASK);
    command.args(["vm", "--no-install", "--memory", "1024"]);
    command.args(options);
    command
}

/// What came of it, or nothing where there can be no guest.
fn run(options: &[&str]) -> Option<(i32, String, String)> {
    let Output {
        status,
        stdout,
        stderr,
    } = vm(options).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (status, out, err) = (status.code().unwrap(), text(&stdout), text(&stderr));
    if status == UNAVAILABLE {
        skip(err.trim());
        return None;
    }
    Some((status, out, err))
}

#[test]
fn one_job_that_fails_is_a_failure() {
    let Some((status, out, err)) = run(&[
        "--run",
        "echo first; uname -r",
        "--run",
        "echo second; exit 7",
        "--run",
        "echo 'it: no fish' >> $STRONGROOM_SKIP_LOG",
    ]) else {
        return;
    };
    assert_eq!(status, 1, "{err}");
    assert!(
        out.contains("first\n6.12.") && out.contains("second\n"),
        "{out}"
    );
    assert!(err.contains("uname -r: exit status 0"), "{err}");
    assert!(
        err.contains("`echo second; exit 7`: exit status 7"),
        "{err}"
    );
    assert!(err.contains("skipped: it: no fish"), "{err}");
    // None of the guest's own records.
    assert!(!out.contains('@'), "{out}");
}

#[test]
fn what_hangs_is_stopped_and_its_console_is_kept() {
    let hang = "echo before; sleep 100000";
    let Some((status, out, err)) = run(&["--timeout", "40", "--run", hang]) else {
        return;
    };
    assert_eq!(status, 1, "{err}");
    assert!(out.contains("before\n"), "{out}");
    assert!(
        err.contains(&format!("after 40 s (--timeout), in `{hang}`")),
        "{err}"
    );
    // The end of the console, and all of it.
    assert!(err.contains("Run /init as init process"), "{err}");
    let kept = err.lines().find_map(|l| l.strip_prefix("the console: "));
    let console = std::fs::read_to_string(kept.unwrap()).unwrap();
    assert!(console.contains("Linux version 6.12"), "{console}");
}

#[test]
fn a_kernel_that_panics_is_a_failure() {
    let crash = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger";
    let Some((status, _, err)) = run(&["--run", crash]) else {
        return;
    };
    assert_eq!(status, 1, "{err}");
    assert!(err.contains("the guest crashed, in `"), "{err}");
    assert!(err.contains("Kernel panic"), "{err}");
}

#[test]
fn no_guest_outlives_its_harness() {
    let mut harness = vm(&["--run", "echo it is up; sleep 100000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(harness.stdout.take().unwrap()).lines();
    let up = lines.map_while(Result::ok).any(|line| line == "it is up");
    if !up {
        let output = harness.wait_with_output().unwrap();
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{reason}");
        return skip(reason.trim());
    }
    let children = format!("/proc/{0}/task/{0}/children", harness.id());
    let guests = std::fs::read_to_string(children).unwrap();
    let guest = guests.split_whitespace().next().unwrap().to_owned();
    let name = std::fs::read_to_string(format!("/proc/{guest}/comm")).unwrap();
    assert!(name.starts_with("qemu-system"), "{name}");
    harness.kill().unwrap();
    harness.wait().unwrap();
    // It is killed as its parent ends; init reaps it soon after.
    let place = format!("/proc/{guest}/exe");
    while Path::new(&place).read_link().is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_unknown_test_lists_those_that_there_are() {
    let output = vm(&["nonsense"]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for name in ["nonsense", "attack", "yama", "swap", "CRATE/TARGET"] {
        assert!(err.contains(name), "{err}");
    }
}
