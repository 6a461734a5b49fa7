//! What is told of a mapping is what happens when it is tried.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod marked;
mod subject;

use marked::{NOBODY, is_root, skip};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use strongroom_probe::attack::direct_map::{Answer, Reader};
use strongroom_probe::attack::residue;
use strongroom_probe::exposure::{
    self, Adversary, CorePattern, Environment, Exposure, Machine, Mapping, Process, Reach, Refusal,
};
use strongroom_sys::PAGE;
use subject::{How, KINDS, LEN, Subject};

#[test]
fn the_subject_itself() {
    subject::be_subject();
}

#[test]
fn the_reader_itself() {
    subject::be_reader();
}

const PLAIN: How = How {
    dumpable: true,
    core: "inf:inf",
};

/// What is told of each kind.
fn told(subject: &Subject) -> (Process, Vec<(Mapping, Exposure)>) {
    let process = Process::read(subject.pid()).unwrap();
    let mappings: Vec<Mapping> = exposure::mappings(subject.pid())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let of = |address: &u64| {
        let covers = |mapping: &&Mapping| (mapping.start..mapping.end).contains(address);
        let mapping = mappings.iter().find(covers).unwrap().clone();
        let exposure = exposure::of(&process, &mapping);
        (mapping, exposure)
    };
    let told = subject.addresses.iter().map(of).collect();
    (process, told)
}

/// The finding is what was measured, for each kind.
#[track_caller]
fn assert_told(told: &[(Mapping, Exposure)], adversary: Adversary, measured: &[bool]) {
    assert_eq!(measured.len(), KINDS.len());
    for ((kind, (_, exposure)), reached) in KINDS.iter().zip(told).zip(measured) {
        let finding = exposure.get(adversary);
        let expected = if *reached {
            Reach::Reachable
        } else {
            Reach::OutOfReach
        };
        assert_eq!(
            finding.reach,
            expected,
            "{kind} by {}: {}",
            adversary.name(),
            finding.why
        );
    }
}

fn ready() -> bool {
    if !is_root() {
        return false;
    }
    match strongroom_sys::secret_memory::create() {
        Ok(_) => true,
        Err(why) => {
            skip(format!("memfd_secret: {why}"));
            false
        }
    }
}

#[test]
fn who_reads_from_outside() {
    if !ready() {
        return;
    }
    let subject = Subject::start("outside", PLAIN);
    let (process, told) = told(&subject);
    let by_root = subject.read_from_here();
    assert!(by_root[0] && by_root[13] && !by_root[12], "{by_root:?}");
    assert_told(&told, Adversary::Root, &by_root);
    let by_user = subject.read_by_its_user();
    if process.machine.yama.is_some_and(|scope| scope > 0) {
        // PR_SET_PTRACER cannot be seen from outside.
        return;
    }
    assert!(by_user[0], "{by_user:?}");
    assert_told(&told, Adversary::SameUser, &by_user);

    assert_eq!(process.users, [NOBODY; 4]);
    assert_eq!(process.secret_descriptors.len(), 1);
    assert_eq!(
        process.environment,
        Environment::Names(vec!["AUDITED_API_TOKEN".to_owned()])
    );
}

#[test]
fn who_reads_what_is_not_dumpable() {
    if !ready() {
        return;
    }
    let how = How {
        dumpable: false,
        ..PLAIN
    };
    let mut subject = Subject::start("undumpable", how);
    let (process, told) = told(&subject);
    assert_eq!(process.dumpable, Some(false));
    assert_told(&told, Adversary::Root, &subject.read_from_here());
    let by_user = subject.read_by_its_user();
    assert!(!by_user.contains(&true), "{by_user:?}");
    assert_told(&told, Adversary::SameUser, &by_user);
    if process.machine.suid_dumpable != 2 {
        subject.abort();
        assert_eq!(subject.dumped(), None);
        assert_told(&told, Adversary::CoreDump, &[false; KINDS.len()]);
    }
}

#[test]
fn what_a_child_has() {
    if !ready() {
        return;
    }
    let mut subject = Subject::start("fork", PLAIN);
    let (_, told) = told(&subject);
    let measured = subject.ask("fork");
    assert!(measured[0] && !measured[2], "{measured:?}");
    assert_told(&told, Adversary::ForkChild, &measured);
}

#[test]
fn what_can_be_pinned() {
    if !ready() {
        return;
    }
    let mut subject = Subject::start("pin", PLAIN);
    let (_, told) = told(&subject);
    let measured = subject.ask("pin");
    assert!(measured[0] && !measured[12], "{measured:?}");
    assert_told(&told, Adversary::Pin, &measured);
}

