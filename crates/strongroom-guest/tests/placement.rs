//! Where guest memory is: there before it is touched, never swapped, and from which NUMA nodes. One test, as it looks at
//! the counters of the whole machine, where others are at work, too: what it expects must be seen in one of some attempts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guest;

use guest::{Guest, MIB, Processor, each};
use rustix::io::Errno;
use std::ops::Range;
use std::time::Duration;
use strongroom_guest::backing::Plain;
use strongroom_guest::kvm::Limits;
use strongroom_guest::{Contents, Error, GuestRegion, PAGE, Side};
use strongroom_sys::page_cache;

const LEN: usize = 32 * MIB;
const PAGES: usize = LEN / PAGE;
const WORDS: usize = PAGE / 8;
/// What the kernel counts late, and others use meanwhile.
const NOISE: i64 = 4 << 10;
const ATTEMPTS: usize = 10;

fn limits() -> Limits {
    Limits {
        patience: Duration::from_secs(5),
        ..Limits::default()
    }
}

/// A line of a meminfo, in KiB.
fn counter(file: &str, name: &str) -> i64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.contains(name)).unwrap();
    let mut words = line.split_whitespace().rev();
    assert_eq!(words.next(), Some("kB"));
    words.next().unwrap().parse().unwrap()
}

/// The nodes of this machine; none where its kernel knows none.
fn nodes() -> Vec<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    parts
        .flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<u32>().unwrap()..=last.parse().unwrap()
        })
        .collect()
}

/// This thread and those that it starts run on one of that node's processors from now on.
fn stay_on(node: u32) {
    let file = format!("/sys/devices/system/node/node{node}/cpulist");
    let list = std::fs::read_to_string(file).unwrap();
    let first = list.trim().split([',', '-']).next().unwrap();
    // A node may have memory alone.
    let Ok(processor) = first.parse() else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

/// By how much memory that is never swapped changes while something is done: tried until it is in the range.
fn unevictable(what: &str, expected: Range<i64>, reset: impl Fn(), work: impl Fn()) {
    let read = || counter("/proc/meminfo", "Unevictable:");
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        reset();
        std::thread::sleep(Duration::from_millis(50));
        let before = read();
        work();
        let change = read() - before;
        if expected.contains(&change) {
            return;
        }
        seen.push(change);
    }
    panic!("{what}: {expected:?} KiB expected, {seen:?}");
}

fn all_of_it() -> Range<i64> {
    let kib = (LEN >> 10) as i64;
    kib - NOISE..kib + NOISE
}

fn none_of_it() -> Range<i64> {
    -NOISE..NOISE
}

/// Half of the pages of a region to be private.
fn half_private(guest: &Guest) {
    guest
        .convert(0..PAGES / 2, Side::Private, Contents::Kept)
        .unwrap();
}

fn populated(name: &str, guest: &Guest, vcpu: &mut Processor) {
    vcpu.fill(3, WORDS, 7);
    vcpu.fill(PAGES - 1, WORDS, 8);
    half_private(guest);
    let mut told = Vec::new();
    guest
        .region()
        .populate(0..LEN, |done| told.push(done))
        .unwrap();
    assert_eq!(told.last(), Some(&LEN), "{name}");
    assert_eq!(vcpu.differs(3, WORDS, 7), None, "{name}");
    assert_eq!(vcpu.differs(PAGES - 1, WORDS, 8), None, "{name}");
    // Each half is there on its own side.
    let backing = guest.region().backing();
    for (file, first) in [
        (backing.private_file(), 0),
        (backing.shared_file(), LEN / 2),
    ] {
        let Some(file) = file else { continue };
        let there = match page_cache::resident(file, first as u64, LEN as u64 / 2) {
            Ok(there) => there,
            // A kernel that does not tell (before Linux 6.5).
            Err(Errno::NOSYS) => return,
            Err(errno) => panic!("{errno}"),
        };
        assert_eq!(there as usize, PAGES / 2, "{name}");
        let rest = page_cache::resident(file, 0, LEN as u64).unwrap();
        assert!(
            (rest as usize) < PAGES / 2 + 64,
            "{name}: {rest} pages in all"
        );
    }
}

