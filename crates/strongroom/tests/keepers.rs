//! The kernel driver's memory as the library's users have it: `cargo xtask driver test` runs this where the
//! driver is loaded.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use strongroom::conceal::conceal;
use strongroom::fork::ForkPolicy;
use strongroom::keeper::{self, DRIVER, DRIVER_UNCACHED, KEEPERS, SECRETMEM};
use strongroom::ledger::Child;
use strongroom::{Heap, Level, Policy, Protection, Protections, Reason, Region};
use strongroom_core::driver::{DEVICE, HUGE_PAGE};

const HUGE: usize = HUGE_PAGE as usize;

/// One test at a time, as one takes the whole pool; nothing where there is no driver.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if Path::new(DEVICE).exists() {
        return Some(guard);
    }
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // `cargo xtask test` runs them in a virtual machine, too.
    if std::env::var_os("STRONGROOM_DRIVER_ELSEWHERE").is_some() {
        let _ = writeln!(std::io::stderr(), "{test}: left to the virtual machine");
        return None;
    }
    assert!(
        std::env::var_os("STRONGROOM_NO_SKIP").is_none_or(|v| v == "0" || v.is_empty()),
        "{test} cannot run here: the driver is not loaded; STRONGROOM_NO_SKIP makes that a failure"
    );
    let line = format!("{test}: the driver is not loaded\n");
    let _ = write!(std::io::stderr(), "SKIPPED {line}");
    if let Some(path) = std::env::var_os("STRONGROOM_SKIP_LOG") {
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path);
        let _ = log.and_then(|mut log| log.write_all(line.as_bytes()));
    }
    None
}

/// Whether the kernel says that the driver's memory is there.
fn is_driver(address: *const u8) -> bool {
    strongroom_sys::maps::covering_or_next(address as usize, |mapping| {
        mapping.start <= address as usize && mapping.is_driver()
    })
    .unwrap()
    .unwrap_or(false)
}

