//! Where the stacks of a process's threads are.

use std::fs;

/// The stack pointers of its threads, sorted: of those that wait in the kernel, and where this user may
/// know (/proc/PID/task/TID/syscall, proc_pid_syscall(5)).
pub(super) fn pointers(pid: i32) -> Vec<u64> {
    const MOST: usize = 1 << 16;
    let mut found: Vec<u64> = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .take(MOST)
        .filter_map(|thread| pointer(&fs::read_to_string(thread.path().join("syscall")).ok()?))
        .collect();
    found.sort_unstable();
    found
}

/// "number arguments… sp pc", "-1 sp pc" or "running".
fn pointer(text: &str) -> Option<u64> {
    let sp = text.split_whitespace().rev().nth(1)?;
    u64::from_str_radix(sp.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pointer_is_the_word_before_the_last() {
        assert_eq!(
            pointer("0 0x3 0x7ffd 0x1 0x0 0x0 0x0 0x7ff0 0x7f01\n"),
            Some(0x7ff0)
        );
        assert_eq!(pointer("-1 0x7ff0 0x7f01\n"), Some(0x7ff0));
        assert_eq!(pointer("running\n"), None);
    }
}
