//! Holes of a whole process, each with its fix, the most severe first.

use super::Totals;
use crate::exposure::{
    Adversary, CorePattern, Environment, Process, Reach, kernel_dump, same_user,
};
use serde::Serialize;

/// How much a hole gives away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// An ordinary process has the secrets now.
    High,
    /// It takes root, a crash or luck.
    Medium,
    /// It makes another hole worse.
    Low,
}

/// A hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hole {
    /// Its name.
    pub hole: &'static str,
    /// How much it gives away.
    pub severity: Severity,
    /// What is the matter.
    pub what: String,
    /// Ways to close it, each to be used as it is: a command, a unit's line, a sysctl.
    pub fixes: Vec<String>,
}

/// All that are found.
pub(super) fn find(process: &Process, totals: &[Totals]) -> Vec<Hole> {
    let mut holes: Vec<Hole> = [
        traced(process),
        open_secrets(process),
        user(process),
        environment(process),
        core(process),
        swap(process, totals),
        hibernation(process),
        memory(process, totals),
        filter(process),
        yama(process),
        kcore(process),
        namespace(process),
    ]
    .into_iter()
    .flatten()
    .collect();
    // Stable: the order above within a severity.
    holes.sort_by_key(|hole| hole.severity);
    holes
}

fn hole(
    hole: &'static str,
    severity: Severity,
    what: impl Into<String>,
    fixes: impl IntoIterator<Item = String>,
) -> Option<Hole> {
    Some(Hole {
        hole,
        severity,
        what: what.into(),
        fixes: fixes.into_iter().collect(),
    })
}