#[test]
fn what_the_direct_map_has() {
    if !ready() {
        return;
    }
    let reader = match Reader::new() {
        Ok(reader) => reader,
        Err(why) => return skip(why),
    };
    let subject = Subject::start("direct-map", PLAIN);
    let (_, told) = told(&subject);
    let reads = |(kind, address): (usize, &u64)| {
        let answer = reader.read(subject.pid(), *address, LEN).unwrap();
        if answer != Answer::Bytes(subject.marker(kind)) {
            return false;
        }
        if told[kind].1.get(Adversary::DirectMap).reach == Reach::Reachable {
            return true;
        }
        // Two holes of the kernel's own, see the reader's description; they are of secret memory alone.
        let frame = residue::frames(subject.pid(), *address, PAGE).unwrap()[0];
        !(reader.is_of_kernel_image(frame) || reader.fades(frame, Duration::from_secs(3)).unwrap())
    };
    let measured: Vec<bool> = subject.addresses.iter().enumerate().map(reads).collect();
    assert_told(&told, Adversary::DirectMap, &measured);
}

/// Whether dumps are files in the working directory.
fn dumps_are_files() -> bool {
    match Machine::read().core_pattern {
        CorePattern::File(name) if !name.contains('/') => true,
        other => {
            skip(format!("core_pattern is no plain file name: {other:?}"));
            false
        }
    }
}

#[test]
fn what_a_core_dump_has() {
    if !ready() || !dumps_are_files() {
        return;
    }
    // 0x33 is the default; 0x7f has files too, 0x2 shared memory only.
    for filter in ["0x33", "0x7f", "0x2"] {
        let mut subject = Subject::start(&format!("core{filter}"), PLAIN);
        std::fs::write(format!("/proc/{}/coredump_filter", subject.pid()), filter).unwrap();
        let (_, told) = told(&subject);
        subject.abort();
        let measured = subject.dumped().unwrap();
        assert!(measured[8] && !measured[1] && !measured[12], "{measured:?}");
        assert_told(&told, Adversary::CoreDump, &measured);
    }
}

#[test]
fn a_limit_is_as_good_as_its_hard_one() {
    if !ready() || !dumps_are_files() {
        return;
    }
    for (core, dumps) in [("0:inf", true), ("0:0", false)] {
        let mut subject = Subject::start(&format!("limit-{dumps}"), How { core, ..PLAIN });
        let process = Process::read(subject.pid()).unwrap();
        let pid = subject.pid().to_string();
        let mut raise = Command::new("prlimit");
        raise.args(["--pid", &pid, "--core=unlimited:"]);
        let raised = raise.uid(NOBODY).gid(NOBODY).output().unwrap();
        assert_eq!(raised.status.success(), dumps, "{raised:?}");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(subject.pid()).unwrap(),
            rustix::process::Signal::ABORT,
        )
        .unwrap();
        subject.ended();
        assert_eq!(subject.dumped().is_some(), dumps);
        let finding = exposure::kernel_dump(&process);
        assert_eq!(finding.reach == Reach::Reachable, dumps, "{}", finding.why);
    }
}

#[test]
fn roots_own_processes_tell_whether_they_are_dumpable() {
    if !is_root() {
        return;
    }
    for (kind, dumpable) in [
        (marked::Kind::Plain, true),
        (marked::Kind::Undumpable, false),
    ] {
        let victim = marked::Victim::start(kind, None);
        let process = Process::read(victim.pid()).unwrap();
        assert_eq!(process.users, [0; 4]);
        assert_eq!(process.dumpable, Some(dumpable));
    }
}

#[test]
fn the_victim_itself() {
    marked::be_victim();
}

/// A child that ends with the test, whatever comes of it.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_ends_or_execs_meanwhile_is_told() {
    // It says when it is there: amid its exec it would be told to be replaced.
    let child = Command::new("sh")
        .args(["-c", "echo ready; read x; exec cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut child = Ended(child.unwrap());
    let pid = child.0.id() as i32;
    let mut stdin = child.0.stdin.take().unwrap();
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let process = Process::read(pid).unwrap();
    let mut walk = exposure::mappings(pid).unwrap();
    let first = walk.next().unwrap().unwrap();
    assert!(!first.is_empty());
    stdin.write_all(b"\nreplaced\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "replaced");
    let last = walk.last().unwrap().unwrap_err();
    assert!(matches!(last, Refusal::Replaced(_)), "{last}");
    assert!(matches!(process.still(), Err(Refusal::Replaced(_))));

    let walk = exposure::mappings(pid).unwrap();
    let process = Process::read(pid).unwrap();
    drop(child);
    assert!(matches!(process.still(), Err(Refusal::Ended(_))));
    let last = walk.last().unwrap().unwrap_err();
    assert!(matches!(last, Refusal::Ended(_)), "{last}");
    assert!(matches!(exposure::mappings(pid), Err(Refusal::Absent(_))));
}

#[test]
fn kernel_threads_are_told() {
    // kthreadd, where this is the initial process namespace.
    match std::fs::read_to_string("/proc/2/comm") {
        Ok(name) if name == "kthreadd\n" => {
            let refusal = Process::read(2).unwrap_err();
            assert!(matches!(refusal, Refusal::KernelThread { .. }), "{refusal}");
        }
        _ => skip("no kernel threads here"),
    }
}
