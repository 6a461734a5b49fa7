//! The gate: holds virtual processors out of the guest while its slots change.
//!
//! A slot cannot change what memory it is: it is deleted, and another one created. A processor that
//! touched the addresses between the two would get an MMIO exit, and that cannot be tried again: at the
//! exit of a write the kernel has gone past the instruction already, and its data has nowhere
//! to go where the page is private. So no processor is in the guest meanwhile, by construction:
//! KVM_RUN is called between [`Gate::enter`] and [`Gate::leave`] only, and slots change only while
//! [`Gate::close`]'s answer lives.
//!
//! Why no processor is inside then, and why each comes out, is in the docs of [`strongroom_core::gate`]. Here are
//! the kernel's parts: KVM_RUN's flag, the signal, and futex(2).

use crate::{Error, Futex};
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering::SeqCst};
use rustix::thread::futex;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use strongroom_core::gate::{self, Dozed, Presence, Sleep};
use strongroom_sys::{Errno, signals};

/// How long a processor may take to come out. It takes microseconds; this is for one that is not scheduled.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how long a signal is sent again, in nanoseconds: where the kernel had no room for one more, it is lost.
const AGAIN: i64 = 20_000_000;

/// Holds virtual processors out of the guest while it is closed.
#[derive(Debug)]
pub struct Gate {
    gate: gate::Gate,
    seats: Mutex<Vec<Arc<Seat>>>,
    signal: i32,
}

/// A virtual processor, as the gate sees it.
#[derive(Debug)]
pub(crate) struct Seat {
    presence: Presence,
    thread: AtomicI32,
    signal: i32,
    /// kvm_run's `immediate_exit`, as long as the seat is among the gate's.
    exit: *mut u8,
}

// SAFETY: the pointer is used as an atomic byte, while the gate holds the seat (see `exit_at_once`).
unsafe impl Send for Seat {}
// SAFETY: as above.
unsafe impl Sync for Seat {}

impl Seat {
    /// It is out, which is what was asked.
    pub(crate) fn answered(&self) {
        self.presence.answered();
    }
}

impl gate::Seat for Seat {
    fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Whoever calls this holds the gate's list and found the seat there, or is the processor itself.
    fn exit_at_once(&self, exit: bool) {
        // SAFETY: mapped until it leaves the list, which the caller prevents. The kernel reads the byte once,
        // at KVM_RUN; this side uses it atomically.
        unsafe { AtomicU8::from_ptr(self.exit) }.store(exit.into(), SeqCst);
    }

    fn signal(&self) {
        // EAGAIN, past the limit of queued signals: sent again later.
        let _ = signals::send_to_thread(self.thread.load(SeqCst), self.signal);
    }
}

impl Sleep for Futex {
    fn sleep(&self, word: &AtomicU32, seen: u32) {
        let _ = futex::wait(word, futex::Flags::PRIVATE, seen, None);
    }

    fn wake(&self, word: &AtomicU32) {
        let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
    }
}

/// Sleeps until a signal must be sent again, or the deadline is past.
fn doze(word: &AtomicU32, seen: u32, deadline: Instant) -> Dozed {
    if Instant::now() > deadline {
        return Dozed::Late;
    }
    let timeout = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: AGAIN,
    };
    match futex::wait(word, futex::Flags::PRIVATE, seen, Some(&timeout)) {
        Err(Errno::TIMEDOUT) => Dozed::Again,
        _ => Dozed::Woken,
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
            gate: gate::Gate::default(),
            seats: Mutex::new(Vec::new()),
            signal,
        })
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A processor of a machine that has this gate.
    ///
    /// # Safety
    /// `exit` must lead to the processor's `immediate_exit`, until [`remove`](Self::remove) was called.
    pub(crate) unsafe fn add(&self, exit: *mut u8) -> Arc<Seat> {
        let seat = Arc::new(Seat {
            presence: Presence::default(),
            thread: AtomicI32::new(0),
            signal: self.signal,
            exit,
        });
        self.seats().push(Arc::clone(&seat));
        seat
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
        self.gate.enter(seat, &Futex)
    }

    /// The processor is out again.
    pub(crate) fn leave(&self, seat: &Seat) {
        self.gate.leave(seat, &Futex);
    }

    /// Makes a processor come out, or not go in the next time.
    pub(crate) fn interrupt(&self, seat: &Arc<Seat>) {
        seat.presence.ask();
        let seats = self.seats();
        if seats.iter().any(|other| Arc::ptr_eq(other, seat)) {
            self.gate.kick(&**seat);
        }
    }

    /// Closes the gate: no processor is in the guest until the answer is dropped. The caller sees to
    /// it that nobody else does meanwhile.
    ///
    /// # Errors
    /// [`Error::Stuck`]; the gate is open then.
    pub(crate) fn close(&self) -> Result<Closed<'_>, Error> {
        let deadline = Instant::now() + PATIENCE;
        let seats = self.seats();
        let doze = |word: &AtomicU32, seen| doze(word, seen, deadline);
        let closed = self
            .gate
            .close(seats.iter().map(|seat| &**seat), Futex, doze);
        closed.map_err(|seat| Error::Stuck {
            thread: seat.thread.load(SeqCst),
        })
    }
}

/// While it lives, no processor is in the guest.
pub(crate) type Closed<'g> = gate::Closed<'g, Futex>;