/// The program under `strongroom run`, by its own command line.
fn run(process: &Process, options: &str) -> String {
    let words: Vec<_> = process.command.iter().map(|word| quoted(word)).collect();
    let command = if words.is_empty() {
        quoted(process.program.as_deref().unwrap_or(&process.name))
    } else {
        words.join(" ")
    };
    format!("strongroom run{options} -- {command}")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=@%+,-".contains(c);
    if word.chars().any(char::is_control) {
        // bash, zsh: $'…' takes escapes, so that a command stays on one line.
        let escaped = word.replace('\\', "\\\\").replace('\'', "\\'");
        let escape = |c: char| match c {
            '\n' => "\\n".to_owned(),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        return format!("$'{}'", escaped.chars().map(escape).collect::<String>());
    }
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn traced(process: &Process) -> Option<Hole> {
    let tracer = process.tracer;
    (tracer != 0).then_some(())?;
    let what = format!("process {tracer} traces it now and reads what it likes");
    hole("traced", Severity::High, what, [format!("kill {tracer}")])
}

fn open_secrets(process: &Process) -> Option<Hole> {
    let numbers: Vec<_> = process
        .secret_descriptors
        .iter()
        .map(|open| open.number.to_string())
        .collect();
    (!numbers.is_empty()).then_some(())?;
    let what = format!(
        "its secret memory can be taken by pidfd_getfd and mapped: descriptor {} of memfd_secret is open",
        numbers.join(", ")
    );
    let fixes = ["close(fd) right after mmap: the mapping stays".to_owned()];
    hole("open-secret-descriptor", Severity::High, what, fixes)
}

fn user(process: &Process) -> Option<Hole> {
    let gate = same_user(process);
    (gate.reach == Reach::Reachable).then_some(())?;
    if process.users == [0; 4] {
        let what = "it runs as root: every other process of root's reads its ordinary memory";
        let fixes = ["[Service] DynamicUser=yes".to_owned(), run(process, "")];
        return hole("runs-as-root", Severity::Medium, what, fixes);
    }
    let what = format!(
        "every process of user {} can read its ordinary memory and make it hand over the rest: {}",
        process.user(),
        gate.why
    );
    let fixes = [
        run(process, ""),
        "prctl(PR_SET_DUMPABLE, 0)".to_owned(),
        "sysctl kernel.yama.ptrace_scope=2".to_owned(),
        "[Service] DynamicUser=yes".to_owned(),
    ];
    hole("same-user", Severity::High, what, fixes)
}

fn environment(process: &Process) -> Option<Hole> {
    let Environment::Names(names) = &process.environment else {
        return None;
    };
    (!names.is_empty()).then_some(())?;
    // PTRACE_MODE_READ: Yama has no say.
    let (severity, who) = match process.dumpable {
        Some(true) => (
            Severity::High,
            "its user and root read them in /proc/PID/environ",
        ),
        _ => (Severity::Medium, "root reads them in /proc/PID/environ"),
    };
    let what = format!(
        "its environment names what looks like secrets, and {who}: {}",
        names.join(", ")
    );
    let fixes = names
        .iter()
        .take(3)
        .map(|name| format!("[Service] LoadCredential={name}:/path/of/a/file"));
    hole("environment", severity, what, fixes)
}

fn core(process: &Process) -> Option<Hole> {
    let dump = kernel_dump(process);
    (dump.reach == Reach::Reachable).then_some(())?;
    let mut fixes = Vec::new();
    match &process.machine.core_pattern {
        CorePattern::Program(_) => {
            fixes.push("prctl(PR_SET_DUMPABLE, 0)".to_owned());
            fixes.push("Storage=none (in /etc/systemd/coredump.conf)".to_owned());
        }
        _ => {
            fixes.push("[Service] LimitCORE=0".to_owned());
            fixes.push(format!("prlimit --pid {} --core=0:0", process.pid));
        }
    }
    fixes.push(run(process, ""));
    hole(
        "core-dump",
        Severity::Medium,
        format!("its memory ends up in a core dump: {}", dump.why),
        fixes,
    )
}

fn reachable(totals: &[Totals], adversary: Adversary) -> u64 {
    totals
        .iter()
        .filter(|total| total.adversary == adversary)
        .map(|total| total.reachable)
        .sum()
}

fn swap(process: &Process, totals: &[Totals]) -> Option<Hole> {
    let pages = reachable(totals, Adversary::Swap);
    if pages == 0 || process.machine.swaps.is_empty() {
        return None;
    }
    let what = format!(
        "{pages} pages of its own may be written to {}",
        process.machine.swaps.join(", ")
    );
    let fixes = ["[Service] MemorySwapMax=0".to_owned(), run(process, "")];
    hole("swap", Severity::Medium, what, fixes)
}

fn hibernation(process: &Process) -> Option<Hole> {
    process.machine.hibernates.then_some(())?;
    let what = "the machine can hibernate, which writes all memory to the swap, locked or not";
    let fixes = [
        "systemctl mask hibernate.target hybrid-sleep.target suspend-then-hibernate.target"
            .to_owned(),
        "nohibernate (on the kernel's command line)".to_owned(),
    ];
    hole("hibernation", Severity::Medium, what, fixes)
}

/// What only secret memory helps against.
fn memory(process: &Process, totals: &[Totals]) -> Option<Hole> {
    let pages = reachable(totals, Adversary::DirectMap);
    (pages > 0).then_some(())?;
    let under_run = totals
        .iter()
        .any(|total| total.out_of_reach > 0 && total.adversary == Adversary::DirectMap);
    let what = format!(
        "{pages} pages of its own are ordinary memory: root, pins and the kernel's direct map reach them"
    );
    let fix = if under_run {
        "what is left is not on the heap: stacks, static data, memory by mmap (docs/pitfalls.md)"
            .to_owned()
    } else {
        run(process, " --level hidden")
    };
    hole(
        "ordinary-memory",
        if under_run {
            Severity::Low
        } else {
            Severity::Medium
        },
        what,
        [fix],
    )
}

fn filter(process: &Process) -> Option<Hole> {
    // Bits 2 and 3 are files, 7 and 8 what is mapped of persistent memory.
    const BEYOND: u64 = 0b1_1000_1100;
    let filter = process.coredump_filter?;
    (filter & BEYOND != 0).then_some(())?;
    let what = format!("coredump_filter {filter:#x} has core dumps take in mapped files too");
    let fixes = [
        "[Service] CoredumpFilter=default".to_owned(),
        format!("echo 0x33 > /proc/{}/coredump_filter", process.pid),
    ];
    hole("coredump-filter", Severity::Low, what, fixes)
}

fn yama(process: &Process) -> Option<Hole> {
    let what = match process.machine.yama {
        None => "this kernel has no Yama: processes of one user may attach to each other",
        Some(0) => "kernel.yama.ptrace_scope is 0: processes of one user may attach to each other",
        Some(_) => return None,
    };
    let fix = match process.machine.yama {
        None => "CONFIG_SECURITY_YAMA=y, and yama in lsm= on the kernel's command line",
        Some(_) => "sysctl kernel.yama.ptrace_scope=1",
    };
    hole("yama", Severity::Low, what, [fix.to_owned()])
}

fn kcore(process: &Process) -> Option<Hole> {
    let confidential = process.machine.lockdown.as_deref() == Some("confidentiality");
    (process.machine.kcore && !confidential).then_some(())?;
    let what = "root reads all that the kernel maps in /proc/kcore";
    let fixes = ["lockdown=confidentiality (on the kernel's command line)".to_owned()];
    hole("kcore", Severity::Low, what, fixes)
}

fn namespace(process: &Process) -> Option<Hole> {
    process.other_user_namespace.then_some(())?;
    let what = "it is in another user namespace: whoever made that looks in, dumpable or not";
    let fixes = ["[Service] PrivateUsers=no, and a user of its own".to_owned()];
    hole("user-namespace", Severity::Low, what, fixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("--a=/b"), "--a=/b");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $x"), "'it'\\''s $x'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a\nb\x1b'\\"), r"$'a\nb\u001b\'\\'");
    }
}
