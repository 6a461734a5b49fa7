//! Runs the guest's processor, and answers what it asks.

use crate::guest::{BELL, Op};
use kvm_ioctls::VcpuExit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;
use strongroom_guest::kvm::exit::{Outcome, Stop};
use strongroom_guest::kvm::request::PORT;
use strongroom_guest::kvm::{Desk, Vcpu};

/// What other threads say to the processor's, and learn from it.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    rings: Condvar,
    stop: AtomicBool,
    pub(crate) idle: AtomicU64,
    /// Requests about pages.
    pub(crate) asked: AtomicU64,
    /// Spent in answering those, in nanoseconds.
    pub(crate) nanoseconds: AtomicU64,
}

impl Bell {
    /// There is a request, or room for an answer.
    pub(crate) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.rings.notify_one();
    }

    /// The processor ends when it is out next.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ring();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        while !*rung {
            let woken = self.rings.wait(rung);
            rung = woken.unwrap_or_else(PoisonError::into_inner);
        }
        *rung = false;
    }
}

/// The guest did what it should not, or the host could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("the guest faulted at {0:#x}")]
    Fault(u64),
    #[error("the guest left by {0}")]
    Exit(String),
    #[error("{0}")]
    Memory(Stop),
    #[error(transparent)]
    Host(#[from] strongroom_guest::Error),
}

/// Runs the guest until it says that it has stopped, or the bell does.
pub(crate) fn run(vcpu: &mut Vcpu, desk: &Desk, bell: &Bell) -> Result<(), Wrong> {
    while !bell.stop.load(Ordering::Relaxed) {
        match leave(vcpu, desk)? {
            Left::Interrupted => {}
            Left::Asked => {
                let begin = Instant::now();
                desk.serve(vcpu)?;
                let took = begin.elapsed().as_nanos() as u64;
                bell.nanoseconds.fetch_add(took, Ordering::Relaxed);
                bell.asked.fetch_add(1, Ordering::Relaxed);
            }
            Left::By(Op::Stop) => return Ok(()),
            Left::By(_) => {
                bell.idle.fetch_add(1, Ordering::Relaxed);
                bell.wait();
            }
        }
    }
    Ok(())
}

/// How a processor has left the guest.
#[derive(Debug)]
pub(crate) enum Left {
    /// By a signal, or it has to try again.
    Interrupted,
    /// To ask about pages.
    Asked,
    /// By the other port.
    By(Op),
}

/// Runs the guest until there is something to do.
pub(crate) fn leave(vcpu: &mut Vcpu, desk: &Desk) -> Result<Left, Wrong> {
    let what = match vcpu.run()? {
        None => return Ok(Left::Interrupted),
        Some(VcpuExit::IoOut(PORT, _)) => return Ok(Left::Asked),
        Some(VcpuExit::IoOut(BELL, data)) => match data.first().copied().and_then(Op::from_exit) {
            Some(op) => return Ok(Left::By(op)),
            None => format!("its port, with {data:?}"),
        },
        Some(VcpuExit::MemoryFault { flags, gpa, size }) => {
            return match desk.fault(flags, gpa, size) {
                Outcome::Retry => Ok(Left::Interrupted),
                Outcome::Stop(why) => Err(Wrong::Memory(why)),
            };
        }
        Some(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _)) => {
            match desk.mmio(address) {
                Some(why) => return Err(Wrong::Memory(why)),
                None => format!("an access to {address:#x}, where nothing is"),
            }
        }
        Some(VcpuExit::Shutdown) => {
            let rip = vcpu.fd().get_regs().map_or(0, |regs| regs.rip);
            return Err(Wrong::Fault(rip));
        }
        Some(exit) => format!("{exit:?}"),
    };
    let rip = vcpu.fd().get_regs().map_or(0, |regs| regs.rip);
    Err(Wrong::Exit(format!("{what} at {rip:#x}")))
}
