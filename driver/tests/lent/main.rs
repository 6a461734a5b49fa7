//! Memory that the kernel lends, on a kernel that exports what that needs: `cargo xtask driver test --kernel built`.
//!
//! STRONGROOM_MODULE names the file. Where STRONGROOM_LENDS is set, the kernel is one that can.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own helpers fail the test"
)]

#[allow(dead_code, reason = "the device's own tests use the rest")]
#[path = "../device/dump.rs"]
mod dump;
#[allow(dead_code, reason = "the module's own tests use the rest")]
#[path = "../module/load.rs"]
mod load;
#[allow(dead_code, reason = "the device's own tests use the rest")]
#[path = "../device/object.rs"]
mod object;
#[allow(dead_code, reason = "the device's own tests use the rest")]
#[path = "../device/process.rs"]
mod process;
#[allow(dead_code, reason = "the device's own tests use the rest")]
#[path = "../device/processors.rs"]
mod processors;

use dump::direct_map;
use load::{Module, POOL};
use object::{Map, Object, free_bytes, note, skip, skip_on_this_kernel, state};
use processors::{interrupted, touch_secret_memory};
use std::collections::BTreeSet;
use std::fs;
use strongroom_core::driver::{Abi, GET_ABI, HUGE_PAGE, Mode, PAGE, Properties};
use strongroom_probe::attack::direct_map::Reader;

/// Pages of a block.
const BLOCK: u64 = HUGE_PAGE / PAGE;

/// The module with a limit of what is lent; as before in the end.
struct Lending(Module);

impl Lending {
    fn of(limit: &str) -> Option<Self> {
        let module = Module::alone()?;
        module.unload().unwrap();
        let loaded = module.load(&format!("{POOL} lend={limit}"));
        if loaded.is_ok() {
            return Some(Self(module));
        }
        module.load(POOL).unwrap();
        assert_eq!(loaded, Err(libc::EOPNOTSUPP));
        // What was refused is not claimed.
        assert!(!properties().contains(Properties::DYNAMIC_POOL));
        assert_eq!((state("lent_limit"), state("lent")), (0, 0));
        let reason = "it does not export what lending needs";
        skip_on_this_kernel("STRONGROOM_LENDS", reason);
        None
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        let done = self.0.unload().and_then(|()| self.0.load(POOL));
        assert!(done.is_ok() || std::thread::panicking(), "{done:?}");
    }
}

fn properties() -> Properties {
    let mut abi = Abi::asked();
    let at = std::ptr::from_mut(&mut abi) as usize;
    Object::blank().call(GET_ABI, at).unwrap();
    Properties::from_bits(abi.properties).unwrap()
}

/// A number of /proc/meminfo in bytes.
fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with(name));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() << 10
}

/// What the direct map has of large entries and of small ones, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    large: u64,
    small: u64,
}

/// To the dump a block that is out counts with what is before it: this is for when none is.
fn shape() -> Option<Shape> {
    let mut shape = Shape { large: 0, small: 0 };
    for line in direct_map()?.iter().filter(|line| line.is_present()) {
        let bytes = line.addresses.end - line.addresses.start;
        if line.has("PSE") {
            shape.large += bytes;
        } else {
            shape.small += bytes;
        }
    }
    Some(shape)
}

/// The blocks of 2 MiB whose first pages the direct map does not have, by their first frames.
fn absent(reader: &Reader) -> BTreeSet<u64> {
    let map = fs::read_to_string("/proc/iomem").unwrap();
    let ram = map.lines().filter(|line| line.ends_with(": System RAM"));
    let end = ram.map(|line| {
        let (_, end) = line.split_once('-').unwrap();
        u64::from_str_radix(end.split_whitespace().next().unwrap(), 16).unwrap()
    });
    (0..end.max().unwrap() / HUGE_PAGE)
        .map(|block| block * BLOCK)
        .filter(|&frame| reader.frame(frame).unwrap().is_none())
        .collect()
}

fn take(mode: Mode, bytes: u64) -> Map {
    let map = Object::with_mode(Mode::EXCLUSIVE | mode, bytes)
        .map()
        .unwrap();
    for page in map.bytes_mut().chunks_mut(PAGE as usize) {
        assert!(page[..8] == [0; 8] && page[PAGE as usize - 8..] == [0; 8]);
        page.fill(0x6d);
    }
    map
}

