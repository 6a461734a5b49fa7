//! A child of the monitor's, and what it sees of what the guest writes later.

use super::look::found_by_loads;
use super::places::{self, Place};
use super::{LATER, Monitor, SECRET, failed};
use crate::attack::Loot;
use std::os::fd::BorrowedFd;
use strongroom_sys::peek::MappedFile;
use strongroom_sys::process;

/// What the later copy differs by in each word: no earlier one is taken for it.
const KEY: u64 = 0x5a5a_5a5a_5a5a_5a5a;
const KEY_BYTE: u8 = 0x5a;

/// A child that looks through its mappings, and through files that it maps by the descriptors that it has.
pub(super) fn fork(monitor: &mut dyn Monitor, masked: &[u8]) -> Result<Vec<Loot>, String> {
    let masked: Vec<u8> = masked.iter().map(|byte| byte ^ KEY_BYTE).collect();
    let pipe = || rustix::pipe::pipe().map_err(failed("a pipe"));
    let (child_reads, parent_writes) = pipe()?;
    let (parent_reads, child_writes) = pipe()?;
    // SAFETY: this process has one thread; the child looks, writes and exits.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err("fork is refused".to_owned()),
        0 => {
            let mut go = [0];
            let _ = rustix::io::read(&child_reads, &mut go);
            let word: &[u8] = match (in_mappings(&masked), in_files(&masked)) {
                (Ok(true), _) => b"m",
                (_, Ok(true)) => b"f",
                (Ok(false), Ok(false)) => b"n",
                _ => b"?",
            };
            let _ = rustix::io::write(&child_writes, word);
            process::exit_now(0);
        }
        _ => {}
    }
    drop((child_reads, child_writes));
    let made = monitor
        .hide(LATER)
        .and_then(|()| monitor.copy_secret(SECRET, LATER, KEY));
    // Where that failed, the child ends at the pipe's end.
    if made.is_ok() {
        let _ = rustix::io::write(&parent_writes, b"g");
    }
    drop(parent_writes);
    let mut word = [0];
    let read = rustix::io::read(&parent_reads, &mut word);
    process::reap(child);
    made?;
    Ok(vec![match (read, &word) {
        (Ok(1), b"m") => Loot::leaked("the child has it mapped"),
        (Ok(1), b"f") => Loot::leaked("the child maps it by a descriptor"),
        (Ok(1), b"n") => Loot::held("neither the child's mappings nor its descriptors lead to it"),
        _ => return Err("the child did not look".to_owned()),
    }])
}

fn in_mappings(masked: &[u8]) -> Result<bool, String> {
    found_by_loads(&places::mapped(), masked).map(|found| found.is_some())
}

fn in_files(masked: &[u8]) -> Result<bool, String> {
    const MOST: usize = 64 << 20;
    for number in places::descriptors() {
        // SAFETY: a number that is no descriptor is refused.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(mapping) = MappedFile::new(file, MOST, true) else {
            continue;
        };
        let place = Place {
            start: mapping.start(),
            len: mapping.len(),
            name: String::new(),
        };
        // One of which nothing can be loaded does not have it.
        if let Ok(Some(_)) = found_by_loads(&[place], masked) {
            return Ok(true);
        }
    }
    Ok(false)
}

const _: () = assert!(KEY == u64::from_ne_bytes([KEY_BYTE; 8]));
