//! C programs that use the library, run from outside.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::os::unix::process::ExitStatusExt;
use support::{Workshop, run, told};

#[test]
fn values_stay_what_they_are() {
    assert_eq!(Workshop::new().says("values"), "all as it was\n");
}

#[test]
fn children_see_what_the_policy_says() {
    let each = "regions\nheaps\nconcealed\ndenied\n";
    assert_eq!(Workshop::new().says("forks"), each.repeat(2));
}

#[test]
fn threads_hand_blocks_to_each_other_and_have_their_own_errors() {
    assert_eq!(Workshop::new().says("threads"), "all joined\n");
}

#[test]
fn a_small_limit_refuses_with_its_cause_and_breaks_nothing() {
    let said = Workshop::new().says("limits");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    for (line, of) in lines.iter().zip(["region", "malloc", "conceal"]) {
        assert!(line.starts_with(&format!("{of}: lock-limit: ")), "{line}");
        assert!(line.contains("(RLIMIT_MEMLOCK) is 65536 bytes"), "{line}");
        assert!(line.contains("ulimit -l unlimited"), "{line}");
    }
    assert!(lines[0].contains("1048576 more were needed"), "{said}");
}

#[test]
fn who_breaks_a_heap_is_ended_with_a_message() {
    let workshop = Workshop::new();
    let program = workshop.program("broken");
    // The control: the same blocks, freed as they should be.
    assert_eq!(run(workshop.command(&program).arg("not")), "survived\n");
    for how in [
        "twice",
        "large-twice",
        "inside",
        "foreign",
        "foreign-size",
        "foreign-realloc",
    ] {
        let output = workshop.command(&program).arg(how).output().unwrap();
        let told = told(&output);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{how}: {told}");
        assert!(output.stderr.starts_with(b"strongroom: "), "{how}: {told}");
    }
}
