//! The kernel's own ways to memory: its direct map by eBPF, /proc/kcore, its page tables. What they give of
//! ordinary memory, they do not of the pool's, whether it is held or not.

use crate::memory::{Pattern, pool};
use crate::object::{Map, Object, alone, map, skip};
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};
use strongroom_probe::attack::direct_map::{self, Answer, Reader};
use strongroom_probe::attack::residue;

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn ordinary(pattern: &Pattern) -> Map {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let map = map(-1, 0, 4 * PAGE, RW, flags).unwrap();
    pattern.write(map.address(), 4);
    map
}

fn secret(pattern: &Pattern, mode: Mode, bytes: u64) -> Map {
    let map = Object::with_mode(mode, bytes).map().unwrap();
    pattern.write(map.address(), map.len() / PAGE as usize);
    map
}

fn me() -> i32 {
    std::process::id() as i32
}

#[test]
fn the_direct_map_has_ordinary_pages_and_none_of_the_pool() {
    let Some(_alone) = alone() else { return };
    let reader = match Reader::new() {
        Ok(reader) => reader,
        Err(why) => return skip(&why.to_string()),
    };
    let pattern = Pattern::new();
    // The control.
    let plain = ordinary(&pattern);
    let read = reader.read(me(), plain.address() as u64, plain.len());
    assert!(read.unwrap() == Answer::Bytes(plain.bytes().to_vec()));
    let none = |when: &str| {
        for range in pool() {
            // Every block's first and last page, and some between.
            for frame in (range.start / PAGE..range.end / PAGE).step_by(73) {
                assert_eq!(
                    reader.frame(frame).unwrap(),
                    None,
                    "{when}: frame {frame:#x}"
                );
            }
        }
    };
    none("before");
    for (mode, bytes) in [
        (Mode::EXCLUSIVE, 9 * PAGE),
        (Mode::EXCLUSIVE | Mode::HUGE, 2 * HUGE_PAGE),
        (Mode::EXCLUSIVE | Mode::UNCACHED, 9 * PAGE),
    ] {
        let held = secret(&pattern, mode, bytes);
        let frames = residue::frames(me(), held.address() as u64, held.len()).unwrap();
        for frame in &frames {
            let place = frame * PAGE;
            assert!(pool().iter().any(|range| range.contains(&place)));
            assert_eq!(
                reader.frame(*frame).unwrap(),
                None,
                "held: frame {frame:#x}"
            );
        }
        let read = reader.read(me(), held.address() as u64, held.len());
        assert_eq!(read.unwrap(), Answer::Fault);
        none("during");
        drop(held);
        for frame in frames {
            assert_eq!(
                reader.frame(frame).unwrap(),
                None,
                "after: frame {frame:#x}"
            );
        }
    }
    none("after");
}

#[test]
fn kcore_has_ordinary_pages_and_none_of_the_pool() {
    let Some(_alone) = alone() else { return };
    if !std::fs::exists("/proc/kcore").unwrap() {
        return skip("this kernel has no /proc/kcore");
    }
    let pattern = Pattern::new();
    let plain = ordinary(&pattern);
    let read = direct_map::read_kcore(me(), plain.address() as u64, plain.len());
    assert!(read.unwrap() == Answer::Bytes(plain.bytes().to_vec()));
    let held = secret(&pattern, Mode::EXCLUSIVE, HUGE_PAGE + 5 * PAGE);
    match direct_map::read_kcore(me(), held.address() as u64, held.len()) {
        // It has no such segment, or no mapping there: then it gives zeros.
        Err(_) | Ok(Answer::Fault) => {}
        Ok(Answer::Bytes(bytes)) => assert!(bytes.iter().all(|&byte| byte == 0)),
    }
}

/// A mapped range of the kernel's, out of /sys/kernel/debug/page_tables/kernel (CONFIG_PTDUMP_DEBUGFS).
fn mapped(dump: &str) -> Vec<std::ops::Range<u64>> {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    dump.lines()
        .filter_map(|line| {
            let (range, rest) = line.split_once(char::is_whitespace)?;
            let (start, end) = range.split_once('-')?;
            // A present entry says what may be done there.
            let present = rest.contains(" ro ")
                || rest.contains(" RW ")
                || rest.contains(" NX ")
                || rest.contains(" x ");
            start
                .starts_with("0x")
                .then(|| number(start)..number(end))
                .filter(|_| present)
        })
        .collect()
}

#[test]
fn the_kernels_page_tables_map_ordinary_memory_and_none_of_the_pool() {
    let Some(_alone) = alone() else { return };
    let path = "/sys/kernel/debug/page_tables/kernel";
    if !std::fs::exists(path).unwrap() {
        // Debian's kernel has none, by its configuration: never a failure.
        println!("skipped: this kernel has no {path}");
        return;
    }
    let pattern = Pattern::new();
    let check = |when: &str| {
        let dump = std::fs::read_to_string(path).unwrap();
        let (_, low) = dump.split_once("---[ Low Kernel Mapping ]---").unwrap();
        let low = low.split("---[").next().unwrap();
        let mapped = mapped(low);
        // Where the direct map begins: a multiple of 1 GiB, of which the first page or the second is mapped.
        let base = mapped[0].start >> 30 << 30;
        let is_mapped = |place: u64| {
            let at = base + place;
            mapped.iter().any(|range| range.contains(&at))
        };
        for range in pool() {
            for place in (range.start..range.end).step_by(PAGE as usize) {
                assert!(!is_mapped(place), "{when}: {place:#x} is mapped");
            }
        }
        // The control: the kernel's own memory before and after it.
        let first = pool()[0].start;
        assert!(is_mapped(first - PAGE), "{when}");
        assert!(is_mapped(first - (64 << 20)), "{when}");
        assert!(is_mapped(pool().last().unwrap().end), "{when}");
    };
    check("before");
    let small = secret(&pattern, Mode::EXCLUSIVE, 77 * PAGE);
    let large = secret(&pattern, Mode::EXCLUSIVE | Mode::HUGE, 8 * HUGE_PAGE);
    let uncached = secret(&pattern, Mode::EXCLUSIVE | Mode::UNCACHED, 77 * PAGE);
    check("during");
    drop((small, large, uncached));
    check("after");
}
