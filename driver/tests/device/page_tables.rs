//! What the page tables say: the pool is in none of the kernel's, and in a process as its mode has it.
//! The kernels built here have them in debugfs (CONFIG_PTDUMP_DEBUGFS).

use crate::dump::{Line, direct_map, dump};
use crate::object::{Object, alone, errno, skip_on_this_kernel};
use std::fs;
use std::ops::Range;
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// The pool's ranges as physical addresses.
fn ranges() -> Vec<Range<u64>> {
    let text = fs::read_to_string("/sys/class/misc/strongroom/ranges").unwrap();
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    text.lines()
        .map(|line| {
            let (start, end) = line.split_once('-').unwrap();
            number(start)..number(end)
        })
        .collect()
}

/// Of the pool, what is in the direct map, and whether its neighbours are.
fn in_direct_map(ranges: &[Range<u64>]) -> Option<(u64, bool)> {
    let lines = direct_map()?;
    // Its first line is of physical address 0 on.
    let base = lines.first().unwrap().addresses.start;
    let overlap = |range: &Range<u64>| -> u64 {
        lines
            .iter()
            .filter(|line| line.is_present())
            .map(|line| {
                let start = line.addresses.start.max(base + range.start);
                let end = line.addresses.end.min(base + range.end);
                end.saturating_sub(start)
            })
            .sum()
    };
    let pool = ranges.iter().map(overlap).sum();
    let neighbours = ranges.iter().all(|range| {
        let (before, after) = (
            range.start - HUGE_PAGE..range.start,
            range.end..range.end + HUGE_PAGE,
        );
        overlap(&before) == HUGE_PAGE && overlap(&after) == HUGE_PAGE
    });
    Some((pool, neighbours))
}

#[test]
fn the_direct_map_has_none_of_the_pool_before_during_and_after_its_use() {
    let Some(_alone) = alone() else { return };
    let ranges = ranges();
    // That the neighbours are there shows that the right place is looked at.
    let Some(before) = in_direct_map(&ranges) else {
        return;
    };
    assert_eq!(before, (0, true));
    for mode in [
        Mode::EXCLUSIVE,
        Mode::EXCLUSIVE | Mode::UNCACHED,
        Mode::EXCLUSIVE | Mode::HUGE,
    ] {
        let map = Object::with_mode(mode, 4 * HUGE_PAGE).map().unwrap();
        map.bytes_mut().fill(1);
        assert_eq!(in_direct_map(&ranges), Some((0, true)));
        drop(map);
        assert_eq!(in_direct_map(&ranges), Some((0, true)));
    }
}

/// Flags of the entries that map an address of this process.
fn entry(address: usize) -> Option<Line> {
    let sections = dump("current_user").or_else(|| dump("current_kernel"))?;
    sections
        .into_iter()
        .flat_map(|(_, lines)| lines)
        .find(|line| line.addresses.contains(&(address as u64)))
}

#[test]
fn an_entry_has_the_memory_type_and_the_size_of_the_mode() {
    let Some(_alone) = alone() else { return };
    if !fs::exists("/sys/kernel/debug/page_tables/kernel").unwrap() {
        let reason = "the kernel shows no page tables (CONFIG_PTDUMP_DEBUGFS)";
        skip_on_this_kernel("STRONGROOM_PTDUMP", reason);
        return;
    }
    // Linux's table of types (arch/x86/mm/pat/memtype.c, 6.12): entry 0 is WB, 1 is WC, 3 is UC.
    for (mode, pwt, pcd) in [
        (Mode::empty(), false, false),
        (Mode::WRITE_COMBINING, true, false),
        (Mode::UNCACHED, true, true),
    ] {
        for (bytes, level) in [(3 * PAGE, "pte"), (2 * HUGE_PAGE, "pmd")] {
            let map = Object::with_mode(Mode::EXCLUSIVE | mode, bytes)
                .map()
                .unwrap();
            map.bytes_mut().fill(0x11);
            let check = |address: usize, level: &str| {
                let line = entry(address).expect("it is mapped");
                let found = (line.has("PWT"), line.has("PCD"), line.has("PAT"));
                assert_eq!(found, (pwt, pcd, false), "{mode:?}: {:?}", line.flags);
                assert!(line.has(level) && line.has("USR") && line.has("RW") && line.has("NX"));
                assert_eq!(line.has("PSE"), level == "pmd");
            };
            check(map.address(), level);
            // mprotect and cutting keep the type.
            for protection in [libc::PROT_READ, RW] {
                // SAFETY: the test's own mapping.
                let result =
                    unsafe { libc::mprotect(map.address() as *mut _, PAGE as usize, protection) };
                assert_eq!(result, 0, "{}", errno());
            }
            map.bytes_mut().fill(0x22);
            check(map.address(), "pte");
            assert!(map.bytes().iter().all(|&byte| byte == 0x22));
        }
    }
}
