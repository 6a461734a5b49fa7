//! What can go wrong with guest memory.

use strongroom_core::page::Refused;
use strongroom_sys::{Errno, PAGE};

/// What went wrong. Nothing was changed unless the variant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A page stood in the way.
    #[error("at offset {offset:#x}: {0}", offset = .0.page * PAGE)]
    Refused(#[from] Refused),
    /// The bytes are not all in pages that the guard holds.
    #[error("the guard does not hold all of {length} bytes from offset {start:#x}")]
    NotHeld {
        /// The first byte's offset in the region.
        start: usize,
        /// How many bytes.
        length: usize,
    },
    /// An address or a length is not a multiple of the page size.
    #[error("{0:#x} is not a multiple of {PAGE} bytes")]
    Misaligned(u64),
    /// A range of no bytes, or one that ends past the last address.
    #[error("no such range: {length} bytes from {start:#x}")]
    NoRange {
        /// Its first address.
        start: u64,
        /// How many bytes.
        length: u64,
    },
    /// The backing has no private pages: everything is shared.
    #[error("this backing ({0}) has no private pages")]
    NeverPrivate(&'static str),
    /// The backing has no such thing.
    #[error("this backing ({backing}) does not offer it: {what}")]
    NotOffered {
        /// The backing.
        backing: &'static str,
        /// What was asked for.
        what: &'static str,
    },
    /// All slot numbers that were given out for guest memory are in use.
    #[error("no memory slot is free: {most} are in use; convert larger or fewer ranges")]
    SlotsExhausted {
        /// How many there are.
        most: u32,
    },
    /// There is guest memory at these addresses already.
    #[error("there is memory already at {length} bytes from {start:#x}")]
    Overlap {
        /// The first guest physical address that was wanted.
        start: u64,
        /// How many bytes.
        length: u64,
    },
    /// A virtual processor did not come out of the guest.
    #[error("a virtual processor (thread {thread}) did not leave the guest in time")]
    Stuck {
        /// Its thread.
        thread: i32,
    },
    /// The region has its place in a virtual machine already.
    #[error("the region is placed already")]
    Placed,
    /// Contents cannot move before the region has its place in a virtual machine.
    #[error("the region has no place in a virtual machine yet")]
    NotPlaced,
    /// The region's backing belongs to another virtual machine.
    #[error("the backing is another virtual machine's")]
    ForeignMachine,
    /// Moving contents takes a virtual processor of the machine's own, which failed.
    #[error("the copying processor stopped: {0}")]
    Copier(&'static str),
    /// A slot was taken away and could not be put back: the guest has no memory at these addresses.
    #[error("{call}: {errno}; the guest has lost {length} bytes at {start:#x}")]
    Hole {
        /// The call.
        call: &'static str,
        /// What it said.
        errno: Errno,
        /// The first guest physical address.
        start: u64,
        /// How many bytes.
        length: u64,
    },
    /// The kernel said no.
    #[error("{call}: {errno}")]
    Kernel {
        /// The call.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
    /// The kernel said no in the middle of a conversion, and what was done could not be taken back:
    /// the pages before this one are converted, and the others are as they were.
    #[error("{call}: {errno}, after {done} pages were converted")]
    Partly {
        /// The call.
        call: &'static str,
        /// What it said.
        errno: Errno,
        /// How many pages are converted.
        done: usize,
    },
}

impl Error {
    /// The call that failed and what it said, in short.
    pub(crate) fn call(&self) -> (&'static str, Errno) {
        match *self {
            Error::Kernel { call, errno }
            | Error::Partly { call, errno, .. }
            | Error::Hole { call, errno, .. } => (call, errno),
            Error::SlotsExhausted { .. } => ("memory slots", Errno::NOSPC),
            Error::Stuck { .. } => ("virtual processor", Errno::TIMEDOUT),
            Error::Copier(_) => ("copying processor", Errno::IO),
            _ => ("conversion", Errno::INVAL),
        }
    }

    /// An error of this call.
    pub(crate) fn kvm(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Error::Kernel {
            call,
            errno: Errno::from_raw_os_error(error.errno()),
        }
    }

    /// An error of this call.
    pub(crate) const fn of(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Error::Kernel { call, errno }
    }
}
