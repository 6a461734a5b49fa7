//! What lets an adversary in, for the whole process or the machine, and how to close it.

use super::{Entry, Kind};
use crate::exposure::{
    Adversary, CorePattern, Environment, Process, Reach, kernel_dump, same_user,
};
use crate::size::size;
use serde::Serialize;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Somebody gets at the memory now, or any program of the user does.
    High,
    /// It takes a crash, root or another circumstance.
    Medium,
    /// Other walls stand behind it.
    Low,
}

impl Severity {
    /// The name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// A hole and its fix.
#[derive(Clone, Debug, Serialize)]
pub struct Hole {
    /// Its name.
    pub hole: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What it is, in a sentence.
    pub what: String,
    /// What to type or to write into a unit, between backquotes; ways are parted by `; `.
    pub fix: String,
    /// Whom it lets in.
    pub adversaries: Vec<Adversary>,
}

/// What the mappings say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Bytes that may hold a secret.
    own: u64,
    /// Those of them in secret memory.
    secret: u64,
    /// Those of them that can be swapped out.
    swappable: u64,
    /// Those in the swap now.
    swapped: u64,
}

impl Seen {
    pub(super) fn add(&mut self, entry: &Entry) {
        self.own += entry.own;
        self.swapped += entry.mapping.swap;
        let Some(exposure) = &entry.exposure else {
            return;
        };
        if entry.kind == Kind::Secret {
            self.secret += entry.own;
        }
        if exposure.get(Adversary::Swap).reach == Reach::Reachable {
            self.swappable += entry.own;
        }
    }
}

/// The holes, the most severe first; those of one severity as they matter to most.
pub(super) fn of(process: &Process, seen: &Seen) -> Vec<Hole> {
    let mut holes: Vec<Hole> = [
        traced(process),
        descriptors(process),
        dumpable(process),
        unkept(process, seen),
        environment(process),
        core(process),
        swap(process, seen),
        hibernation(process),
        yama(process),
        filter(process),
        kcore(process),
    ]
    .into_iter()
    .flatten()
    .collect();
    holes.sort_by_key(|hole| hole.severity);
    holes
}

fn traced(process: &Process) -> Option<Hole> {
    let tracer = process.tracer;
    (tracer != 0).then(|| {
        let name = std::fs::read_to_string(format!("/proc/{tracer}/comm")).unwrap_or_default();
        Hole {
            hole: "traced",
            severity: Severity::High,
            what: format!(
                "Process {tracer} ({}) traces it now: it reads ordinary memory, and can make the \
                 process hand over the rest.",
                name.trim_end()
            ),
            fix: format!(
                "look whose it is by `ps -o pid,user,args -p {tracer}`; `kill {tracer}` if it should not"
            ),
            adversaries: vec![Adversary::SameUser, Adversary::Root],
        }
    })
}

fn descriptors(process: &Process) -> Option<Hole> {
    let numbers: Vec<_> = process
        .secret_descriptors
        .iter()
        .map(|open| open.number.to_string())
        .collect();
    (!numbers.is_empty()).then(|| Hole {
        hole: "secret-descriptor",
        severity: match same_user(process).reach {
            Reach::OutOfReach => Severity::Medium,
            _ => Severity::High,
        },
        what: format!(
            "It keeps memfd_secret files open (descriptor {}): whoever may trace it takes and maps them \
             (pidfd_getfd).",
            numbers.join(", ")
        ),
        fix: "in the program, `close` each after `mmap`: the mapping stays".to_owned(),
        adversaries: vec![Adversary::SameUser, Adversary::Root, Adversary::ForkChild],
    })
}

fn dumpable(process: &Process) -> Option<Hole> {
    if process.dumpable != Some(true) {
        return None;
    }
    let of_user = same_user(process).reach != Reach::OutOfReach;
    Some(Hole {
        hole: "dumpable",
        severity: match (process.user(), of_user) {
            // Root's processes look in anyhow.
            (0, _) => Severity::Low,
            (_, true) => Severity::High,
            (_, false) => Severity::Medium,
        },
        what: if of_user {
            "It is dumpable: other processes of its user read its memory, and a crash may dump it."
                .to_owned()
        } else {
            "It is dumpable; what keeps others of its user out now lies outside of it.".to_owned()
        },
        fix: format!(
            "start it by `{}`; or in the program, `prctl(PR_SET_DUMPABLE, 0)` at its start",
            kept(process)
        ),
        adversaries: vec![Adversary::SameUser, Adversary::CoreDump],
    })
}

fn unkept(process: &Process, seen: &Seen) -> Option<Hole> {
    (seen.secret == 0 && seen.own > 0).then(|| Hole {
        hole: "no-secret-memory",
        severity: Severity::Medium,
        what: format!(
            "None of its {} is secret memory: it does not run under strongroom, or at the level locked.",
            size(seen.own)
        ),
        fix: format!("start it by `{}`", kept(process)),
        adversaries: vec![Adversary::Root, Adversary::Pin, Adversary::DirectMap],
    })
}