fn bound(name: &str, guest: &Guest, vcpu: &mut Processor, nodes: &[u32]) {
    let region = guest.region();
    for impossible in [0, 1 << 63] {
        let refused = region.bind(0..LEN, impossible);
        assert!(
            matches!(
                refused,
                Err(Error::Kernel {
                    errno: Errno::INVAL,
                    ..
                })
            ),
            "{name}: {refused:?}"
        );
    }
    let files = || -> Vec<i64> {
        let file = |node: &u32| format!("/sys/devices/system/node/node{node}/meminfo");
        nodes
            .iter()
            .map(|node| counter(&file(node), "FilePages:"))
            .collect()
    };
    // The last one is not where this thread would get its memory by itself.
    let (node, others) = nodes.split_last().unwrap();
    let mut expected: Vec<_> = others.iter().map(|_| none_of_it()).collect();
    expected.push(all_of_it());
    half_private(guest);
    let before = files();
    region.bind(0..LEN, 1 << node).unwrap();
    region.populate(0..LEN, |_| ()).unwrap();
    let is_there = |when: &str| {
        // All memory is from the only node there is, and everybody's files count.
        if others.is_empty() {
            return;
        }
        let mut seen = Vec::new();
        for _ in 0..ATTEMPTS {
            let now: Vec<_> = files().iter().zip(&before).map(|(a, b)| a - b).collect();
            if now
                .iter()
                .zip(&expected)
                .all(|(it, range)| range.contains(it))
            {
                return;
            }
            seen.push(now);
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{name}, {when}: {expected:?} KiB expected, {seen:?}");
    };
    is_there("bound");
    vcpu.fill(0, PAGES * WORDS, 1);
    for (side, contents) in [
        (Side::Private, Contents::Kept),
        (Side::Shared, Contents::Kept),
        (Side::Private, Contents::Dropped),
        (Side::Shared, Contents::Dropped),
    ] {
        guest.convert(0..PAGES, side, contents).unwrap();
        if contents == Contents::Kept {
            assert_eq!(vcpu.differs(0, PAGES * WORDS, 1), None, "{name}");
        } else {
            // Whoever touches it first, it is from there.
            vcpu.fill(0, PAGES * WORDS, 2);
        }
        is_there(&format!("to {side:?}, {contents:?}"));
    }
}

#[test]
fn guest_memory_is_where_it_was_told_to_be() {
    each(LEN, limits(), |name, guest| {
        populated(name, &guest, &mut guest.processor(0));
    });

    // Unevictable memory is never swapped. The control: memory that is there, and is not locked.
    let region = GuestRegion::new(0, Plain::new(LEN).unwrap()).unwrap();
    let reset = || region.discard(0..LEN).unwrap();
    let populate = || region.populate(0..LEN, |_| ()).unwrap();
    unevictable("the control", none_of_it(), reset, populate);
    each(LEN, limits(), |name, guest| {
        half_private(&guest);
        let region = guest.region();
        if name == "driver-poison" {
            // It is no page cache of anybody's, and the kernel does not count it. `strongroom attack`: swap.
            return region.lock(0..LEN).unwrap();
        }
        region.lock(0..LEN).unwrap();
        let reset = || region.discard(0..LEN).unwrap();
        unevictable(name, all_of_it(), reset, || {
            region.populate(0..LEN, |_| ()).unwrap();
        });
    });

    let nodes = nodes();
    if nodes.is_empty() {
        return eprintln!("not here: no NUMA nodes");
    }
    eprintln!("nodes {nodes:?}");
    stay_on(nodes[0]);
    each(LEN, limits(), |name, guest| {
        if name == "driver-poison" {
            // The pool gave all of it, from the node that this thread runs on, before anybody can say otherwise.
            let bind = guest.region().bind(0..LEN, 1);
            return assert!(matches!(bind, Err(Error::NotOffered { .. })), "{bind:?}");
        }
        bound(name, &guest, &mut guest.processor(0), &nodes);
        // Which of them would be taken is nobody's business but the kernel's.
        if guest.region().backing().private_file().is_some() {
            let discard = guest.region().discard(0..PAGE);
            assert!(
                matches!(discard, Err(Error::NotOffered { .. })),
                "{discard:?}"
            );
        }
    });
}
