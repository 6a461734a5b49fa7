//! What the kernel and the driver count.

use std::fs;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A number of /sys/class/misc/strongroom.
pub(crate) fn driver(name: &str) -> u64 {
    let path = format!("/sys/class/misc/strongroom/{name}");
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// At one moment, or between two.
pub(crate) struct Counters {
    /// Interrupts of the second processor to flush user addresses.
    pub shootdowns: u64,
    /// Interrupts of the second processor to call a function: flushes of the kernel's addresses are such.
    pub calls: u64,
    /// Entries of the direct map of 2 MiB and 1 GiB that were split.
    pub splits: i64,
    /// KiB of the direct map in entries of 4 KiB.
    pub small: i64,
    /// KiB of it in larger ones.
    pub large: i64,
}

impl Counters {
    pub(crate) fn read() -> Self {
        let interrupts = fs::read_to_string("/proc/interrupts").unwrap();
        // None where it is switched off.
        let interrupts = |name| optional(&interrupts, name, 2).unwrap_or(0) as u64;
        let vmstat = fs::read_to_string("/proc/vmstat").unwrap();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        Self {
            shootdowns: interrupts("TLB:"),
            calls: interrupts("CAL:"),
            splits: number(&vmstat, "direct_map_level2_splits", 1)
                + number(&vmstat, "direct_map_level3_splits", 1),
            small: number(&meminfo, "DirectMap4k:", 1),
            large: number(&meminfo, "DirectMap2M:", 1)
                + optional(&meminfo, "DirectMap1G:", 1).unwrap_or(0),
        }
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            shootdowns: self.shootdowns - before.shootdowns,
            calls: self.calls - before.calls,
            splits: self.splits - before.splits,
            small: self.small - before.small,
            large: self.large - before.large,
        }
    }
}

/// The word at this place of the line that begins so.
fn optional(text: &str, name: &str, place: usize) -> Option<i64> {
    let mut lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.first() == Some(&name))?;
    line.get(place)?.parse().ok()
}

fn number(text: &str, name: &str, place: usize) -> i64 {
    optional(text, name, place).unwrap_or_else(|| panic!("the kernel does not count {name}"))
}

/// Keeps the calling thread on one processor.
pub(crate) fn stay_on(processor: usize) {
    // SAFETY: a set of processors is plain bits.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is alive, and the number is within it.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the set is alive and of this size.
    let stays = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    assert_eq!(
        stays,
        0,
        "there is no processor {processor}: {}",
        std::io::Error::last_os_error()
    );
}

/// Switches the second processor on or off.
pub(crate) fn second_processor(on: bool) {
    let path = "/sys/devices/system/cpu/cpu1/online";
    fs::write(path, if on { "1" } else { "0" }).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Another process that is busy there until this is dropped.
pub(crate) struct BusyProcess(Child);

pub(crate) fn busy_process(processor: usize) -> BusyProcess {
    stay_on(processor);
    let child = Command::new("sh")
        .args(["-c", "while :; do :; done"])
        .spawn();
    stay_on(0);
    // It is past its start, which is full of flushes.
    std::thread::sleep(std::time::Duration::from_secs(1));
    BusyProcess(child.unwrap())
}

impl Drop for BusyProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A thread of this process that is busy there until this is dropped.
pub(crate) struct BusyThread {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) fn busy_thread(processor: usize) -> BusyThread {
    let end = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let end = Arc::clone(&end);
        move || {
            stay_on(processor);
            while !end.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    BusyThread {
        end,
        thread: Some(thread),
    }
}

impl Drop for BusyThread {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
