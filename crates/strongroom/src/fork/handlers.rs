//! pthread_atfork: how the library learns that a fork is coming.

use super::snapshot::Still;
use super::trap::{self, Trap};
use crate::{heap, ledger};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use strongroom_sys::process;
use strongroom_sys::signals::{self, Mask};

/// From the handler before a fork to the one after it, one thread has this.
static FORKING: Mutex<()> = Mutex::new(());

struct Pending {
    _lock: MutexGuard<'static, ()>,
    mask: Mask,
    method: Method,
}

enum Method {
    /// The system call is caught and everything happens around it.
    Trap(Trap),
    /// No such trap here: copy-on-write memory is seen to in the child's handler, and a child
    /// whose parent has secret files ends.
    Handlers(Still),
}

struct Slot(UnsafeCell<Option<Pending>>);

// SAFETY: only the thread that holds `FORKING` touches it.
unsafe impl Sync for Slot {}

static PENDING: Slot = Slot(UnsafeCell::new(None));
/// The thread whose slot is filled, 0 for none. Its id is the same in parent and child.
static OWNER: AtomicUsize = AtomicUsize::new(0);

fn this_thread() -> usize {
    // SAFETY: no preconditions.
    unsafe { libc::pthread_self() as usize }
}

/// Has forks of this process watched from now on. Whoever keeps memory calls it first; later
/// calls change nothing.
///
/// Handlers before a fork run in reverse order of registration, so the earlier this is called
/// the closer to the fork its own comes.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handlers are plain functions that live as long as the process.
        let status = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        // ENOMEM is the only error. A child of such a process has no secret memory at all.
        let _ = status;
    });
}

/// Forks by `call` without the handlers of pthread_atfork, as `_Fork` and bare system calls do.
/// For `call` and the result see [`forked`](super::forked).
pub fn follow(call: impl FnOnce() -> isize) -> isize {
    if !heap::any_started() && ledger::is_empty() {
        return call();
    }
    let _lock = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
    let mask = signals::set_mask(!0).unwrap_or(0);
    let result = super::forked(call);
    let _ = signals::set_mask(mask);
    result
}

/// Follows a fork that a libc function makes without the handlers of pthread_atfork:
/// to be called before it, with [`after_in_parent`] or [`after_in_child`] after it.
pub fn before_libc_forks() {
    before();
}

/// See [`before_libc_forks`].
pub fn after_in_parent() {
    in_parent();
}

/// See [`before_libc_forks`].
pub fn after_in_child() {
    in_child();
}

extern "C" fn before() {
    if !heap::any_started() && ledger::is_empty() {
        return;
    }
    let lock = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
    // A handler of the program's that ran now would see a fork half done.
    let mask = signals::set_mask(!signals::only(libc::SIGSYS)).unwrap_or(0);
    let method = trap::arm().map_or_else(|_| Method::Handlers(Still::lock()), Method::Trap);
    // SAFETY: this thread holds `FORKING`.
    unsafe {
        *PENDING.0.get() = Some(Pending {
            _lock: lock,
            mask,
            method,
        })
    };
    OWNER.store(this_thread(), Ordering::Relaxed);
}

/// What `before` left, where it is this thread that forks.
fn take_pending() -> Option<Pending> {
    if OWNER.load(Ordering::Relaxed) != this_thread() {
        return None;
    }
    OWNER.store(0, Ordering::Relaxed);
    // SAFETY: this thread filled the slot (in the child: its copy) and holds `FORKING`.
    unsafe { (*PENDING.0.get()).take() }
}

extern "C" fn in_parent() {
    if let Some(Pending {
        _lock,
        mask,
        method,
    }) = take_pending()
    {
        if let Method::Trap(trap) = method {
            let _ = trap.disarm();
        }
        let _ = signals::set_mask(mask);
    }
}

extern "C" fn in_child() {
    let Some(Pending {
        _lock,
        mask,
        method,
    }) = take_pending()
    else {
        return;
    };
    let followed = match method {
        Method::Trap(trap) => trap.disarm(),
        Method::Handlers(mut still) => {
            !still.denied() && !still.has_secrets() && still.rebuild_by_itself().is_ok()
        }
    };
    if !followed {
        process::complain(
            b"strongroom: this fork could not be followed; the child has no memory to go on with\n",
        );
        process::exit_now(125);
    }
    let _ = signals::set_mask(mask);
}
