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

use dump::direct_map;
use load::{Module, POOL};
use object::{Map, Object, free_bytes, skip, skip_on_this_kernel, state};
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

/// Cuts the direct map by secret memory of the kernel's own, which leaves it so. False where there is none.
fn cut(bytes: usize) -> bool {
    // SAFETY: a new descriptor and a new mapping, both given back; the mapping is as large as the file.
    unsafe {
        let limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
        let fd = libc::syscall(libc::SYS_memfd_secret, 0) as i32;
        if fd < 0 {
            return false;
        }
        assert_eq!(libc::ftruncate(fd, bytes as i64), 0);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            protection,
            libc::MAP_SHARED,
            fd,
            0,
        );
        assert_ne!(at, libc::MAP_FAILED);
        for page in (0..bytes).step_by(PAGE as usize) {
            at.cast::<u8>().add(page).write_volatile(1);
        }
        libc::munmap(at, bytes);
        libc::close(fd);
    }
    true
}

#[test]
fn what_something_else_had_cut_is_one_entry_again() {
    let Some(_lending) = Lending::of("2G") else {
        return;
    };
    // A block that is cut mostly has the table of its own small entries in it, and is never wholly free: how
    // many are, is chance. What is joined and what the kernel counts are the same in any case.
    for _ in 0..3 {
        if !cut(256 << 20) {
            return skip("the kernel has no memfd_secret");
        }
        let (cut, joined) = (meminfo("DirectMap4k"), state("joined"));
        // All blocks that the kernel has; the carve-outs serve the rest.
        let bytes = (meminfo("MemFree") - (16 << 20)) / HUGE_PAGE * HUGE_PAGE;
        let map = Object::with_mode(Mode::EXCLUSIVE, bytes).map().unwrap();
        assert!(state("lent") > bytes / 2);
        drop(map);
        let after = meminfo("DirectMap4k");
        assert_eq!(cut - after, state("joined") - joined);
        if after < cut {
            return;
        }
    }
    println!("no block whose direct map is cut was free");
}
