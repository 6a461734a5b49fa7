//! What /sys/class/misc/strongroom tells, against what was done and what other places tell.

use crate::object::{Map, Object, alone, free_bytes, state};
use crate::process::{as_user, in_child};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::ptr::from_mut;
use strongroom_core::driver::{
    Abi, GET_ABI, GET_HOLDERS, GET_INFO, HUGE_PAGE, Holder, HoldersRequest, Info, Mode, PAGE,
    VERSION,
};

const STATE: &str = "/sys/class/misc/strongroom";
/// Those that are one number, for everyone.
const NUMBERS: [&str; 20] = [
    "faults",
    "free",
    "held",
    "huge_entries",
    "joined",
    "largest_free",
    "lent",
    "lent_limit",
    "metadata",
    "modes",
    "objects",
    "properties",
    "refused_full",
    "refused_limit",
    "refused_owner",
    "small_entries",
    "total",
    "user_limit",
    "version",
    "wiped",
];

fn take(bytes: u64) -> Result<Map, i32> {
    Object::with_mode(Mode::EXCLUSIVE, bytes).map()
}

fn lines(name: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("{STATE}/{name}")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// `start-end` in hex, the end not among it.
fn range(text: &str) -> (u64, u64) {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let (start, end) = text.split_once('-').unwrap();
    (number(start), number(end))
}

#[test]
fn every_file_is_there_and_who_may_read_it_can() {
    let Some(_alone) = alone() else { return };
    let mut files: BTreeSet<String> = fs::read_dir(STATE)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in NUMBERS {
        assert!(files.remove(name), "{name}");
        let file = fs::metadata(format!("{STATE}/{name}")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o444, "{name}");
        assert_eq!(state(name).to_string(), lines(name)[0]);
    }
    assert!(files.remove("nodes"));
    for name in ["holders", "ranges"] {
        assert!(files.remove(name), "{name}");
        let file = fs::metadata(format!("{STATE}/{name}")).unwrap();
        let (mode, owner) = (file.permissions().mode() & 0o777, file.uid());
        assert_eq!((mode, owner), (0o400, 0), "{name}");
    }
    // The rest is what every device has.
    for name in files {
        assert!(["dev", "power", "subsystem", "uevent"].contains(&name.as_str()));
    }
    let status = in_child(|| {
        as_user();
        for name in NUMBERS {
            state(name);
        }
        let refused = |name| {
            let error = fs::read(format!("{STATE}/{name}")).unwrap_err();
            error.raw_os_error() == Some(libc::EACCES)
        };
        i32::from(!refused("holders") || !refused("ranges"))
    });
    assert_eq!(status, 0);
}

#[test]
fn the_pool_is_what_was_set_aside_and_claimed() {
    let Some(_alone) = alone() else { return };
    let ranges: Vec<(u64, u64)> = lines("ranges").iter().map(|line| range(line)).collect();
    let bytes = |ranges: &[(u64, u64)]| ranges.iter().map(|(start, end)| end - start).sum::<u64>();
    assert_eq!(bytes(&ranges), state("total"));
    let iomem = fs::read_to_string("/proc/iomem").unwrap();
    let claimed: Vec<(u64, u64)> = iomem
        .lines()
        .filter_map(|line| line.trim().strip_suffix(" : strongroom"))
        .map(|line| range(line.trim()))
        .map(|(start, last)| (start, last + 1))
        .collect();
    // Each twice: what /dev/mem looks at, and in it what other drivers do.
    let twice: Vec<(u64, u64)> = ranges.iter().flat_map(|&range| [range, range]).collect();
    assert_eq!(claimed, twice);
    let largest = ranges.iter().map(|(start, end)| end - start).max();
    assert_eq!(Some(state("largest_free")), largest);
    assert_eq!(free_bytes(), state("total"));
    assert!(state("metadata") > 0 && state("metadata") * 500 < state("total"));
    // All of it was wiped when the driver came.
    assert!(state("wiped") >= state("total"));
}

#[test]
fn what_is_held_is_not_free() {
    let Some(_alone) = alone() else { return };
    let total = state("total");
    let held = |bytes: u64, objects: u64| {
        assert_eq!(state("total"), total);
        assert_eq!(state("held"), bytes);
        assert_eq!(free_bytes(), total - bytes);
        assert_eq!(state("objects"), objects);
    };
    held(0, 0);
    // With a mode, but not mapped, it holds nothing.
    let object = Object::with_mode(Mode::EXCLUSIVE, 5 * PAGE);
    held(0, 0);
    let small = object.map().unwrap();
    held(5 * PAGE, 1);
    let large = take(3 * HUGE_PAGE).unwrap();
    held(5 * PAGE + 3 * HUGE_PAGE, 2);
    small.unmap(PAGE as usize, 2 * PAGE as usize).unwrap();
    held(3 * PAGE + 3 * HUGE_PAGE, 2);
    drop(small);
    held(3 * HUGE_PAGE, 1);
    drop(large);
    held(0, 0);
}

#[test]
fn the_largest_free_run_is_one_that_can_be_had_and_none_is_larger() {
    let Some(_alone) = alone() else { return };
    let start = state("largest_free");
    let hold = take(start).unwrap();
    let rest = state("largest_free");
    assert!(rest <= start && rest <= free_bytes());
    drop(hold);
    assert_eq!(state("largest_free"), start);
    // A page out of its middle leaves two shorter ones.
    let whole = take(start).unwrap();
    let middle = (start / 2) as usize;
    whole.unmap(0, middle).unwrap();
    assert_eq!(state("largest_free"), rest.max(start / 2));
    whole
        .unmap(middle + PAGE as usize, middle - PAGE as usize)
        .unwrap();
    assert_eq!(state("largest_free"), rest.max(start / 2));
    drop(whole);
    assert_eq!(state("largest_free"), start);
}

#[test]
fn faults_and_their_entries_are_counted_once() {
    let Some(_alone) = alone() else { return };
    let counters = || ["faults", "small_entries", "huge_entries"].map(state);
    let start = counters();
    let since = || std::array::from_fn(|at| counters()[at] - start[at]);
    let small = take(PAGE).unwrap();
    let large = take(2 * HUGE_PAGE).unwrap();
    assert_eq!(since(), [0, 0, 0]);
    small.bytes_mut().fill(1);
    assert_eq!(since(), [1, 1, 0]);
    small.bytes_mut().fill(2);
    assert_eq!(since(), [1, 1, 0]);
    large.bytes_mut()[0] = 1;
    large.bytes_mut()[2 * HUGE_PAGE as usize - 1] = 1;
    assert_eq!(since(), [3, 1, 2]);
}

#[test]
fn bytes_are_counted_as_they_are_wiped() {
    let Some(_alone) = alone() else { return };
    let map = take(7 * PAGE).unwrap();
    map.bytes_mut().fill(1);
    let before = state("wiped");
    map.unmap(0, 2 * PAGE as usize).unwrap();
    assert_eq!(state("wiped"), before + 2 * PAGE);
    drop(map);
    assert_eq!(state("wiped"), before + 7 * PAGE);
    let map = take(HUGE_PAGE).unwrap();
    assert_eq!(state("wiped"), before + 7 * PAGE);
    drop(map);
    assert_eq!(state("wiped"), before + 7 * PAGE + HUGE_PAGE);
}

#[test]
fn each_refusal_is_counted_as_what_it_was() {
    let Some(_alone) = alone() else { return };
    let counters = || ["refused_full", "refused_limit", "refused_owner"].map(state);
    let start = counters();
    let since = || std::array::from_fn(|at| counters()[at] - start[at]);
    assert_eq!(take(state("total") + PAGE).map(|_| ()), Err(libc::ENOMEM));
    assert_eq!(since(), [1, 0, 0]);
    let status = in_child(|| {
        as_user();
        let limit = libc::rlimit {
            rlim_cur: PAGE,
            rlim_max: PAGE,
        };
        // SAFETY: the limit is alive.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
        i32::from(take(2 * PAGE).map(|_| ()) != Err(libc::EAGAIN))
    });
    assert_eq!((status, since()), (0, [1, 1, 0]));
    let beyond = state("user_limit") + PAGE;
    let status = in_child(|| {
        let limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the limit is alive.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
        as_user();
        i32::from(take(beyond).map(|_| ()) != Err(libc::EDQUOT))
    });
    assert_eq!((status, since()), (0, [1, 2, 0]));
    let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
    let status = in_child(|| i32::from(object.map().map(|_| ()) != Err(libc::EPERM)));
    assert_eq!((status, since()), (0, [1, 2, 1]));
}

#[test]
fn the_files_say_what_the_calls_say() {
    let Some(_alone) = alone() else { return };
    let object = Object::with_mode(Mode::EXCLUSIVE, 3 * PAGE);
    let map = object.map().unwrap();
    map.bytes_mut().fill(1);
    let mut abi = Abi::asked();
    object.call(GET_ABI, from_mut(&mut abi) as usize).unwrap();
    let told = ["version", "modes", "properties", "total", "user_limit"].map(state);
    let called = [abi.version.into(), abi.modes, abi.properties];
    assert_eq!(told[..3], called);
    assert_eq!(told[3..], [abi.total, abi.user_limit]);
    let mut info = Info::asked();
    object.call(GET_INFO, from_mut(&mut info) as usize).unwrap();
    let called = [
        ("total", info.total),
        ("free", info.free),
        ("largest_free", info.largest_free),
        ("held", info.held),
        ("metadata", info.metadata),
        ("objects", info.objects),
        ("small_entries", info.small_entries),
        ("huge_entries", info.huge_entries),
        ("faults", info.faults),
        ("wiped", info.wiped),
        ("refused_full", info.refused_full),
        ("refused_limit", info.refused_limit),
        ("refused_owner", info.refused_owner),
    ];
    for (name, value) in called {
        assert_eq!(state(name), value, "{name}");
    }
}

#[test]
fn holders_are_named_with_what_they_hold_now() {
    let Some(_alone) = alone() else { return };
    assert!(lines("holders").is_empty());
    let me = std::process::id();
    let mode = Mode::EXCLUSIVE | Mode::SEALED;
    let map = Object::with_mode(mode, 6 * PAGE).map().unwrap();
    let line = |pages: u64| format!("{me} 0 {} {}", pages * PAGE, mode.bits());
    assert_eq!(lines("holders"), [line(6)]);
    map.unmap(0, PAGE as usize).unwrap();
    assert_eq!(lines("holders"), [line(5)]);
    // Another process of another user: its line goes with it.
    let mut ready = [0; 2];
    let mut end = [0; 2];
    // SAFETY: room for two descriptors each.
    let piped = unsafe { (libc::pipe(ready.as_mut_ptr()), libc::pipe(end.as_mut_ptr())) };
    assert_eq!(piped, (0, 0));
    let byte = |fd: i32, write: bool| {
        let mut byte = 0_u8;
        let at = &raw mut byte;
        // SAFETY: one byte, which is alive.
        let moved = unsafe {
            if write {
                libc::write(fd, at.cast(), 1)
            } else {
                libc::read(fd, at.cast(), 1)
            }
        };
        assert_eq!(moved, 1);
    };
    let child = crate::process::start(|| {
        as_user();
        let _map = take(2 * PAGE).unwrap();
        byte(ready[1], true);
        byte(end[0], false);
        0
    });
    byte(ready[0], false);
    let theirs = format!("{child} 1000 {} {}", 2 * PAGE, Mode::EXCLUSIVE.bits());
    assert_eq!(lines("holders"), [line(5), theirs]);
    byte(end[1], true);
    assert_eq!(crate::process::wait(child), 0);
    for fd in ready.into_iter().chain(end) {
        // SAFETY: the test's own descriptor.
        unsafe { libc::close(fd) };
    }
    assert_eq!(lines("holders"), [line(5)]);
    drop(map);
    assert!(lines("holders").is_empty());
}

#[test]
fn more_holders_than_a_file_takes_are_cut_between_lines() {
    const OBJECTS: usize = 400;
    let Some(_alone) = alone() else { return };
    let maps: Vec<Map> = (0..OBJECTS).map(|_| take(PAGE).unwrap()).collect();
    let line = format!("{} 0 {PAGE} {}", std::process::id(), Mode::EXCLUSIVE.bits());
    let text = fs::read_to_string(format!("{STATE}/holders")).unwrap();
    assert!(text.ends_with('\n'));
    assert!(text.lines().all(|found| found == line));
    // Another one would not have fitted into the page.
    assert!(text.len() < PAGE as usize && text.len() + line.len() + 1 >= PAGE as usize);
    // The call has no such end.
    let mut holders = vec![Holder::default(); OBJECTS];
    let mut request = HoldersRequest {
        size: size_of::<HoldersRequest>() as u32,
        version: VERSION,
        buffer: holders.as_mut_ptr() as u64,
        capacity: OBJECTS as u32,
        count: 0,
    };
    let at = from_mut(&mut request) as usize;
    Object::blank().call(GET_HOLDERS, at).unwrap();
    assert_eq!(request.count as usize, OBJECTS);
    assert!(holders.iter().all(|holder| holder.bytes == PAGE));
    drop(maps);
}
