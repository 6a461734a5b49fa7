//! The gate: holds virtual processors out of the guest while its slots change.
//!
//! A slot cannot change what memory it is: it is deleted, and another one created. A processor that
//! touched the addresses between the two would get an MMIO exit, and that cannot be tried again: at the
//! exit of a write the kernel has gone past the instruction already, and its data has nowhere
//! to go where the page is private. So no processor is in the guest meanwhile, by construction:
//! KVM_RUN is called between [`Gate::enter`] and [`Gate::leave`] only, and slots change only while
//! [`Gate::close`]'s answer lives.
//!
//! *No processor is in the guest while the gate is closed.* A processor says that it is inside, and then
//! looks whether the gate is closed; who closes it says so, and then looks who is inside. All four are
//! sequentially consistent, so that one of the two sees the other: the processor turns back, or is waited for.
//!
//! *One that is waited for comes out.* Whoever closes sets `immediate_exit` and sends a signal. If the signal
//! comes before KVM_RUN, KVM_RUN sees the flag; if later, it is pending there and KVM_RUN ends.
//! The flag is cleared before a processor says that it is inside, and thus before it looks at the gate.
//!
//! *No processor waits for itself.* One whose exit is being answered, with a conversion for instance, is not inside.

use crate::Error;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering::SeqCst};
use rustix::thread::futex;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use strongroom_sys::signals;

/// How long a processor may take to come out. It takes microseconds; this is for one that is not scheduled.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how long a signal is sent again: in nanoseconds.
const AGAIN: i64 = 20_000_000;

/// Holds virtual processors out of the guest while it is closed.
#[derive(Debug)]
pub struct Gate {
    /// 1 while it is closed.
    closed: AtomicU32,
    /// Counts processors that left while it was closed.
    left: AtomicU32,
    seats: Mutex<Vec<Arc<Seat>>>,
    signal: i32,
}

/// A virtual processor, as the gate sees it.
#[derive(Debug)]
pub(crate) struct Seat {
    inside: AtomicU32,
    thread: AtomicI32,
    /// Somebody wants it out for a reason of their own.
    asked: AtomicBool,
    /// kvm_run's `immediate_exit`, as long as the seat is among the gate's.
    exit: *mut u8,
}

// SAFETY: the pointer is used as an atomic byte, while the gate holds the seat (see `hurry`).
unsafe impl Send for Seat {}
// SAFETY: as above.
unsafe impl Sync for Seat {}

impl Seat {
    /// # Safety
    /// `exit` must lead to the processor's `immediate_exit`, until `Gate::remove` was called.
    pub(crate) unsafe fn new(exit: *mut u8) -> Arc<Self> {
        Arc::new(Self {
            inside: AtomicU32::new(0),
            thread: AtomicI32::new(0),
            asked: AtomicBool::new(false),
            exit,
        })
    }

    /// It is out, which is what was asked.
    pub(crate) fn answered(&self) {
        self.asked.store(false, SeqCst);
    }

    /// Whoever calls this holds the gate's list and found the seat there, or is the processor itself.
    fn hurry(&self, value: u8) {
        // SAFETY: mapped until it leaves the list, which the caller prevents. The kernel reads the byte once,
        // at KVM_RUN; this side uses it atomically.
        unsafe { AtomicU8::from_ptr(self.exit) }.store(value, SeqCst);
    }
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Gate {
    /// An open gate. Processors are interrupted by `signal`, which gets a handler that does nothing where it
    /// has none; one that it has must return.
    ///
    /// # Errors
    /// EINVAL for a number that is no signal.
    pub(crate) fn new(signal: i32) -> Result<Self, Error> {
        // SAFETY: only asks.
        let before =
            unsafe { signals::set_action(signal, None) }.map_err(Error::of("rt_sigaction"))?;
        if before.handler == libc::SIG_DFL || before.handler == libc::SIG_IGN {
            let mut action = signals::Action::new(nothing);
            // KVM_RUN ends all the same; other calls of the thread go on.
            action.flags |= libc::SA_RESTART as u64;
            // SAFETY: the handler does nothing.
            unsafe { signals::set_action(signal, Some(&action)) }
                .map_err(Error::of("rt_sigaction"))?;
        }
        Ok(Self {
            closed: AtomicU32::new(0),
            left: AtomicU32::new(0),
            seats: Mutex::new(Vec::new()),
            signal,
        })
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, seat: Arc<Seat>) {
        self.seats().push(seat);
    }

    pub(crate) fn remove(&self, seat: &Arc<Seat>) {
        self.seats().retain(|other| !Arc::ptr_eq(other, seat));
    }

    /// The calling thread runs this processor from now on.
    pub(crate) fn settle(&self, seat: &Seat) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        if seat.thread.swap(thread, SeqCst) != thread {
            // It would not come out otherwise.
            let _ = signals::unblock(self.signal);
        }
    }

