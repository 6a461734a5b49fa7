//! What a kernel that looks for its own mistakes says of one.
//!
//! `panic_on_warn` ends a guest at a WARN and at what KASAN and UBSAN find. What lockdep, RCU and
//! kmemleak find is printed and nothing more: the console is searched for it.

/// How many lines of a report are shown.
const SHOWN: usize = 30;

/// A line of the console that begins so is a report. The words are the kernel's own (6.12).
const BEGINNINGS: [&str; 14] = [
    // lockdep, RCU and WARN; what of it names itself otherwise begins with the line that is cut.
    "WARNING: ",
    "------------[ cut here ]------------",
    // KASAN, sleep where none may be, bad pages, oopses; SLUB.
    "BUG: ",
    "BUG ",
    "UBSAN: ",
    "Oops: ",
    "general protection fault",
    "Kernel panic - not syncing",
    // Hung tasks, stalls of RCU, a lock that was never made ready.
    "INFO: task ",
    "INFO: rcu_",
    "rcu: INFO: ",
    "INFO: trying to register non-static key",
    // They gave up: what came after was not looked at.
    "Disabling lock debugging due to kernel taint",
    "kmemleak: Cannot allocate",
];

/// The first report in a console, with some lines of what follows it.
pub(super) fn first(console: &str) -> Option<String> {
    let lines: Vec<&str> = console.lines().collect();
    let at = lines.iter().position(|line| is_report(message(line)))?;
    let shown = lines.iter().skip(at).take(SHOWN).copied();
    Some(shown.collect::<Vec<_>>().join("\n"))
}

fn is_report(message: &str) -> bool {
    BEGINNINGS
        .iter()
        .any(|beginning| message.starts_with(beginning))
        || message.starts_with("kmemleak: ") && message.contains("new suspected memory leaks")
}

/// A line without its time, and without the task where the kernel prints that.
fn message(line: &str) -> &str {
    let mut rest = line;
    while let Some(after) = rest.strip_prefix('[') {
        match after.split_once(']') {
            Some((_, message)) => rest = message.trim_start(),
            None => break,
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_found_behind_their_times() {
        for line in [
            "[    3.141592] WARNING: possible circular locking dependency detected",
            "[   12.000000] WARNING: suspicious RCU usage",
            "[    4.1][   T71] BUG: KASAN: slab-use-after-free in f+0x1/0x2 [m]",
            "BUG: sleeping function called from invalid context at mm/x.c:1",
            "[    9.2] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "[    9.2] ------------[ cut here ]------------",
            "[    9.2] UBSAN: shift-out-of-bounds in a.c:1:2",
        ] {
            let console = format!("[    0.1] Linux version\n{line}\n[    9.9] end\n");
            assert_eq!(first(&console).unwrap().lines().next(), Some(line));
        }
    }

    #[test]
    fn what_else_a_kernel_says_is_none() {
        let console = "\
[    0.000000] Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar
[    0.1] kmemleak: Kernel memory leak detector initialized (mem pool available: 15834)
[    0.2] rcu: \tRCU lockdep checking is enabled.
[    1.0] lkdtm: No crash points registered, enable through debugfs
[    2.0] demo: loading out-of-tree module taints kernel.
[    3.0] Run /init as init process
";
        assert_eq!(first(console), None);
    }
}
