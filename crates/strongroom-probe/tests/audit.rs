//! An audit of a process that goes away while it is looked at.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::process::{Child, Command, Stdio};
use strongroom_probe::audit::Audit;
use strongroom_probe::exposure::{Adversary, Reach};

/// A child that runs its program by now: its own mappings are there.
fn sleeper() -> Child {
    let mut child = Command::new("sh")
        .args(["-c", "echo ready; read x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
    child
}

#[test]
fn what_was_seen_until_the_end_is_told() {
    let mut child = sleeper();
    let pid = child.id() as i32;
    let whole = Audit::of(pid, |_, _| {}).unwrap();
    assert_eq!(whole.partial, None);
    let part = Audit::of(pid, |_, _| {
        // At the first mapping already; killing it again is no harm.
        let _ = child.kill();
        let _ = child.wait();
    })
    .unwrap();
    let why = part.partial.unwrap();
    assert!(why.contains("ended meanwhile"), "{why}");
    assert!(!part.mappings.is_empty());
    assert!(part.mappings.len() < whole.mappings.len());
}

#[test]
fn totals_are_the_sum_of_the_mappings() {
    let mut child = sleeper();
    let mut heard = Vec::new();
    let audit = Audit::of(child.id() as i32, |done, total| heard.push((done, total))).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(heard.len(), audit.mappings.len());
    assert!(
        heard
            .iter()
            .all(|(done, total)| done <= total && *total > 0)
    );
    for total in &audit.totals {
        let reached: u64 = audit
            .mappings
            .iter()
            .filter(|m| m.exposure.get(total.adversary).reach == Reach::Reachable)
            .map(|m| m.own_pages)
            .sum();
        assert_eq!(total.reachable, reached);
        let all = total.reachable + total.out_of_reach + total.unknown;
        assert_eq!(all, audit.own_pages(), "{}", total.adversary.name());
    }
    assert_eq!(audit.totals.len(), Adversary::ALL.len());
}