fn environment(process: &Process) -> Option<Hole> {
    let (severity, what) = match &process.environment {
        Environment::Names(names) if names.is_empty() => return None,
        Environment::Names(names) => (
            Severity::Medium,
            format!(
                "Its environment has {}: on its stack, which nothing keeps, and its children inherit it.",
                names.join(", ")
            ),
        ),
        Environment::Unread(error) => {
            return Some(Hole {
                hole: "environment-unread",
                severity: Severity::Low,
                what: format!(
                    "Whether there are secrets in its environment cannot be told ({error})."
                ),
                fix: format!("look as root: `sudo strongroom audit {}`", process.pid),
                adversaries: Vec::new(),
            });
        }
    };
    Some(Hole {
        hole: "environment",
        severity,
        what,
        fix:
            "hand secrets over in files: `LoadCredential=NAME:/path/to/file` in the unit, and read \
              $CREDENTIALS_DIRECTORY/NAME"
                .to_owned(),
        adversaries: vec![
            Adversary::SameUser,
            Adversary::Root,
            Adversary::CoreDump,
            Adversary::ForkChild,
        ],
    })
}

fn core(process: &Process) -> Option<Hole> {
    let finding = kernel_dump(process);
    if finding.reach == Reach::OutOfReach {
        return None;
    }
    let pid = process.pid;
    let fix = match &process.machine.core_pattern {
        _ if process.dumpable == Some(false) => {
            "`sysctl fs.suid_dumpable=0`, which the name of the sysctl does not say".to_owned()
        }
        // A limit of 0 does not count for it; 1 does.
        CorePattern::Program(_) => format!(
            "`prlimit --pid {pid} --core=1:1` for now (1 is what keeps programs off); \
             `LimitCORE=1` in the unit; `sysctl kernel.core_pattern=core` for the whole machine"
        ),
        _ => format!("`LimitCORE=0` in the unit; `prlimit --pid {pid} --core=0:0` for now"),
    };
    Some(Hole {
        hole: "core-dump",
        severity: Severity::Medium,
        what: format!("The kernel may dump its memory: {}.", finding.why),
        fix,
        adversaries: vec![Adversary::CoreDump],
    })
}

fn swap(process: &Process, seen: &Seen) -> Option<Hole> {
    let machine = &process.machine;
    let possible = !machine.swaps.is_empty() && !process.swap_forbidden && seen.swappable > 0;
    (possible || seen.swapped > 0).then(|| Hole {
        hole: "swap",
        severity: if seen.swapped > 0 {
            Severity::High
        } else {
            Severity::Medium
        },
        what: format!(
            "{} may go to the swap ({}), {} are there now.",
            size(seen.swappable),
            machine.swaps.join(", "),
            size(seen.swapped)
        ),
        fix: format!(
            "`MemorySwapMax=0` in the unit; `swapoff -a` for the whole machine; start it by `{}`",
            kept(process)
        ),
        adversaries: vec![Adversary::Swap],
    })
}

fn hibernation(process: &Process) -> Option<Hole> {
    process.machine.hibernates.then(|| Hole {
        hole: "hibernation",
        severity: Severity::Medium,
        what: "The machine can hibernate: all memory goes to the disk then, locked or not.".to_owned(),
        fix: "`systemctl mask hibernate.target hybrid-sleep.target suspend-then-hibernate.target`; or \
              `nohibernate` on the kernel's command line; secret memory in use anywhere forbids it too"
            .to_owned(),
        adversaries: vec![Adversary::Swap],
    })
}

fn yama(process: &Process) -> Option<Hole> {
    let (what, fix) = match process.machine.yama {
        Some(1..) => return None,
        Some(0) => (
            "Yama lets processes of one user trace each other (scope 0).",
            "`sysctl kernel.yama.ptrace_scope=1`, and the same in /etc/sysctl.d",
        ),
        None => (
            "This kernel runs without Yama, which would keep processes of one user apart.",
            "a kernel with CONFIG_SECURITY_YAMA, and `yama` in its command line's `lsm=`",
        ),
    };
    let exposed = same_user(process).reach != Reach::OutOfReach && process.user() != 0;
    Some(Hole {
        hole: "yama",
        severity: if exposed {
            Severity::Medium
        } else {
            Severity::Low
        },
        what: what.to_owned(),
        fix: fix.to_owned(),
        adversaries: vec![Adversary::SameUser],
    })
}

