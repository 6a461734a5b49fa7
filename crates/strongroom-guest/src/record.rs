//! Each thread's record of what it holds, and the fence that makes plain stores into it enough: membarrier(2).
//!
//! A thread claims a record when it first guards a page, and one more when all slots of those it has are taken.
//! They are given back when the thread ends, and later threads use them again.
//!
//! What membarrier(2) promises of MEMBARRIER_CMD_PRIVATE_EXPEDITED: on return, all running threads of the process "have passed
//! through a state where all memory accesses to user-space addresses match program order between entry to and
//! return from the system call (non-running threads are de facto in such a state)". That is the heavy half of
//! the [fence](Fence). The kernel makes a full barrier at entry and at exit and interrupts the processors that run
//! a thread of the process for one; those that do not have made one when they switched (kernel/sched/membarrier.c, with
//! its scenarios). The process must be registered first: EPERM otherwise. The light half is then an order for the compiler alone.
//!
//! Where the kernel has no membarrier, or a filter refuses to register, each guard makes a full fence of its own. A filter
//! that comes later and refuses it leaves guards as they are, and conversions and pins are refused
//! ([`Why::Unordered`](crate::Why)) while another thread has a record.
//!
//! After fork(2) the child's only thread has its record, and those of the other threads stay as they were: what
//! they held stays held for good in the child, whose conversions refuse it. The memory itself is not the
//! child's in any case.

use crate::Futex;
use core::ops::Range;
use rustix::thread::{MembarrierCommand, membarrier};
use std::cell::{Cell, RefCell};
use std::sync::OnceLock;
use std::sync::atomic::{self, AtomicBool, Ordering};
use strongroom_core::page::{Fence, Holders, PageStates, Record, Refused, Roll, Slot, SlotGuard};

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

/// Whether each guard makes a fence of its own. Written before the first record is claimed.
static FENCED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The record that guards are taken in. No destructor, no lazy part: it is read by one load.
    static OWN: Cell<Option<&'static Record>> = const { Cell::new(None) };
    /// How many the thread has.
    static OWNED: Cell<usize> = const { Cell::new(0) };
    /// All that it has, and what gives them back.
    static CLAIM: Claim = const { Claim(RefCell::new(Vec::new())) };
}

struct Claim(RefCell<Vec<&'static Record>>);

impl Claim {
    /// A record of the thread in which a slot is free. It is the one that is used from now on.
    fn record(&self) -> &'static Record {
        let mut all = self.0.borrow_mut();
        let roomy = all.iter().find(|record| record.has_room()).copied();
        let record = roomy.unwrap_or_else(|| {
            let record = claim();
            all.push(record);
            OWNED.set(all.len());
            record
        });
        OWN.set(Some(record));
        record
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        OWN.set(None);
        OWNED.set(0);
        for record in self.0.get_mut().drain(..) {
            record.give_back(&ROLL);
        }
    }
}

/// Guards pages in a slot of the calling thread.
#[inline(always)]
pub(crate) fn guard<'r>(
    states: &PageStates<'r, Futex>,
    pages: Range<usize>,
) -> Result<SlotGuard<'r>, Refused> {
    if let Some(record) = OWN.get()
        && let Some(guard) = states.guard_in(record, pages.clone())
    {
        return Ok(guard);
    }
    guard_anew(*states, pages)
}

/// The same where the thread has no slot, or a page is not to be had.
#[cold]
#[inline(never)]
fn guard_anew<'r>(
    states: PageStates<'r, Futex>,
    pages: Range<usize>,
) -> Result<SlotGuard<'r>, Refused> {
    loop {
        // It says why.
        drop(states.guard(pages.clone())?);
        let guard = CLAIM.try_with(Claim::record).map_or_else(
            // The thread is about to end, and would not give a record back any more. The slot stays its
            // own until the guard is dropped, whoever has the record then.
            |_| {
                let record = claim();
                let guard = states.guard_in(record, pages.clone());
                record.give_back(&ROLL);
                guard
            },
            |record| states.guard_in(record, pages.clone()),
        );
        if let Some(guard) = guard {
            return Ok(guard);
        }
    }
}

/// A record that no thread had.
fn claim() -> &'static Record {
    ordered();
    let mut node = &FIRST;
    while !node.record.claim(&ROLL, Futex) {
        node = node.next.get_or_init(|| Box::leak(Box::new(Node::new())));
    }
    &node.record
}

/// Asks the kernel once whether it orders this process's threads: those that are there, and those to come.
pub(crate) fn ordered() {
    static ASKED: OnceLock<()> = OnceLock::new();
    ASKED.get_or_init(|| {
        let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited);
        FENCED.store(registered.is_err(), Ordering::Release);
    });
}

impl Fence for Futex {
    #[inline]
    fn light(&self) {
        if FENCED.load(Ordering::Relaxed) {
            atomic::fence(Ordering::SeqCst);
        } else {
            // membarrier(2) turns it into a full fence where one is needed.
            atomic::compiler_fence(Ordering::SeqCst);
        }
    }

    fn heavy(&self) -> bool {
        FENCED.load(Ordering::Relaxed) || membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }

    fn full(&self) {
        atomic::fence(Ordering::SeqCst);
    }
}

impl Holders for Futex {
    type Address = atomic::AtomicUsize;

    fn others(&self) -> bool {
        ROLL.others(OWNED.get())
    }

    fn each(&self, mut look: impl FnMut(&[Slot])) {
        let mut next = Some(&FIRST);
        while let Some(node) = next {
            look(node.record.slots());
            next = node.next.get().copied();
        }
    }
}
