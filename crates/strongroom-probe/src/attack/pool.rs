//! The pool of the kernel driver: which physical memory it is, and what it gives to the next who asks.
//!
//! /proc tells of no page of a device's memory in which frame it is. So an attacker who wants the page behind
//! such a mapping looks at every frame that it can be in; and to see what was left of a secret,
//! it takes all of the pool that is free and reads that.

use super::contains;
use super::direct_map::Refusal;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use strongroom_core::driver::{DEVICE, Info, Mode};
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{Errno, PAGE, driver};

/// The driver tells root its ranges there.
const RANGES: &str = "/sys/class/misc/strongroom/ranges";
/// A pool is looked at up to this size, in bytes.
const SEARCHED: u64 = 1 << 30;

/// Whether the mapping of process `pid` at `address` is of the driver's memory.
pub(super) fn holds(pid: i32, address: usize) -> bool {
    let Ok(maps) = File::open(format!("/proc/{pid}/maps")) else {
        return false;
    };
    let mut lines = BufReader::new(maps).lines().map_while(Result::ok);
    lines.any(|line| covers(&line, address) && line.ends_with(DEVICE))
}

fn covers(line: &str, address: usize) -> bool {
    let range = line.split(' ').next().and_then(|text| text.split_once('-'));
    range.is_some_and(|(start, end)| {
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        (number(start)..number(end)).contains(&address)
    })
}

/// The frames of the whole pool, a range each.
///
/// # Errors
/// Where the driver does not tell, or the pool is too large to be looked at.
pub(super) fn frames() -> Result<Vec<Range<u64>>, Refusal> {
    let text = std::fs::read_to_string(RANGES).map_err(Refusal::because(RANGES))?;
    let ranges: Option<Vec<_>> = text.lines().map(range).collect();
    let ranges = ranges.filter(|ranges| !ranges.is_empty());
    let ranges = ranges.ok_or_else(|| Refusal::new(format!("{RANGES} is not understood")))?;
    not_too_large(ranges.iter().map(|range| range.end - range.start).sum())?;
    let frames = |range: Range<u64>| range.start / PAGE as u64..range.end / PAGE as u64;
    Ok(ranges.into_iter().map(frames).collect())
}

/// `start-end`, in hex, the end not a part of it.
fn range(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.trim().split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let range = number(start)?..number(end)?;
    (range.start < range.end).then_some(range)
}

fn not_too_large(bytes: u64) -> Result<(), Refusal> {
    if bytes <= SEARCHED {
        return Ok(());
    }
    let mib = bytes >> 20;
    Err(Refusal::new(format!("{mib} MiB of pool are not searched")))
}

/// All of the pool that was free, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pieces: Vec<(*mut u8, usize)>,
}

impl Taken {
    /// Takes it, in pieces as large as the pool has them.
    ///
    /// # Errors
    /// Where the driver refuses, or gives less than it says that it has.
    pub(super) fn all() -> Result<Self, Refusal> {
        let because = |what: &str| Refusal::because(format!("{DEVICE}: {what}"));
        let state = driver::open().map_err(because("open"))?;
        let left = || driver::info(&state).map_err(because("its state"));
        not_too_large(left()?.free)?;
        let mut taken = Self::default();
        loop {
            let Info {
                free, largest_free, ..
            } = left()?;
            if free == 0 {
                return Ok(taken);
            }
            let len = usize::try_from(largest_free).unwrap_or(0);
            let object = driver::open().map_err(because("open"))?;
            driver::set_mode(&object, len, Mode::EXCLUSIVE).map_err(because("its mode"))?;
            // SAFETY: a new mapping replaces nothing.
            match unsafe { driver::map(&object, Place::Anywhere, len) } {
                Ok(start) => taken.pieces.push((start, len)),
                // Somebody else took some of it meanwhile.
                Err(Errno::NOMEM) if left()?.largest_free < largest_free => {}
                Err(error) => return Err(because("mmap")(error)),
            }
        }
    }

    /// How much it is, in bytes.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|(_, len)| len).sum()
    }

    /// Whether one of the needles is anywhere in it.
    pub(super) fn has(&self, needles: &[&[u8]]) -> bool {
        self.pieces.iter().any(|&(start, len)| {
            // SAFETY: mapped by `all`, readable, and unmapped in `drop` only.
            let bytes = unsafe { std::slice::from_raw_parts(start, len) };
            needles.iter().any(|needle| contains(bytes, needle))
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for (start, len) in self.pieces.drain(..) {
            // SAFETY: mapped by `all`, and nobody else knows it.
            let _ = unsafe { memory::unmap(start, len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ranges() {
        assert_eq!(range("40000000-4c000000"), Some(0x4000_0000..0x4c00_0000));
        assert_eq!(range("2-1"), None);
        assert_eq!(range("nonsense"), None);
    }

    #[test]
    fn a_line_of_maps_covers_its_addresses() {
        let line = "7f00-8000 rw-s 00000000 00:05 7       /dev/strongroom";
        assert!(covers(line, 0x7f00) && covers(line, 0x7fff));
        assert!(!covers(line, 0x8000) && !covers("", 0));
        assert!(!holds(
            strongroom_sys::process::id(),
            line.as_ptr() as usize
        ));
    }
}
