//! What to do about a processor that met a page which is not there.

use super::request::{Answer, Desk};
use crate::{PAGE, PageState, Side};
use core::fmt;
use kvm_bindings::KVM_MEMORY_EXIT_FLAG_PRIVATE;
use std::time::Duration;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Run the processor again: it tries the same once more.
    Retry,
    /// It cannot go on. The guest's state is whole: nothing was made up.
    Stop(Stop),
}

/// Why a processor cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// There is no guest memory at this address, and no slot.
    NoMemory(u64),
    /// The page's memory is gone: its file was closed or cut, or the host has no memory left.
    Lost(u64),
    /// The page's memory failed.
    Poisoned(u64),
    /// The guest touched the wrong side of a page, and it cannot be converted.
    Unconvertible(u64),
    /// There is guest memory at this address and KVM found no slot: an MMIO exit inside of memory. What a
    /// device would answer must not be made up; and the exit cannot be tried again, as the kernel has
    /// finished the instruction already where it was a write. [`Vcpu`](super::Vcpu) does not let it
    /// happen while slots change.
    Hole(u64),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::NoMemory(at) => write!(f, "the guest has no memory at {at:#x}"),
            Stop::Lost(at) => write!(f, "the guest's memory at {at:#x} is gone"),
            Stop::Poisoned(at) => write!(f, "the guest's memory at {at:#x} failed"),
            Stop::Unconvertible(at) => write!(f, "the page at {at:#x} cannot be converted"),
            Stop::Hole(at) => write!(f, "the guest's memory at {at:#x} has no slot"),
        }
    }
}

/// How long a processor waits before it tries a page again that somebody else converts or holds. It comes
/// back to the monitor each time.
const PAUSE: Duration = Duration::from_micros(50);

impl Desk {
    /// What to do about KVM_EXIT_MEMORY_FAULT. A page that the guest touched on the wrong side is converted,
    /// where the kernel knows sides, within the same limits as requests.
    pub fn fault(&self, flags: u64, address: u64, size: u64) -> Outcome {
        let Some((region, offset)) = self.place(address) else {
            return Outcome::Stop(Stop::NoMemory(address));
        };
        let wanted = match flags & u64::from(KVM_MEMORY_EXIT_FLAG_PRIVATE) {
            0 => Side::Shared,
            _ => Side::Private,
        };
        let is = match region.state(offset) {
            Some(PageState::Private) => Side::Private,
            Some(PageState::Shared { .. } | PageState::Exclusive) => Side::Shared,
            Some(PageState::Converting { .. }) => {
                std::thread::sleep(PAUSE);
                return Outcome::Retry;
            }
            Some(PageState::Poisoned) => return Outcome::Stop(Stop::Poisoned(address)),
            None => return Outcome::Stop(Stop::NoMemory(address)),
        };
        let known = region.backing().converts_by_access();
        if wanted == is && known && !self.again(address) {
            // Somebody has converted it since.
            return Outcome::Retry;
        }
        if wanted == is || !known {
            return Outcome::Stop(Stop::Lost(address));
        }
        let page = address & !(PAGE as u64 - 1);
        let length = size.clamp(1, 1 << 30).next_multiple_of(PAGE as u64);
        match self.convert_by_access(page, length, wanted) {
            Answer::Done(_) => Outcome::Retry,
            Answer::InUse | Answer::Busy | Answer::TooOften => {
                std::thread::sleep(PAUSE);
                Outcome::Retry
            }
            Answer::Poisoned => Outcome::Stop(Stop::Poisoned(address)),
            _ => Outcome::Stop(Stop::Unconvertible(address)),
        }
    }

    /// What to do about an MMIO exit: nothing where the address is a device's.
    pub fn mmio(&self, address: u64) -> Option<Stop> {
        self.place(address).map(|_| Stop::Hole(address))
    }
}
