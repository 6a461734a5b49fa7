//! Receipts of processes: one JSON line each, where `run --receipt` said.
//!
//! Written by hand: nothing here may allocate, the process is ending.

use crate::start::{self, Started};
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicI32, Ordering};
use rustix::fs::{Mode, OFlags};
use std::os::fd::BorrowedFd;
use strongroom::keeper::KEEPERS;
use strongroom::launch::config::ReceiptDescriptor;
use strongroom::{fork, heap, ledger};
use strongroom_sys::process;

/// The process that owes a receipt. A vfork child runs on this memory and owes none.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Notes that this process owes a receipt, and that its forked children will.
pub(crate) fn prepare() {
    OWNER.store(process::id(), Ordering::Relaxed);
    // SAFETY: a plain function that lives as long as the process.
    let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    // SAFETY: as above. quick_exit(3) runs no destructors.
    let _ = unsafe { at_quick_exit(at_end) };
}

unsafe extern "C" {
    fn at_quick_exit(function: extern "C" fn()) -> i32;
}

extern "C" fn at_end() {
    write();
}

extern "C" fn in_child() {
    OWNER.store(process::id(), Ordering::Relaxed);
}

/// Writes the receipt, where one was asked for and this process still owes it.
pub(crate) fn write() {
    let Some(started) = start::started() else {
        return;
    };
    if started.config.receipt_fd.is_none() && started.config.receipt_path.is_none() {
        return;
    }
    let id = process::id();
    if OWNER
        .compare_exchange(id, 0, Ordering::Relaxed, Ordering::Relaxed)
        .is_err()
    {
        return;
    }
    // SAFETY: whoever took the debt above is alone here, and there is one debt a process.
    let text = unsafe { &mut *ROOM.0.get() };
    text.len = 0;
    // Text that does not fit is cut off inside `command`, the only part without a bound.
    let _ = describe(text, started, id);
    let line = &text.bytes[..text.len];
    if !write_to_descriptor(started.config.receipt_fd, line) {
        write_to_path(started.config.receipt_path, line);
    }
}

fn describe(text: &mut Text, started: &Started, id: i32) -> fmt::Result {
    let receipt = start::receipt(started);
    // The heap first: a fork takes its lock before the ledger's.
    let (usage, of_heap) = (heap::global().usage(), heap::global().kept());
    let tally = fork::tally();
    let ranges = ledger::open();
    let own = |e: &&ledger::Entry| matches!(e.holder, ledger::Holder::Keeper(_));
    let concealed: usize = ranges
        .entries()
        .iter()
        .filter(own)
        .map(ledger::Entry::len)
        .sum();
    write!(text, "{{\"schema\":1,\"pid\":{id},\"command\":[")?;
    command(text)?;
    write!(
        text,
        "],\"scope\":\"{}\",\"level\":",
        started.config.scope.name()
    )?;
    match receipt.level() {
        Some(level) => write!(text, "\"{level}\"")?,
        None => text.write_str("null")?,
    }
    match started.keeper {
        Some(keeper) => write!(text, ",\"keeper\":\"{}\"", keeper.name())?,
        None => text.write_str(",\"keeper\":null")?,
    }
    text.write_str(",\"kept\":{")?;
    kept(text, of_heap, ranges.entries())?;
    text.write_str("},\"asked\":")?;
    names(text, receipt.asked().members().map(|p| p.name()))?;
    text.write_str(",\"held\":")?;
    names(text, receipt.held().members().map(|p| p.name()))?;
    text.write_str(",\"missing\":{")?;
    for (index, (protection, reason)) in receipt.missing().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        // Reasons and fixes are plain text without quotes or backslashes.
        write!(
            text,
            "{comma}\"{protection}\":{{\"reason\":\"{}\",\"cause\":\"{reason}\",\"fix\":\"{}\"}}",
            reason.word(),
            reason.fix()
        )?;
    }
    writeln!(
        text,
        "}},\"bytes\":{},\"chunks\":{},\"ranges\":{},\"forks_copied\":{},\"bytes_inherited\":{}}}",
        usage.mapped + concealed,
        usage.chunks,
        ranges.entries().iter().filter(own).count(),
        tally.forks,
        tally.inherited
    )
}

/// How much each keeper keeps, in bytes: one may have stood in for another.
fn kept(text: &mut Text, of_heap: [usize; KEEPERS.len()], ranges: &[ledger::Entry]) -> fmt::Result {
    let mut comma = "";
    for (keeper, of_heap) in KEEPERS.into_iter().zip(of_heap) {
        let own = |e: &&ledger::Entry| e.holder == ledger::Holder::Keeper(keeper);
        let ranges: usize = ranges.iter().filter(own).map(ledger::Entry::len).sum();
        if of_heap + ranges > 0 {
            write!(text, "{comma}\"{}\":{}", keeper.name(), of_heap + ranges)?;
            comma = ",";
        }
    }
    Ok(())
}

fn names(text: &mut Text, mut names: impl Iterator<Item = &'static str>) -> fmt::Result {
    text.write_str("[")?;
    if let Some(first) = names.next() {
        write!(text, "\"{first}\"")?;
    }
    names.try_for_each(|name| write!(text, ",\"{name}\""))?;
    text.write_str("]")
}

/// The command line, as JSON strings.
fn command(text: &mut Text) -> fmt::Result {
    let mut line = [0u8; COMMAND];
    let Ok(file) = rustix::fs::open(
        c"/proc/self/cmdline",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return Ok(());
    };
    let len = rustix::io::read(&file, &mut line).unwrap_or(0);
    let line = line[..len].strip_suffix(&[0]).unwrap_or(&line[..len]);
    for (index, argument) in line.split(|&b| b == 0).enumerate() {
        text.write_str(if index > 0 { ",\"" } else { "\"" })?;
        for chunk in argument.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' | '\\' => write!(text, "\\{c}")?,
                    c if c.is_control() => write!(text, "\\u{:04x}", c as u32)?,
                    c => text.write_char(c)?,
                }
            }
            if !chunk.invalid().is_empty() {
                text.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        text.write_str("\"")?;
    }
    Ok(())
}

/// How much of the command line is told, in bytes; one byte becomes six at most.
const COMMAND: usize = 1024;
const TEXT: usize = 6 * COMMAND + 6 * 1024;

struct Text {
    bytes: [u8; TEXT],
    len: usize,
}

/// Not on the stack: the thread that ends the process may have little of it.
struct Room(UnsafeCell<Text>);

// SAFETY: see its one use.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new(Text {
    bytes: [0; TEXT],
    len: 0,
}));

impl Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self
            .bytes
            .get_mut(self.len..self.len + part.len())
            .ok_or(fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.len += part.len();
        Ok(())
    }
}

/// The inherited descriptor, if its number still means the same file.
fn write_to_descriptor(descriptor: Option<ReceiptDescriptor>, line: &[u8]) -> bool {
    let Some(ReceiptDescriptor { fd, device, inode }) = descriptor else {
        return false;
    };
    // SAFETY: the number may be closed or mean something else; that is what is found out here.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::fs::fstat(file).is_ok_and(|stat| stat.st_dev == device && stat.st_ino == inode)
        && rustix::io::write(file, line) == Ok(line.len())
}

fn write_to_path(path: Option<&[u8]>, line: &[u8]) {
    let Some(path) = path else { return };
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) {
        // One write: lines of processes that end together do not mix (O_APPEND).
        let _ = rustix::io::write(&file, line);
    }
}
