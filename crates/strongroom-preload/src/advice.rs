//! What a program said of ordinary memory and forks, in case it locks that memory later: the
//! kernel keeps such advice with the mapping, and a secret mapping takes its place.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use strongroom::ledger::{Child, Entry, Holder, Ledger};

/// Locked under the process's ledger only, which a fork holds: no child finds it locked.
static GIVEN: Mutex<Ledger> = Mutex::new(Ledger::new());
/// Most programs never give any.
static ANY: AtomicBool = AtomicBool::new(false);

/// Remembers what a child is to find at the range; `None` takes it back.
pub(crate) fn note(range: &Range<usize>, child: Option<Child>) {
    if range.is_empty() || child.is_none() && !ANY.load(Ordering::Relaxed) {
        return;
    }
    let _ledger = strongroom::ledger::open();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    ANY.store(true, Ordering::Relaxed);
    let (start, end) = (range.start, range.end);
    // Without memory for the note the child gets a copy: more than it should, and its own.
    let _ = match child {
        Some(child) => given.insert(Entry {
            start,
            end,
            access: 0,
            holder: Holder::Keeper(strongroom::keeper::LOCKED),
            child,
        }),
        None => given.cut(range),
    };
}

/// Carries what was said of the range over to the ledger, where the range is kept now.
pub(crate) fn apply(range: &Range<usize>) {
    if !ANY.load(Ordering::Relaxed) {
        return;
    }
    let mut ledger = strongroom::ledger::open();
    let given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for entry in given.touching(range) {
        let part = entry.start.max(range.start)..entry.end.min(range.end);
        let _ = ledger.update(&part, |kept| kept.child = entry.child);
    }
}