    /// Waits until the gate is open and goes in. False where somebody wants the processor out.
    pub(crate) fn enter(&self, seat: &Seat) -> bool {
        loop {
            seat.hurry(0);
            seat.inside.store(1, SeqCst);
            let closed = self.closed.load(SeqCst) != 0;
            let asked = seat.asked.swap(false, SeqCst);
            if !closed && !asked {
                return true;
            }
            self.leave(seat);
            if asked {
                return false;
            }
            let _ = futex::wait(&self.closed, futex::Flags::PRIVATE, 1, None);
        }
    }

    /// The processor is out again.
    pub(crate) fn leave(&self, seat: &Seat) {
        seat.inside.store(0, SeqCst);
        if self.closed.load(SeqCst) != 0 {
            self.left.fetch_add(1, SeqCst);
            let _ = futex::wake(&self.left, futex::Flags::PRIVATE, i32::MAX as u32);
        }
    }

    /// Makes a processor come out, or not go in the next time.
    pub(crate) fn interrupt(&self, seat: &Arc<Seat>) {
        seat.asked.store(true, SeqCst);
        let seats = self.seats();
        if seats.iter().any(|other| Arc::ptr_eq(other, seat)) {
            self.kick(seat);
        }
    }

    fn kick(&self, seat: &Seat) {
        seat.hurry(1);
        if seat.inside.load(SeqCst) != 0 {
            // EAGAIN, past the limit of queued signals: sent again later.
            let _ = signals::send_to_thread(seat.thread.load(SeqCst), self.signal);
        }
    }

    /// Closes the gate: no processor is in the guest until the answer is dropped. The caller sees to
    /// it that nobody else does meanwhile.
    ///
    /// # Errors
    /// [`Error::Stuck`]; the gate is open then.
    pub(crate) fn close(&self) -> Result<Closed<'_>, Error> {
        self.closed.store(1, SeqCst);
        // Dropped, it opens again.
        let closed = Closed { gate: self };
        let deadline = Instant::now() + PATIENCE;
        let seats = self.seats();
        // All of them first, so that they come out side by side.
        for seat in seats.iter() {
            self.kick(seat);
        }
        for seat in seats.iter() {
            loop {
                let seen = self.left.load(SeqCst);
                if seat.inside.load(SeqCst) == 0 {
                    break;
                }
                if Instant::now() > deadline {
                    let thread = seat.thread.load(SeqCst);
                    return Err(Error::Stuck { thread });
                }
                let timeout = rustix::fs::Timespec {
                    tv_sec: 0,
                    tv_nsec: AGAIN,
                };
                if futex::wait(&self.left, futex::Flags::PRIVATE, seen, Some(&timeout))
                    == Err(strongroom_sys::Errno::TIMEDOUT)
                {
                    self.kick(seat);
                }
            }
        }
        drop(seats);
        Ok(closed)
    }
}

/// While it lives, no processor is in the guest.
#[derive(Debug)]
pub(crate) struct Closed<'g> {
    gate: &'g Gate,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.gate.closed.store(0, SeqCst);
        let _ = futex::wake(&self.gate.closed, futex::Flags::PRIVATE, i32::MAX as u32);
    }
}
