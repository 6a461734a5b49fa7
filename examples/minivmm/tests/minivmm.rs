//! The monitor and its guest, run for a second on each backing that this host has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/skip.rs"]
mod skip;

use serde_json::Value;
use skip::skip;
use std::process::{Command, Output};

/// What it exits with where it cannot run.
const CANNOT: i32 = 3;

fn minivmm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_minivmm"))
        .args(arguments)
        .output()
        .unwrap()
}

/// STRONGROOM_BACKINGS names the backings that the kernel has; whether it is set at all. What it
/// names is not missing for a reason.
fn named(backing: &str, why: &str) -> bool {
    let Ok(names) = std::env::var("STRONGROOM_BACKINGS") else {
        return false;
    };
    let there = names.split_whitespace().any(|name| name == backing);
    assert!(!there, "{backing}: {why}; STRONGROOM_BACKINGS names it");
    true
}

/// Runs it and checks its report, or says why it cannot run.
fn run(backing: &str) -> Option<Value> {
    let output = minivmm(&["--backing", backing, "--seconds", "1", "--json"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(CANNOT) {
        if !named(backing, &errors) {
            skip(errors.trim());
        }
        return None;
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {output:?}");
    });
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["passed"], true);
    let number = |value: &Value| value.as_u64().unwrap();
    assert!(number(&report["ring"]["messages"]) > 10, "{report:#}");
    for what in ["sealed", "filled", "summed"] {
        assert!(number(&report["ring"][what]) > 0, "{what}: {report:#}");
    }
    let contexts = &report["contexts"];
    assert!(number(&contexts["tables"]) >= 4);
    assert!(number(&contexts["switch_ns"]) > 0);
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 7);
    Some(report)
}

/// Pages went both ways, and were out of reach meanwhile.
fn converted(report: &Value) {
    let number = |value: &Value| value.as_u64().unwrap();
    for what in ["requests", "pages", "pages_to_shared", "pages_to_private"] {
        assert!(
            number(&report["conversions"][what]) > 0,
            "{what}: {report:#}"
        );
    }
    for what in ["refused", "out_of_reach", "pages_read"] {
        assert!(number(&report["reader"][what]) > 0, "{what}: {report:#}");
    }
    let checks = report["checks"].as_array().unwrap();
    // The last one needs nested paging.
    assert!(checks[..6].iter().all(|check| check["result"] == "passed"));
}

#[test]
fn on_poisoned_pages() {
    let Some(report) = run("poison") else { return };
    assert_eq!(report["backing"], "poison");
    converted(&report);
}

#[test]
fn on_a_pair_of_files() {
    let Some(report) = run("pair") else { return };
    assert_eq!(report["backing"], "pair");
    converted(&report);
}

#[test]
fn on_attributes() {
    // A type of machine that few kernels are built with, and that no setting of theirs gives: no skip.
    let output = minivmm(&["--backing", "attributes", "--seconds", "1"]);
    if output.status.code() == Some(CANNOT) {
        named("attributes", &String::from_utf8_lossy(&output.stderr));
        return;
    }
    let Some(report) = run("attributes") else {
        return;
    };
    assert_eq!(report["backing"], "attributes");
    converted(&report);
}

#[test]
fn on_the_drivers_memory() {
    // Not skipped: the kernel driver has tests of its own, where it is loaded.
    if !std::path::Path::new("/dev/strongroom").exists() {
        return eprintln!("not here: the driver is not loaded");
    }
    let Some(report) = run("driver-poison") else {
        return;
    };
    assert_eq!(report["backing"], "driver-poison");
    assert_eq!(report["limits"][0], "alias-in-monitor");
    converted(&report);
}

#[test]
fn on_a_regular_machine_nothing_is_claimed() {
    let Some(report) = run("plain") else { return };
    assert_eq!(report["receipt"]["held"].as_array().unwrap().len(), 0);
    assert_eq!(report["limits"][0], "nothing-private");
    assert_eq!(report["conversions"]["pages"], 0);
    assert_eq!(report["checks"][3]["result"], "skipped");
}

#[test]
fn the_best_is_not_the_least() {
    let Some(report) = run("best") else { return };
    if report["backing"] == "plain" {
        return skip("this kernel has no backing with private pages");
    }
    converted(&report);
}

#[test]
fn refusals_say_why() {
    for (arguments, word) in [
        (["--backing", "nonsense"], "possible values"),
        (["--memory", "1"], "8..="),
        (["--seconds", "0"], "1..="),
    ] {
        let output = minivmm(&arguments);
        assert_eq!(output.status.code(), Some(2));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(word), "{errors}");
    }
    let help = String::from_utf8(minivmm(&["--help"]).stdout).unwrap();
    for word in ["Exit status", "Examples", "poison"] {
        assert!(help.contains(word), "{word}");
    }
}