#[test]
fn a_lent_block_leaves_the_direct_map_whole_and_comes_back_whole() {
    let Some(_lending) = Lending::of("64M") else {
        return;
    };
    assert!(properties().contains(Properties::DYNAMIC_POOL));
    assert_eq!((state("lent_limit"), state("lent")), (64 << 20, 0));
    let total = state("total");
    let reader = match Reader::new() {
        Ok(reader) => reader,
        Err(why) => return skip(&why.to_string()),
    };
    // Once before: what is cut of a 1 GiB entry stays so.
    drop(take(Mode::empty(), 8 * HUGE_PAGE));
    let (before, out) = (shape(), absent(&reader));
    let small = meminfo("DirectMap4k");
    for mode in [Mode::empty(), Mode::HUGE, Mode::UNCACHED] {
        let map = take(mode, 8 * HUGE_PAGE);
        assert_eq!(state("lent"), 8 * HUGE_PAGE);
        // As many blocks are out as are lent, and wholly.
        let lent: Vec<u64> = absent(&reader).difference(&out).copied().collect();
        assert_eq!(lent.len(), 8, "{lent:x?}");
        let frames: Vec<u64> = lent
            .iter()
            .flat_map(|&first| first..first + BLOCK)
            .collect();
        for frame in &frames {
            assert_eq!(reader.frame(*frame).unwrap(), None, "held: {frame:#x}");
        }
        assert_eq!(meminfo("DirectMap4k"), small);
        // A half of it goes: blocks go one by one.
        map.unmap(0, 4 * HUGE_PAGE as usize).unwrap();
        assert_eq!(state("lent"), 4 * HUGE_PAGE);
        drop(map);
        assert_eq!(state("lent"), 0);
        // Back in the direct map, without what was in it.
        for frame in &frames {
            let bytes = reader.frame(*frame).unwrap().expect("it is back");
            assert!(
                bytes.windows(64).all(|part| part != [0x6d; 64]),
                "{frame:#x}"
            );
        }
        assert_eq!((shape(), absent(&reader)), (before, out.clone()));
    }
    assert_eq!(meminfo("DirectMap4k"), small);
    assert_eq!((state("total"), free_bytes()), (total, total));
}

#[test]
fn a_mapping_does_not_interrupt_the_other_processor_for_each_page() {
    let Some(_lending) = Lending::of("64M") else {
        return;
    };
    if !touch_secret_memory(1, |_| ()) {
        return skip("the kernel has no memfd_secret");
    }
    // The control: mostly one a page.
    let Some(control) = interrupted(|| assert!(touch_secret_memory(64, |_| ()))) else {
        return skip("there is one processor");
    };
    assert!(control >= 32, "{control}");
    // Once before: what is cut of a 1 GiB entry stays so.
    drop(take(Mode::empty(), 16 * HUGE_PAGE));
    for blocks in [1, 16] {
        let count = interrupted(|| {
            let map = Object::with_mode(Mode::EXCLUSIVE, blocks * HUGE_PAGE)
                .map()
                .unwrap();
            assert_eq!(state("lent"), blocks * HUGE_PAGE);
            drop(map);
            assert_eq!(state("lent"), 0);
        });
        // And the kernel's own of that time, on a slow kernel.
        assert!(
            count.is_some_and(|count| count < 8),
            "{blocks} blocks: {count:?}"
        );
    }
}

#[test]
fn small_objects_share_a_block_and_the_last_one_gives_it_back() {
    let Some(_lending) = Lending::of("64M") else {
        return;
    };
    let before = free_bytes();
    let first = take(Mode::empty(), 3 * PAGE);
    let second = take(Mode::empty(), PAGE);
    assert_eq!(state("lent"), HUGE_PAGE);
    assert_eq!(free_bytes(), before + HUGE_PAGE - 4 * PAGE);
    drop(first);
    assert_eq!(state("lent"), HUGE_PAGE);
    assert!(second.bytes().iter().all(|&byte| byte == 0x6d));
    drop(second);
    assert_eq!((state("lent"), free_bytes()), (0, before));
}

#[test]
fn beyond_its_limit_the_carve_outs_serve() {
    let Some(_lending) = Lending::of("8M") else {
        return;
    };
    let before = free_bytes();
    let map = take(Mode::HUGE, 10 * HUGE_PAGE);
    assert_eq!(state("lent"), 4 * HUGE_PAGE);
    assert_eq!(free_bytes(), before - 6 * HUGE_PAGE);
    let other = take(Mode::empty(), PAGE);
    assert_eq!(free_bytes(), before - 6 * HUGE_PAGE - PAGE);
    assert!(map.bytes().iter().step_by(512).all(|&byte| byte == 0x6d));
    drop((map, other));
    assert_eq!((state("lent"), free_bytes()), (0, before));
}

