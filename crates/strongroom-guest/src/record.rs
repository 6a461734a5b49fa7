//! Each thread's record of what it holds, and the fence that makes plain stores into it enough: membarrier(2).
//!
//! A record is claimed when a thread first guards a page and given back when the thread ends; a later thread
//! uses it again. Where the kernel has no membarrier, or a filter refuses it, no thread has a record, and all
//! guards are counted in the pages' words.
//!
//! After fork(2) the child's only thread has its record, and those of the other threads stay as they were: what
//! they held stays held for good in the child, whose conversions refuse it. The memory itself is not the
//! child's in any case.

use crate::Futex;
use rustix::thread::{MembarrierCommand, membarrier};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{self, Ordering};
use strongroom_core::page::{Fence, Holders, Record, Roll, Slot};

/// All records there are, in a list that only grows: as long as the most threads that had one at once.
struct Node {
    record: Record,
    next: OnceLock<&'static Node>,
}

impl Node {
    const fn new() -> Self {
        Self {
            record: Record::new(),
            next: OnceLock::new(),
        }
    }
}

static FIRST: Node = Node::new();
static ROLL: Roll = Roll::new();

thread_local! {
    /// No destructor, no lazy part: read by one load.
    static OWN: Cell<Option<&'static Record>> = const { Cell::new(None) };
    /// What gives it back.
    static CLAIM: Claim = const { Claim };
}

struct Claim;

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(record) = OWN.take() {
            record.give_back(&ROLL);
        }
    }
}

/// The calling thread's record; `None` where it has none and gets none.
#[inline]
pub(crate) fn own() -> Option<&'static Record> {
    match OWN.get() {
        None => claim(),
        own => own,
    }
}

#[cold]
#[inline(never)]
fn claim() -> Option<&'static Record> {
    // Past the destructor, in that of another one of the thread's variables, there is none any more.
    if !ordered() || CLAIM.try_with(|_| ()).is_err() {
        return None;
    }
    let mut node = &FIRST;
    while !node.record.claim(&ROLL, Futex) {
        node = node.next.get_or_init(|| Box::leak(Box::new(Node::new())));
    }
    OWN.set(Some(&node.record));
    OWN.get()
}

/// Whether this process can order its threads. Asked once: the answer holds for all threads, whether they
/// are there already or not.
pub(crate) fn ordered() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let register = || membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
    *REGISTERED.get_or_init(register)
}

impl Fence for Futex {
    #[inline]
    fn light(&self) {
        // membarrier(2) turns it into a full fence where one is needed.
        atomic::compiler_fence(Ordering::SeqCst);
    }

    fn heavy(&self) -> bool {
        membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }

    fn full(&self) {
        atomic::fence(Ordering::SeqCst);
    }
}

impl Holders for Futex {
    type Address = atomic::AtomicUsize;

    fn others(&self) -> bool {
        ROLL.others(OWN.get().is_some())
    }

    fn each(&self, mut look: impl FnMut(&[Slot])) {
        let mut next = Some(&FIRST);
        while let Some(node) = next {
            look(node.record.slots());
            next = node.next.get().copied();
        }
    }
}
