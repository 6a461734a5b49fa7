//! Every interleaving of processors that go in and out and of who closes the gate or interrupts them, by loom: no
//! processor is in the guest while slots change, each that is waited for comes out, and it ends.
//!
//! loom's cell fails the test where slots change while a processor uses them. A processor that is not
//! interrupted stays in the guest for good, and no signal is sent twice: a lost one is a deadlock, which loom reports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use strongroom_core::gate::{Dozed, Gate, Presence, Seat, Sleep};
use strongroom_core::page::AtomicWord;

/// loom's atomic word. loom takes sequentially consistent accesses for acquire and release; what makes them
/// more is a fence behind each that writes, as x86 has it.
#[derive(Debug, Default)]
struct Word {
    value: AtomicU32,
    /// Of those that sleep on it.
    lock: Mutex<()>,
    woken: Condvar,
}

impl Word {
    fn written(&self, before: u32, order: Ordering) -> u32 {
        if order == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
        before
    }
}

impl AtomicWord for Word {
    fn load(&self, order: Ordering) -> u32 {
        self.value.load(order)
    }

    fn exchange(&self, current: u32, new: u32, ok: Ordering, no: Ordering) -> Result<u32, u32> {
        let before = self.value.compare_exchange(current, new, ok, no)?;
        Ok(self.written(before, ok))
    }

    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        self.written(self.value.fetch_sub(value, order), order)
    }

    fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
        self.written(self.value.fetch_or(bits, order), order)
    }

    fn fetch_and(&self, bits: u32, order: Ordering) -> u32 {
        self.written(self.value.fetch_and(bits, order), order)
    }
}

/// Who goes to sleep on a changed word goes on; who sleeps is woken by `wake` and nothing else.
struct Futex;

impl Sleep<Word> for Futex {
    fn sleep(&self, word: &Word, seen: u32) {
        let turn = word.lock.lock().unwrap();
        // As the kernel does: the word is compared under the lock that wakers take.
        if word.load(Ordering::Relaxed) == seen {
            drop(word.woken.wait(turn).unwrap());
        }
    }

    fn wake(&self, word: &Word) {
        drop(word.lock.lock().unwrap());
        word.woken.notify_all();
    }
}

/// A processor, and the kernel's part of it.
#[derive(Debug, Default)]
struct Processor {
    presence: Presence<Word>,
    /// kvm_run's `immediate_exit`.
    exit: Word,
    /// Whether a signal is pending.
    pending: Mutex<bool>,
    sent: Condvar,
}

impl Seat<Word> for Processor {
    fn presence(&self) -> &Presence<Word> {
        &self.presence
    }

    fn exit_at_once(&self, exit: bool) {
        if exit {
            self.exit.fetch_or(1, Ordering::SeqCst);
        } else {
            self.exit.fetch_and(0, Ordering::SeqCst);
        }
    }

    fn signal(&self) {
        *self.pending.lock().unwrap() = true;
        self.sent.notify_all();
    }
}

impl Processor {
    /// What KVM_RUN does (kvm_arch_vcpu_ioctl_run): a signal that came before was handled in user mode and is no
    /// more; then the flag is read, once; then the guest runs, until a signal is pending. Without `endless` it ends by itself.
    fn kvm_run(&self, slots: &UnsafeCell<u32>, endless: bool) {
        *self.pending.lock().unwrap() = false;
        if self.exit.load(Ordering::Relaxed) != 0 {
            return;
        }
        let mut pending = self.pending.lock().unwrap();
        loop {
            // SAFETY: the pointer is the cell's own; loom watches over races.
            slots.with(|slots| unsafe { *slots });
            if *pending || !endless {
                return;
            }
            pending = self.sent.wait(pending).unwrap();
        }
    }
}

/// A machine, its slots in a cell.
struct Machine {
    gate: Gate<Word>,
    processors: Vec<Processor>,
    slots: UnsafeCell<u32>,
}

// SAFETY: the slots are what is under test: loom's cell fails where two accesses race.
unsafe impl Sync for Machine {}
// SAFETY: as above.
unsafe impl Send for Machine {}

impl Machine {
    fn new(processors: usize) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::default(),
            processors: (0..processors).map(|_| Processor::default()).collect(),
            slots: UnsafeCell::new(0),
        })
    }

    /// Runs a processor once, as `Vcpu::run` does. False where it was interrupted.
    fn run(&self, processor: usize, endless: bool) -> bool {
        let seat = &self.processors[processor];
        if !self.gate.enter(seat, &Futex) {
            return false;
        }
        seat.kvm_run(&self.slots, endless);
        self.gate.leave(seat, &Futex);
        true
    }

    /// Runs one that never ends by itself until it is interrupted.
    fn run_on(&self, processor: usize) {
        while self.run(processor, true) {}
    }

    /// Changes slots while the gate is closed.
    fn change(&self) {
        // Nothing is sent twice, and there is time enough.
        let doze = |word: &Word, seen| {
            Futex.sleep(word, seen);
            Dozed::Woken
        };
        let closed = self
            .gate
            .close(self.processors.iter(), Futex, doze)
            .unwrap();
        self.slots.with_mut(|slots| {
            // A processor that goes in meanwhile is met in the middle.
            thread::yield_now();
            // SAFETY: as in `kvm_run`.
            unsafe { *slots += 1 }
        });
        drop(closed);
    }

    fn interrupt(&self, processor: usize) {
        let seat = &self.processors[processor];
        seat.presence.ask();
        self.gate.kick(seat);
    }
}

fn check(preemptions: Option<usize>, test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(test);
}

type Part = Box<dyn FnOnce(&Machine) + Send>;

fn together(machine: &Arc<Machine>, parts: Vec<Part>) {
    let spawn = |part: Part| {
        let machine = Arc::clone(machine);
        thread::spawn(move || part(&machine))
    };
    let threads: Vec<_> = parts.into_iter().map(spawn).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn slots_change_while_a_processor_goes_in_and_out() {
    check(None, || {
        let machine = Machine::new(1);
        together(
            &machine,
            vec![
                Box::new(|it| assert!(it.run(0, false))),
                Box::new(|it| it.change()),
            ],
        );
    });
}

#[test]
fn one_that_does_not_end_comes_out_for_slots_and_for_who_asks() {
    check(Some(4), || {
        let machine = Machine::new(1);
        together(
            &machine,
            vec![
                Box::new(|it| it.run_on(0)),
                Box::new(|it| {
                    it.change();
                    it.interrupt(0);
                }),
            ],
        );
    });
}

#[test]
fn who_asks_comes_at_any_moment_of_a_change() {
    check(Some(2), || {
        let machine = Machine::new(1);
        together(
            &machine,
            vec![
                Box::new(|it| it.run_on(0)),
                Box::new(|it| it.change()),
                Box::new(|it| it.interrupt(0)),
            ],
        );
    });
}

#[test]
fn two_processors_are_out_while_slots_change() {
    check(Some(2), || {
        let machine = Machine::new(2);
        together(
            &machine,
            vec![
                Box::new(|it| assert!(it.run(0, false))),
                Box::new(|it| assert!(it.run(1, false))),
                Box::new(|it| it.change()),
            ],
        );
    });
}

#[test]
fn slots_change_twice() {
    check(Some(3), || {
        let machine = Machine::new(1);
        together(
            &machine,
            vec![
                Box::new(|it| assert!(it.run(0, false))),
                Box::new(|it| {
                    it.change();
                    it.change();
                }),
            ],
        );
    });
}