/// Forks; the child's `act` returns whether all is well.
fn in_child(act: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child only touches memory, and ends without running anything else.
    match unsafe { libc::fork() } {
        0 => {
            let well = act();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!well)) }
        }
        child => {
            let mut status = 0;
            // SAFETY: `status` is a valid place.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

fn state(name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/sys/class/misc/strongroom/{name}")).unwrap();
    text.trim().parse().unwrap()
}

#[test]
fn hidden_memory_is_the_drivers() {
    let Some(_alone) = alone() else { return };
    let policy = Policy::require(Level::Hidden);
    let mut region = Region::new(5000, policy).unwrap();
    assert_eq!(region.keeper(), DRIVER.name());
    assert_eq!(region.len(), 8192);
    assert!(region.receipt().complete() && region.receipt().level() == Some(Level::Hidden));
    assert!(region.iter().all(|&byte| byte == 0));
    region.fill(7);
    assert!(is_driver(region.as_ptr()));
    assert!(region.iter().all(|&byte| byte == 7));

    let heap = Heap::new(policy).unwrap();
    assert_eq!(heap.keeper(), Some(DRIVER.name()));
    let block = heap.allocate(100);
    assert!(is_driver(block));
    let kept = heap.kept();
    let of_driver = KEEPERS.iter().position(|k| *k == DRIVER).unwrap();
    assert!(kept[of_driver] > 0 && kept.iter().sum::<usize>() == kept[of_driver]);
    // SAFETY: allocated above.
    unsafe { heap.free(block) };
}

#[test]
fn uncached_memory_is_what_closed_has_of_it() {
    let Some(_alone) = alone() else { return };
    let policy = Policy::require(Level::Hidden).and(Protections::UNCACHED);
    let mut region = Region::new(1, policy).unwrap();
    assert_eq!(region.keeper(), DRIVER_UNCACHED.name());
    assert!(region.receipt().complete());
    assert!(region.receipt().held().contains(Protections::UNCACHED));
    region.fill(9);
    assert!(region.iter().all(|&byte| byte == 9));

    // The most that there is of the level, and what is missing; and never less than was required.
    let region = Region::new(1, Policy::prefer(Level::Closed)).unwrap();
    assert_eq!(region.keeper(), DRIVER_UNCACHED.name());
    let missing: Vec<_> = region.receipt().missing().collect();
    let keeper = DRIVER_UNCACHED.name();
    let lacks = |protection| (protection, Reason::KeeperLacks { keeper });
    assert_eq!(
        missing,
        [Protection::ClosedWhenIdle, Protection::Shielded].map(lacks)
    );
    assert!(Region::new(1, Policy::require(Level::Closed)).is_err());
}

#[test]
fn huge_pages_are_whole_and_a_child_has_its_own() {
    let Some(_alone) = alone() else { return };
    let entries = state("huge_entries");
    for protections in [Protections::empty(), Protections::UNCACHED] {
        let policy = Policy::require(Level::Hidden)
            .and(protections)
            .on_fork(ForkPolicy::Copy);
        let mut region = Region::huge(HUGE + 1, policy).unwrap();
        assert_eq!(
            (region.len(), region.as_ptr() as usize % HUGE),
            (2 * HUGE, 0)
        );
        assert!(region.receipt().complete() && region.receipt().held().contains(protections));
        region[3] = 1;
        region[2 * HUGE - 1] = 2;
        assert!(in_child(|| {
            let same = region[3] == 1 && region[2 * HUGE - 1] == 2 && region[HUGE] == 0;
            region[3] = 5;
            same && region[3] == 5
        }));
        assert_eq!((region[3], region[2 * HUGE - 1]), (1, 2));
    }
    assert!(state("huge_entries") >= entries + 4);
    // A level's name alone asks for no such pages where there are none of that kind.
    assert!(Region::huge(1, Policy::require(Level::Closed)).is_err());
}

#[test]
fn memory_that_is_there_becomes_the_drivers() {
    let Some(_alone) = alone() else { return };
    let len = 6 * 4096;
    // SAFETY: a new mapping.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    let start = start.cast::<u8>();
    // SAFETY: mapped above.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start, len) };
    bytes[4096..].fill(8);
    let range = start as usize..start as usize + len;
    // SAFETY: nobody else uses the range.
    let outcome = unsafe { conceal(range, DRIVER, Child::Copy) };
    assert_eq!(outcome.unwrap().secret, len);
    assert!(is_driver(start));
    assert!(bytes[..4096].iter().all(|&b| b == 0) && bytes[4096..].iter().all(|&b| b == 8));
    assert!(in_child(|| {
        let same = bytes[0] == 0 && bytes[4096..].iter().all(|&b| b == 8);
        bytes.fill(1);
        same
    }));
    assert!(bytes[4096..].iter().all(|&b| b == 8));
    // SAFETY: mapped above, and not used any more.
    unsafe { libc::munmap(start.cast(), len) };
}

/// What a full pool does not give, memfd_secret does; what that does not offer is refused.
#[test]
fn a_full_pool_is_stood_in_for_or_said() {
    let Some(_alone) = alone() else { return };
    let hidden = Policy::require(Level::Hidden);
    let heap = Heap::new(hidden).unwrap();
    let first = heap.allocate(100);
    assert!(is_driver(first));
    let before = state("free");
    let mut all = Vec::new();
    while state("free") > 0 {
        let len = state("largest_free") as usize;
        let region = Region::new(len, hidden).unwrap();
        if region.keeper() != DRIVER.name() {
            // A limit on what one user may have, in a pool that others use, too.
            break;
        }
        all.push(region);
    }
    assert!(before >= HUGE_PAGE && !all.is_empty());
    let other = Region::new(1, hidden).unwrap();
    assert_eq!(other.keeper(), SECRETMEM.name());
    assert!(other.receipt().complete());
    let refused = Region::new(1, hidden.and(Protections::UNCACHED)).unwrap_err();
    assert!(
        matches!(
            refused.reason,
            Reason::PoolFull { .. } | Reason::PoolLimit { .. }
        ),
        "{refused}"
    );
    // A heap goes on, too: its older memory is the driver's, what it needs now is not.
    let more = heap.allocate(4 << 20);
    assert!(!more.is_null() && !is_driver(more) && is_driver(first));
    let kept = heap.kept();
    let of = |keeper| kept[KEEPERS.iter().position(|k| *k == keeper).unwrap()];
    assert!(of(DRIVER) > 0 && of(SECRETMEM) >= 4 << 20, "{kept:?}");
    // SAFETY: allocated above.
    unsafe {
        heap.free(first);
        heap.free(more);
    }
    drop(all);
    assert_eq!(Region::new(1, hidden).unwrap().keeper(), DRIVER.name());
    assert_eq!(keeper::probe(DRIVER), Ok(()));
}
