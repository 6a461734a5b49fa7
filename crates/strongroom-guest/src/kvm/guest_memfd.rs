//! guest_memfd: files of guest memory.

use crate::{Error, PAGE};
use core::ops::Range;
use kvm_bindings::kvm_create_guest_memfd;
use kvm_ioctls::VmFd;
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::FallocateFlags;
use rustix::io::FdFlags;
use strongroom_sys::{Errno, page_cache};

/// Whose its pages are, for the kernel (include/uapi/linux/kvm.h of Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It cannot be mapped. On an ordinary virtual machine its pages are not used at all.
    Unmappable = 0,
    /// It can be mapped, and a touch of the mapping is SIGBUS.
    Private = 1,
    /// It can be mapped, and is used like any other file.
    Shared = 3,
}

/// A file of guest memory. When the last descriptor and mapping of it are gone, so is the memory.
#[derive(Debug)]
pub(crate) struct GuestMemfd(OwnedFd);

impl GuestMemfd {
    /// A file of `len` bytes; its pages are there when they are touched.
    pub(crate) fn new(vm: &VmFd, len: usize, kind: Kind) -> Result<Self, Error> {
        let wanted = kvm_create_guest_memfd {
            size: len as u64,
            flags: kind as u64,
            ..Default::default()
        };
        let fd = vm
            .create_guest_memfd(wanted)
            .map_err(Error::kvm("KVM_CREATE_GUEST_MEMFD"))?;
        // SAFETY: the kernel just gave this descriptor to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // The call has no flag for it.
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(Error::of("fcntl"))?;
        Ok(Self(fd))
    }

    /// Frees pages: they are zero when they are touched again. Private pages are not wiped by it.
    pub(crate) fn punch(&self, pages: Range<usize>) -> Result<(), Error> {
        punch(&self.0, pages)
    }

    /// Has pages be there: they are zero, or what they were.
    pub(crate) fn populate(&self, pages: Range<usize>) -> Result<(), Error> {
        // Memory comes by the policy of the thread that calls it.
        allocate(&self.0, FallocateFlags::empty(), pages)
    }

    /// Runs of pages, in order, outside of which no page of `pages` is in memory.
    pub(crate) fn resident(&self, pages: Range<usize>) -> Vec<Range<usize>> {
        resident(&self.0, pages)
    }
}

impl AsFd for GuestMemfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Frees pages of a file.
pub(crate) fn punch(file: impl AsFd, pages: Range<usize>) -> Result<(), Error> {
    allocate(file, FallocateFlags::PUNCH_HOLE, pages)
}

fn allocate(file: impl AsFd, flags: FallocateFlags, pages: Range<usize>) -> Result<(), Error> {
    let flags = flags | FallocateFlags::KEEP_SIZE;
    let (offset, len) = ((pages.start * PAGE) as u64, (pages.len() * PAGE) as u64);
    loop {
        match rustix::fs::fallocate(&file, flags, offset, len) {
            Err(Errno::INTR) => {}
            result => return result.map_err(Error::of("fallocate")),
        }
    }
}

/// Runs of pages of a file, in order, outside of which no page of `pages` is in memory.
pub(crate) fn resident(file: impl AsFd, pages: Range<usize>) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    look(file.as_fd(), pages, &mut runs);
    runs
}

fn look(file: BorrowedFd, pages: Range<usize>, runs: &mut Vec<Range<usize>>) {
    let (offset, len) = ((pages.start * PAGE) as u64, (pages.len() * PAGE) as u64);
    let there = match page_cache::resident(file, offset, len) {
        Ok(0) => return,
        Ok(some) => some as usize,
        // A kernel that does not tell: all of them may be.
        Err(_) => pages.len(),
    };
    // Pages that are mostly there are moved faster than they are told apart.
    if there * 2 >= pages.len() || pages.len() == 1 {
        match runs.last_mut() {
            Some(last) if last.end == pages.start => last.end = pages.end,
            _ => runs.push(pages),
        }
    } else {
        let middle = pages.start + pages.len() / 2;
        look(file, pages.start..middle, runs);
        look(file, middle..pages.end, runs);
    }
}
