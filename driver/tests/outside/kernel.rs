//! The kernel's own ways to memory: its direct map by eBPF, /proc/kcore. What they give of ordinary memory,
//! they do not of the pool's, whether it is held or not.

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