fn filter(process: &Process) -> Option<Hole> {
    /// What Linux has by default (core(5)).
    const DEFAULT: u64 = 0x33;
    let filter = process.coredump_filter?;
    let more = filter & !DEFAULT;
    let dumps = kernel_dump(process).reach != Reach::OutOfReach;
    (more != 0 && dumps).then(|| Hole {
        hole: "coredump-filter",
        severity: Severity::Low,
        what: format!("Its core dump has more than is usual (coredump_filter {filter:#x})."),
        fix: format!(
            "`echo 0x33 > /proc/{}/coredump_filter`; `CoredumpFilter=default` in the unit",
            process.pid
        ),
        adversaries: vec![Adversary::CoreDump],
    })
}

fn kcore(process: &Process) -> Option<Hole> {
    let machine = &process.machine;
    let locked = machine.lockdown.as_deref() == Some("confidentiality");
    (machine.kcore && !locked).then(|| Hole {
        hole: "kcore",
        severity: Severity::Low,
        what: "Root reads the kernel's direct map through /proc/kcore: all ordinary memory."
            .to_owned(),
        fix: "`lockdown=confidentiality` on the kernel's command line".to_owned(),
        adversaries: vec![Adversary::Root, Adversary::DirectMap],
    })
}

/// How the process would be started to be kept.
fn kept(process: &Process) -> String {
    const LONGEST: usize = 1000;
    let words: Vec<String> = process.command.iter().map(|word| quoted(word)).collect();
    let command = words.join(" ");
    let fits = !command.is_empty() && command.chars().count() <= LONGEST;
    let command = match process.command.first() {
        _ if fits => command,
        Some(program) => format!("{} ARGUMENTS", quoted(program)),
        None => format!("{} ARGUMENTS", quoted(&process.name)),
    };
    format!("strongroom run -- {command}")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("--level=hidden"), "--level=hidden");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    const SEEN: Seen = Seen {
        own: 8192,
        secret: 4096,
        swappable: 8192,
        swapped: 0,
    };

    /// This process, as one without holes.
    fn closed() -> Process {
        let mut process = Process::read(std::process::id() as i32).unwrap();
        process.users = [1000; 4];
        process.groups = [1000; 4];
        process.dumpable = Some(false);
        process.environment = Environment::Names(Vec::new());
        process.coredump_filter = Some(0x33);
        process.machine = crate::exposure::Machine {
            yama: Some(1),
            ..Default::default()
        };
        process
    }

    #[test]
    fn each_hole_is_found_by_what_makes_it_and_has_its_fix() {
        assert_eq!(names(&closed(), &SEEN), Vec::<&str>::new());
        let find = |change: &dyn Fn(&mut Process), name: &str, fix: &str| {
            let mut process = closed();
            change(&mut process);
            let holes = of(&process, &SEEN);
            let hole = holes.iter().find(|hole| hole.hole == name);
            let hole = hole.unwrap_or_else(|| panic!("{name} in {holes:?}"));
            assert!(hole.fix.contains(fix), "{hole:?}");
            assert!(holes.is_sorted_by_key(|hole| hole.severity), "{holes:?}");
        };
        find(&|p| p.tracer = 1, "traced", "kill 1");
        find(&|p| p.dumpable = Some(true), "dumpable", "PR_SET_DUMPABLE");
        find(
            &|p| p.machine.swaps = vec!["/dev/sdx".to_owned()],
            "swap",
            "MemorySwapMax=0",
        );
        find(
            &|p| p.machine.hibernates = true,
            "hibernation",
            "hibernate.target",
        );
        find(&|p| p.machine.yama = Some(0), "yama", "ptrace_scope=1");
        find(&|p| p.machine.yama = None, "yama", "CONFIG_SECURITY_YAMA");
        find(&|p| p.machine.kcore = true, "kcore", "lockdown=");
        find(
            &|p| p.environment = Environment::Names(vec!["A_TOKEN".to_owned()]),
            "environment",
            "LoadCredential=",
        );
        find(
            &|p| p.machine.suid_dumpable = 2,
            "core-dump",
            "suid_dumpable=0",
        );
        let to_a_program = |p: &mut Process| {
            p.dumpable = Some(true);
            p.core_soft = Some(0);
            p.core_hard = Some(0);
            p.machine.core_pattern = CorePattern::Program("|/bin/x".to_owned());
        };
        find(&to_a_program, "core-dump", "--core=1:1");
        let more = |p: &mut Process| {
            to_a_program(p);
            p.coredump_filter = Some(0x7f);
        };
        find(&more, "coredump-filter", "0x33");
        let none = Seen { secret: 0, ..SEEN };
        assert_eq!(names(&closed(), &none), ["no-secret-memory"]);
    }

    fn names(process: &Process, seen: &Seen) -> Vec<&'static str> {
        of(process, seen).iter().map(|hole| hole.hole).collect()
    }

    #[test]
    fn severities_are_in_order() {
        assert!(Severity::High < Severity::Medium && Severity::Medium < Severity::Low);
    }
}
