//! A virtual processor that goes through the gate.

use super::Machine;
use super::gate::Seat;
use crate::Error;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::sync::Arc;
use strongroom_sys::Errno;

/// A virtual processor of a [`Machine`]. Its KVM_RUN is [`run`](Self::run), and no other.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    seat: Arc<Seat>,
    machine: Arc<Machine>,
}

impl Vcpu {
    pub(super) fn new(machine: Arc<Machine>, mut fd: VcpuFd) -> Self {
        let exit = &raw mut fd.get_kvm_run().immediate_exit;
        // SAFETY: the page stays mapped while `fd` lives; `drop` takes the seat out of the gate before.
        let seat = unsafe { machine.gate().add(exit) };
        Self { fd, seat, machine }
    }

    /// Waits until no slot is being changed, and runs the guest until it has to be answered. `None`
    /// where it was interrupted: look whether there is a reason to stop, and run it again.
    ///
    /// # Errors
    /// What KVM_RUN says, but for EINTR and EAGAIN.
    pub fn run(&mut self) -> Result<Option<VcpuExit<'_>>, Error> {
        let gate = self.machine.gate();
        gate.settle(&self.seat);
        if !gate.enter(&self.seat) {
            return Ok(None);
        }
        let result = self.fd.run();
        gate.leave(&self.seat);
        match result {
            Ok(VcpuExit::Intr) => Ok(None),
            Ok(exit) => Ok(Some(exit)),
            Err(error) => match Errno::from_raw_os_error(error.errno()) {
                Errno::INTR | Errno::AGAIN => {
                    self.seat.answered();
                    Ok(None)
                }
                errno => Err(Error::Kernel {
                    call: "KVM_RUN",
                    errno,
                }),
            },
        }
    }

    /// The processor, for its registers and the like.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// What makes it come out, from another thread.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter {
            machine: Arc::clone(&self.machine),
            seat: Arc::clone(&self.seat),
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.machine.gate().remove(&self.seat);
    }
}

/// Makes a [`Vcpu`] come out of the guest.
#[derive(Clone, Debug)]
pub struct Interrupter {
    machine: Arc<Machine>,
    seat: Arc<Seat>,
}

impl Interrupter {
    /// Its [`Vcpu::run`] ends with `None`, or does so the next time.
    pub fn interrupt(&self) {
        self.machine.gate().interrupt(&self.seat);
    }
}
