//! Where this thread runs, and what interrupts the others.

use crate::process::in_child;
use std::fs;

/// This thread runs there from now on.
pub(crate) fn run_on(processor: usize) {
    // SAFETY: a set of processors is plain numbers, and the kernel reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(result, 0);
}

/// How often processor 1 was interrupted to flush translations: of user addresses, or, by a call, of the kernel's.
fn interrupts() -> u64 {
    let text = fs::read_to_string("/proc/interrupts").unwrap();
    let count = |name| {
        let line = text.lines().find(|line| line.trim().starts_with(name))?;
        line.split_whitespace().nth(2)?.parse::<u64>().ok()
    };
    count("TLB:").unwrap_or(0) + count("CAL:").expect("the kernel counts its calls")
}

/// The least that processor 1 was interrupted while something was done on processor 0, as the kernel has its own
/// reasons, too: up to 100. In a process of its own, as the tests' other threads were on processor 1, which is told of
/// what this process's page tables lose. None where there is one processor.
pub(crate) fn interrupted(mut work: impl FnMut()) -> Option<i32> {
    if !fs::exists("/sys/devices/system/cpu/cpu1").unwrap() {
        return None;
    }
    // The child begins where this is.
    run_on(0);
    let status = in_child(|| {
        let trials = (0..7).map(|_| {
            let before = interrupts();
            work();
            interrupts() - before
        });
        // 101 is a panic's, and 128 and more a signal's.
        trials.min().map_or(0, |least| least.min(100) as i32)
    });
    assert!(status <= 100, "{status}");
    Some(status)
}

/// Touches pages of the kernel's own secret memory, each after `before` was told its address, and gives them back.
/// False where there is none.
pub(crate) fn touch_secret_memory(pages: usize, mut before: impl FnMut(usize)) -> bool {
    // SAFETY: a new descriptor and a new mapping, both given back; the mapping is as large as the file.
    unsafe {
        let fd = libc::syscall(libc::SYS_memfd_secret, 0) as i32;
        if fd < 0 {
            return false;
        }
        assert_eq!(libc::ftruncate(fd, (pages * 4096) as i64), 0);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(
            std::ptr::null_mut(),
            pages * 4096,
            protection,
            libc::MAP_SHARED,
            fd,
            0,
        );
        assert_ne!(at, libc::MAP_FAILED);
        for page in 0..pages {
            let place = at.cast::<u8>().add(page * 4096);
            before(place.addr());
            place.write_volatile(1);
        }
        libc::munmap(at, pages * 4096);
        libc::close(fd);
    }
    true
}
