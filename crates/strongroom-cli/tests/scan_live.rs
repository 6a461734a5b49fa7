//! Scans of live processes whose memory is known, and of ones that change and end meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use strongroom_probe::exposure::{Adversary, Reach};
use strongroom_probe::scan::{Failed, Pattern, Report, Scan};
use support::room::{WHO, wait_for_file};
use support::session::Stage;
use support::{How, Process, Room, Session, Who, chance, need};
use zeroize::Zeroizing;

/// A program that has a secret, and what looks for it.
fn start(mode: &str) -> (Room, Session, Scan) {
    // As the user that this test runs as: it scans by itself.
    let who = if support::is_root() {
        Who::Root
    } else {
        Who::User
    };
    let room = Room::new(who, How::Plain);
    let secret = chance::bytes::<64>();
    let file = room.file("secret", secret);
    let program = room.program("scanned.c", &[]);
    let session = room.session(room.command(program).arg(mode).arg(file));
    let scan = Scan {
        patterns: vec![Pattern {
            name: "secret".to_owned(),
            bytes: Zeroizing::new(secret.to_vec()),
        }],
        ..Scan::default()
    };
    (room, session, scan)
}

/// A shell that runs, and becomes another program when it is told to.
fn shell(room: &Room) -> Process {
    let script = ": > started; while ! [ -e go ]; do sleep 0.01; done; exec sleep 1000";
    let shell = room.start(room.plain("/bin/sh").args(["-c", script]));
    wait_for_file(&room.path().join("started"));
    shell
}

fn addresses(report: &Report) -> Vec<u64> {
    report.hits.iter().map(|hit| hit.address).collect()
}

#[test]
fn a_secret_is_found_once_wherever_it_can_be_read() {
    let (_room, mut session, scan) = start("layout");
    let across = session.stage("ready");
    let report = scan.process(across.pid, &mut |_, _| {}).unwrap();
    session.go();
    let shut = session.stage("shut");
    let mut expected = vec![across.address, shut.address];
    expected.sort_unstable();
    assert_eq!(addresses(&report), expected, "{report:#?}");
    assert!(report.complete, "{:?}", report.gaps);
    // The reservation was passed over, and not counted as read.
    assert!(report.coverage.absent >= 70 << 30, "{:?}", report.coverage);
    assert!(report.coverage.scanned < 1 << 30, "{:?}", report.coverage);
    for hit in &report.hits {
        let place = &report.places[hit.place.unwrap()];
        assert!((place.start..place.end).contains(&hit.address));
        let exposure = place.exposure.as_ref().unwrap();
        assert_eq!(exposure.get(Adversary::Root).reach, Reach::Reachable);
        assert!(place.access.starts_with(if hit.address == shut.address {
            "---p"
        } else {
            "rw-p"
        }));
    }
    if support::outside::secret_memory_works().is_ok() {
        let coverage = &report.coverage;
        assert_eq!(
            (coverage.unreadable, coverage.unreadable_mappings),
            (4096, 1)
        );
    }
}

/// Both happen while the first bytes are read: what is gone is told, what is new is found.
#[test]
fn what_changes_meanwhile_is_told_or_found() {
    let (_room, mut session, scan) = start("change");
    let ready = session.stage("ready");
    let mut changed: Option<Stage> = None;
    let report = scan.process(ready.pid, &mut |_, _| {
        if changed.is_none() {
            session.go();
            changed = Some(session.stage("changed"));
        }
    });
    let report = report.unwrap();
    assert_eq!(
        addresses(&report),
        [changed.unwrap().address],
        "{report:#?}"
    );
    assert!(!report.complete);
    assert!(
        report
            .gaps
            .iter()
            .any(|gap| gap.ends_with("were unmapped before they could be read")),
        "{:?}",
        report.gaps
    );
}

#[test]
fn a_process_that_ends_meanwhile_gives_a_part() {
    let room = Room::new(WHO()[0], How::Plain);
    let mut child = Some(shell(&room));
    let pid = child.as_ref().unwrap().pid();
    let mut steps = 0;
    let scan = Scan::default();
    let report = scan.process(pid, &mut |_, _| {
        steps += 1;
        if steps == 1 {
            let child = child.take().unwrap();
            child.signal(libc::SIGKILL);
            child.wait();
        }
    });
    let report = report.unwrap();
    assert!(!report.complete);
    assert!(report.coverage.scanned > 0);
    let ended = |gap: &String| gap.contains("ended") || gap.contains("no process");
    assert!(report.gaps.iter().any(ended), "{:?}", report.gaps);
    // And then there is none.
    let failed = scan.process(pid, &mut |_, _| {}).unwrap_err();
    assert!(failed.to_string().contains("no process"), "{failed}");
}

#[test]
fn one_that_becomes_another_program_gives_a_part() {
    let room = Room::new(WHO()[0], How::Plain);
    let child = shell(&room);
    let (pid, go) = (child.pid(), room.path().join("go"));
    let mut told = false;
    let report = Scan::default().process(pid, &mut |_, _| {
        if !told {
            told = true;
            std::fs::write(&go, "").unwrap();
            let program = || std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
            while !program().ends_with("sleep") {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    });
    drop(child);
    let report = report.unwrap();
    assert!(!report.complete, "{report:#?}");
}

/// Its own buffers hold what it looks for.
#[test]
fn it_does_not_scan_itself() {
    let failed = Scan::default().process(std::process::id() as i32, &mut |_, _| {});
    assert!(matches!(failed, Err(Failed::Itself(_))), "{failed:?}");
}

#[test]
fn kernel_threads_have_no_memory() {
    need!(root);
    let kernel = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.contains("\nKthread:\t1").then_some(pid)
        });
    let Some(pid) = kernel else {
        return support::skip("no kernel thread is to be seen here");
    };
    let failed = Scan::default().process(pid, &mut |_, _| {}).unwrap_err();
    assert!(failed.to_string().contains("kernel thread"), "{failed}");
}
