//! Injection: a process that is made to hand its secret over, and one that cannot be.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod marked;

use marked::{Kind, LEN, NOBODY, STATUS, Victim, is_root, itself, said};
use std::process::Command;
use std::time::{Duration, Instant};
use strongroom_probe::attack::inject::{Answer, hand_over, write_text};
use strongroom_sys::PAGE;

const TARGET: &str = "STRONGROOM_TEST_TARGET";

#[test]
fn the_victim_itself() {
    marked::be_victim();
}

/// Nothing, unless this process is the attacker.
#[test]
fn the_attacker_itself() {
    let Ok(target) = std::env::var(TARGET) else {
        return;
    };
    let (pid, address) = target.split_once(' ').unwrap();
    let (pid, address) = (pid.parse().unwrap(), address.parse().unwrap());
    let told = |answer| match answer {
        Ok(Answer::Bytes(bytes)) => format!("{bytes:?}"),
        Ok(Answer::Refused(errno)) => format!("errno {errno}"),
        Err(why) => format!("{why}"),
    };
    println!(
        "ATTACKER {}; {}",
        told(hand_over(pid, address, 8)),
        told(write_text(pid))
    );
}

/// What came of both attacks by a process of the victim's uid.
fn attacked_by_same_uid(victim: &Victim) -> (String, String) {
    let attacker = itself("the_attacker_itself", Some(NOBODY))
        .env(TARGET, format!("{} {}", victim.pid(), victim.address))
        .output()
        .unwrap();
    let told = said(&*attacker.stdout, "ATTACKER ");
    let (handed, written) = told.split_once("; ").unwrap();
    (handed.into(), written.into())
}

#[test]
fn a_process_hands_over_its_memory_and_goes_on() {
    if !is_root() {
        return;
    }
    for kind in [Kind::Plain, Kind::Secret, Kind::Undumpable] {
        if kind == Kind::Secret && strongroom_sys::secret_memory::create().is_err() {
            marked::skip("no memfd_secret");
            continue;
        }
        let victim = Victim::start(kind, None);
        // Blocked in read(2) or futex(2), and again: nothing of the first visit is left.
        for _ in 0..3 {
            let answer = hand_over(victim.pid(), victim.address, LEN).unwrap();
            assert!(answer == Answer::Bytes(victim.contents.clone()), "{kind:?}");
        }
        assert_eq!(victim.let_go().code(), Some(STATUS), "{kind:?}");
    }
}

#[test]
fn a_sleeping_process_sleeps_on() {
    const SLEEP: Duration = Duration::from_millis(300);
    if !is_root() {
        return;
    }
    let started = Instant::now();
    let mut child = Command::new("sleep").arg("0.3").spawn().unwrap();
    let pid = child.id() as i32;
    let asleep = || {
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        let sleeps = format!("{} ", libc::SYS_clock_nanosleep);
        call.starts_with(&sleeps)
    };
    while !asleep() {
        assert!(started.elapsed() < SLEEP, "it never slept");
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let start = u64::from_str_radix(maps.split_once('-').unwrap().0, 16).unwrap();
    let answer = hand_over(pid, start, 4).unwrap();
    assert_eq!(answer, Answer::Bytes(b"\x7fELF".into()));
    assert!(started.elapsed() < SLEEP, "too late to tell");
    assert!(child.wait().unwrap().success());
    assert!(started.elapsed() >= SLEEP, "the sleep was cut short");
}

#[test]
fn memory_that_the_victim_itself_cannot_read_is_refused() {
    if !is_root() {
        return;
    }
    let victim = Victim::start(Kind::Plain, None);
    let answer = hand_over(victim.pid(), 0, PAGE).unwrap();
    assert_eq!(answer, Answer::Refused(libc::EFAULT));
    // A part is a leak of that part.
    let end = victim.address + LEN as u64;
    match hand_over(victim.pid(), end - 8, u32::MAX as usize).unwrap() {
        Answer::Bytes(bytes) => assert!(bytes.starts_with(&victim.contents[..8])),
        refused => panic!("{refused:?}"),
    }
    assert_eq!(victim.let_go().code(), Some(STATUS));
    let gone = hand_over(i32::MAX, 0, PAGE).unwrap_err();
    assert!(gone.to_string().contains("No such process"), "{gone}");
}

#[test]
fn code_is_overwritten_and_restored() {
    if !is_root() {
        return;
    }
    let victim = Victim::start(Kind::Undumpable, None);
    match write_text(victim.pid()).unwrap() {
        Answer::Bytes(bytes) => assert_eq!(bytes.len(), 1),
        // proc_mem.force_override=never, since Linux 6.12.
        Answer::Refused(errno) => marked::skip(format!("writing code: errno {errno}")),
    }
    assert_eq!(victim.let_go().code(), Some(STATUS));
}

#[test]
fn the_same_uid_gets_in_unless_the_victim_is_not_dumpable() {
    if !is_root() {
        return;
    }
    let plain = Victim::start(Kind::Plain, Some(NOBODY));
    let (handed, written) = attacked_by_same_uid(&plain);
    assert_eq!(handed, format!("{:?}", &plain.contents[..8]));
    assert!(written.starts_with('['), "{written}");
    assert_eq!(plain.let_go().code(), Some(STATUS));

    let closed = Victim::start(Kind::Undumpable, Some(NOBODY));
    let (handed, written) = attacked_by_same_uid(&closed);
    assert_eq!(handed, format!("errno {}", libc::EPERM));
    assert_eq!(written, format!("errno {}", libc::EACCES));
    assert_eq!(closed.let_go().code(), Some(STATUS));
}
