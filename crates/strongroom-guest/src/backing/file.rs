//! A memfd of guest memory, which nobody who is given it can shorten.

use crate::mapping::Mapping;
use crate::{Error, PAGE};
use core::ops::Range;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, SealFlags};
use strongroom_sys::Errno;

/// A file of guest memory.
#[derive(Debug)]
pub(super) struct File(OwnedFd);

impl File {
    /// A file of `len` bytes; its pages are there when they are touched.
    pub(super) fn new(len: usize) -> Result<Self, Error> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(c"strongroom-guest", flags)
            .map_err(Error::of("memfd_create"))?;
        rustix::fs::ftruncate(&file, len as u64).map_err(Error::of("ftruncate"))?;
        // A device process that shortens it would have this one die by SIGBUS.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)
            .map_err(Error::of("fcntl"))?;
        Ok(Self(file))
    }

    /// All of it, mapped.
    pub(super) fn map(&self, len: usize) -> Result<Mapping, Error> {
        Mapping::shared(&self.0, 0, len)
    }

    /// Takes the right to write to it from everybody, for good; mappings that are writable already stay so.
    pub(super) fn end_writing(&self) -> Result<(), Error> {
        let written = SealFlags::FUTURE_WRITE;
        let sealed = rustix::fs::fcntl_get_seals(&self.0).map_err(Error::of("fcntl"))?;
        if sealed.contains(written | SealFlags::SEAL) {
            return Ok(());
        }
        // Without execution, or F_SEAL_EXEC would bring the seal against mappings that are there.
        rustix::fs::fchmod(&self.0, Mode::RUSR).map_err(Error::of("fchmod"))?;
        let last = written | SealFlags::SEAL;
        let exec = SealFlags::from_bits_retain(libc::F_SEAL_EXEC.cast_unsigned());
        match rustix::fs::fcntl_add_seals(&self.0, last | exec) {
            // Before Linux 6.3.
            Err(Errno::INVAL) => rustix::fs::fcntl_add_seals(&self.0, last),
            result => result,
        }
        .map_err(Error::of("fcntl"))
    }

    /// Drops the contents of pages: they are zero when they are touched again. A file that cannot be written to keeps
    /// its pages; they are wiped then, by a mapping that can.
    pub(super) fn discard(&self, pages: Range<usize>, alias: &Mapping) -> Result<(), Error> {
        match crate::kvm::punch(&self.0, pages.clone()) {
            Err(Error::Kernel {
                errno: Errno::PERM, ..
            }) => {
                alias.wipe(pages.start * PAGE, pages.len() * PAGE);
                Ok(())
            }
            result => result,
        }
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
