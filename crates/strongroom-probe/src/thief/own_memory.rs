//! A thief's own memory, searched for what it may have been left by those it descends from.
//!
//! Under `run` it may not open its own /proc/self/mem; write(2) sees what it sees itself.

use crate::attack::{Loot, search};
use crate::masked;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use strongroom_sys::peek;

const WAY: &str = "its own memory";

/// Looks for what a masked needle stands for, and first for a mark of its own.
pub(super) fn search(needle: &[u8]) -> Loot {
    let mark = mark(needle.len());
    match holds(&masked::of(&mark)) {
        Ok(Some(_)) => {}
        Ok(None) => return Loot::skipped(format!("{WAY}: not even a mark of its own is found")),
        Err(error) => return Loot::skipped(format!("{WAY}: {error}")),
    }
    // The mark has been in use until here.
    std::hint::black_box(&mark);
    match holds(needle) {
        Ok(Some(at)) => Loot::leaked(format!("{WAY}: at {at:#x}")),
        Ok(None) => Loot::held(format!("{WAY}: nowhere")),
        Err(error) => Loot::skipped(format!("{WAY}: {error}")),
    }
}

/// Bytes that nobody else has.
fn mark(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut rest = bytes.as_mut_slice();
    while !rest.is_empty() {
        match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(got) => rest = rest.get_mut(got..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            // Zeros would be found anywhere: that proof is none, and the search says so.
            Err(_) => break,
        }
    }
    bytes
}

/// Where this process holds what a masked needle stands for.
fn holds(needle: &[u8]) -> io::Result<Option<u64>> {
    let copy = File::from(rustix::fs::memfd_create("copy", MemfdFlags::CLOEXEC)?);
    // Its pages are no mapping's, so that they are not searched themselves.
    let read = |at: u64, place: &mut [u8]| {
        let start = rustix::fs::seek(&copy, rustix::fs::SeekFrom::Start(0));
        let written = start.and_then(|_| peek::write_from(&copy, at as usize, place.len()));
        let place = place.get_mut(..written.unwrap_or(0)).unwrap_or_default();
        copy.read_at(place, 0).unwrap_or(0)
    };
    let own = strongroom_sys::process::id();
    let mut found = None;
    search::pieces(
        &search::resident(own)?,
        needle.len(),
        read,
        |_, at, bytes| {
            found = masked::position(bytes, needle).map(|offset| at + offset as u64);
            found.is_some()
        },
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_finds_what_it_holds() {
        let held = mark(32);
        assert!(holds(&masked::of(&held)).unwrap().is_some());
        drop(held);
        let absent = mark(32);
        assert!(holds(&absent).unwrap().is_none());
    }
}
