//! The gate: holds virtual processors out of a guest while its memory slots change.
//!
//! A processor is in the guest between [`Gate::enter`] and [`Gate::leave`] only, and slots change only while
//! [`Gate::close`]'s answer lives.
//!
//! # Why it is right
//!
//! *No processor is in the guest while the gate is closed.* A processor says that it is inside, and then
//! looks whether the gate is closed; who closes it says so, and then looks who is inside. All four are
//! sequentially consistent, so that one of the two sees the other: the processor turns back, or is waited for.
//!
//! *One that is waited for comes out.* Whoever closes sets the processor's flag and then sends a signal, if it is
//! inside. If the signal comes before the processor's run, the run sees the flag; if later, it is pending there and the run ends.
//! The flag is cleared before a processor says that it is inside, and thus before it looks at the gate: a flag
//! that it clears is of somebody whose closing, or asking, it sees.
//!
//! *No processor waits for itself.* One whose exit is being answered, with a conversion for instance, is not inside.
//!
//! *No wake-up is lost.* A processor that leaves a closed gate changes the count of those that left after it says that it
//! is out; who closes reads the count before it looks who is inside, and sleeps on what it has read. A
//! processor that turns back sleeps on the word that opening changes.
//!
//! *Flag and gate overlap.* A processor that goes in just before the gate is closed would find its flag set, too,
//! and one whose flag is cleared too early finds the gate closed. Taking one of them away altogether is found by loom.
//!
//! Each of these is checked by loom with a model of the kernel's part (tests/gate_loom.rs), where no signal is sent twice.

use crate::page::AtomicWord;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

/// Whether a processor is in the guest, and whether somebody wants it out.
#[derive(Debug, Default)]
pub struct Presence<A = AtomicU32> {
    inside: A,
    /// For a reason of their own, whatever the gate is.
    asked: A,
}

impl<A: AtomicWord> Presence<A> {
    /// Somebody wants the processor out: it does not go in the next time. Where it is in, it takes a
    /// [kick](Gate::kick), too.
    pub fn ask(&self) {
        self.asked.fetch_or(1, SeqCst);
    }

    /// It is out, which is what was asked.
    pub fn answered(&self) {
        self.asked.fetch_and(0, SeqCst);
    }
}

/// A virtual processor, as the gate sees it.
pub trait Seat<A = AtomicU32> {
    /// Where it is.
    fn presence(&self) -> &Presence<A>;

    /// Sets or clears the flag with which its run ends before it begins: kvm_run's `immediate_exit`. A
    /// sequentially consistent store, or more.
    fn exit_at_once(&self, exit: bool);

    /// Sends its thread the signal that ends its run.
    fn signal(&self);
}

/// How threads sleep at the gate.
pub trait Sleep<A = AtomicU32> {
    /// Sleeps while the word is `seen`, and ends early as it likes.
    ///
    /// It must look at the word after it went to sleep, as futex(2) does: a wake-up between the caller's
    /// look and the sleep is lost otherwise.
    fn sleep(&self, word: &A, seen: u32);

    /// Wakes all that sleep on the word.
    fn wake(&self, word: &A);
}

/// How waiting for a processor went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dozed {
    /// It may have come out.
    Woken,
    /// Nobody woke it: the signal is sent again.
    Again,
    /// There is no patience left.
    Late,
}

/// Holds virtual processors out of the guest while it is closed.
#[derive(Debug, Default)]
pub struct Gate<A = AtomicU32> {
    /// 1 while it is closed.
    closed: A,
    /// Changes whenever a processor left while it was closed.
    left: A,
}

impl<A: AtomicWord> Gate<A> {
    /// Waits until the gate is open and goes in. False where somebody [wants](Presence::ask) the processor out.
    pub fn enter(&self, seat: &impl Seat<A>, sleep: &impl Sleep<A>) -> bool {
        let presence = seat.presence();
        loop {
            seat.exit_at_once(false);
            presence.inside.fetch_or(1, SeqCst);
            let closed = self.closed.load(SeqCst) != 0;
            let asked = presence.asked.fetch_and(0, SeqCst) != 0;
            if !closed && !asked {
                return true;
            }
            self.leave(seat, sleep);
            if asked {
                return false;
            }
            sleep.sleep(&self.closed, 1);
        }
    }

    /// The processor is out again.
    pub fn leave(&self, seat: &impl Seat<A>, sleep: &impl Sleep<A>) {
        seat.presence().inside.fetch_and(0, SeqCst);
        if self.closed.load(SeqCst) != 0 {
            self.left.fetch_sub(1, SeqCst);
            sleep.wake(&self.left);
        }
    }

    /// Has a processor come out that was inside when it was asked, or when the gate was closed.
    pub fn kick(&self, seat: &impl Seat<A>) {
        seat.exit_at_once(true);
        if seat.presence().inside.load(SeqCst) != 0 {
            seat.signal();
        }
    }

    /// Closes the gate: no processor is in the guest until the answer is dropped. The caller sees to it that
    /// nobody else closes it meanwhile, and that `seats` are all there are, until this returns. `doze` sleeps while
    /// the word is what was seen, as [`Sleep::sleep`] does, but for a while, and in all as long as the caller has patience.
    ///
    /// # Errors
    /// The processor that does not come out in time; the gate is open then.
    pub fn close<'g, 's, S, P>(
        &'g self,
        seats: impl Iterator<Item = &'s S> + Clone,
        sleep: P,
        doze: impl Fn(&A, u32) -> Dozed,
    ) -> Result<Closed<'g, P, A>, &'s S>
    where
        S: Seat<A>,
        P: Sleep<A>,
    {
        self.closed.fetch_or(1, SeqCst);
        // Dropped, it opens again.
        let closed = Closed { gate: self, sleep };
        // All of them first, so that they come out side by side.
        for seat in seats.clone() {
            self.kick(seat);
        }
        for seat in seats {
            loop {
                let seen = self.left.load(SeqCst);
                if seat.presence().inside.load(SeqCst) == 0 {
                    break;
                }
                match doze(&self.left, seen) {
                    Dozed::Woken => {}
                    Dozed::Again => self.kick(seat),
                    Dozed::Late => return Err(seat),
                }
            }
        }
        Ok(closed)
    }
}

/// While it lives, no processor is in the guest.
#[derive(Debug)]
#[must_use = "the gate opens when it is dropped"]
pub struct Closed<'g, P: Sleep<A>, A: AtomicWord = AtomicU32> {
    gate: &'g Gate<A>,
    sleep: P,
}

impl<P: Sleep<A>, A: AtomicWord> Drop for Closed<'_, P, A> {
    fn drop(&mut self) {
        self.gate.closed.fetch_and(0, SeqCst);
        self.sleep.wake(&self.gate.closed);
    }
}