#[test]
fn a_refused_mapping_leaves_nothing_lent() {
    let Some(_lending) = Lending::of("8M") else {
        return;
    };
    let all = free_bytes() + (8 << 20);
    let refused = Object::with_mode(Mode::EXCLUSIVE, all + PAGE).map();
    assert_eq!(refused.map(|_| ()), Err(libc::ENOMEM));
    assert_eq!(state("lent"), 0);
    let map = Object::with_mode(Mode::EXCLUSIVE, all).map().unwrap();
    assert_eq!((state("lent"), free_bytes()), (8 << 20, 0));
    drop(map);
    assert_eq!(state("lent"), 0);
}

/// From which NUMA nodes this thread's memory comes: set_mempolicy(2).
fn memory_from(mode: i32, nodes: u64) {
    // SAFETY: the kernel reads the 64 bits of `nodes`, one less than it is told.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, &raw const nodes, 65) };
    assert_eq!(result, 0);
}

/// Cuts the direct map by secret memory of the kernel's own, which leaves it so. False where there is none.
///
/// The table of a cut block's small entries is allocated right after its first secret page, so mostly of the
/// same block, which then is never wholly free. With two nodes it is of the other one: by a new policy each
/// thread begins with the first node for the page, and goes on with the second for the table.
fn cut(bytes: u64, apart: bool) -> bool {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the kernel reads the limit.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    assert_eq!(raised, 0);
    let mut last = 0;
    let there = touch_secret_memory((bytes / PAGE) as usize, |address| {
        // Where a page table of this process's is allocated before the page.
        let table = address as u64 / HUGE_PAGE;
        if apart && table != last {
            memory_from(libc::MPOL_BIND, 0b10);
        } else if apart {
            memory_from(libc::MPOL_INTERLEAVE, 0b11);
        }
        last = table;
    });
    if apart {
        memory_from(libc::MPOL_DEFAULT, 0);
    }
    there
}

/// Free memory of a node, in bytes.
fn free_on(node: u32) -> u64 {
    let text = fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo")).unwrap();
    let line = text.lines().find(|line| line.contains("MemFree:")).unwrap();
    let number = line.split_whitespace().nth(3).unwrap();
    number.parse::<u64>().unwrap() << 10
}

/// Takes what is free of two nodes as ordinary memory, but for so much of each: what comes next is of that little.
fn leave(free: [u64; 2]) -> Vec<Map> {
    let mut taken = Vec::new();
    for (node, left) in free.into_iter().enumerate() {
        let bytes = free_on(node as u32).saturating_sub(left);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        memory_from(libc::MPOL_BIND, 1 << node);
        taken.push(object::map(-1, 0, bytes / PAGE * PAGE, protection, flags).unwrap());
        memory_from(libc::MPOL_DEFAULT, 0);
    }
    taken
}

#[test]
fn what_something_else_had_cut_is_one_entry_again() {
    let Some(_lending) = Lending::of("2G") else {
        return;
    };
    let apart = fs::exists("/sys/devices/system/node/node1").unwrap();
    // The kernel keeps some for itself when all is taken that it gives: what is cut is more than that, and most of
    // what is left.
    let _taken = if apart {
        leave([384 << 20, 128 << 20])
    } else {
        Vec::new()
    };
    let before = meminfo("DirectMap4k");
    if !cut(256 << 20, apart) {
        return skip("the kernel has no memfd_secret");
    }
    let (cut, joined) = (meminfo("DirectMap4k"), state("joined"));
    assert!(cut >= before + (128 << 20), "{before} {cut}");
    // All blocks that the kernel gives, which keeps some for itself; the carve-outs serve the rest.
    let all = meminfo("MemFree") / HUGE_PAGE * HUGE_PAGE;
    let tried = (0..all / 2).step_by(8 << 20).map(|less| all - less);
    let (bytes, map) = tried
        .filter_map(|bytes| {
            let map = Object::with_mode(Mode::EXCLUSIVE, bytes).map().ok()?;
            Some((bytes, map))
        })
        .next()
        .expect("half of what is free");
    assert!(state("lent") > 0 && bytes > 0);
    drop(map);
    let healed = cut - meminfo("DirectMap4k");
    assert_eq!(healed, state("joined") - joined);
    eprintln!(
        "of {} MiB that were cut, {} are whole again",
        (cut - before) >> 20,
        healed >> 20
    );
    if !apart {
        return skip(
            "with one NUMA node, tables lie in the blocks that they describe: how many of those are free is chance",
        );
    }
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap();
    if healed == 0 && symbols.contains(" kasan_report") {
        let test = "what_something_else_had_cut_is_one_entry_again";
        return note(
            test,
            "only elsewhere: this kernel's checks keep memory of their own in every block that is cut",
        );
    }
    assert!(healed >= (cut - before) / 4);
}
