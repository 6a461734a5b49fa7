//! The kernel driver's memory as ordinary guest memory: everything is shared with the monitor, for good, and
//! with nobody else.
//!
//! Its pages cannot be poisoned, which would make some of them private: UFFDIO_POISON is for anonymous memory
//! and files in memory (vma_can_userfault, mm/userfaultfd.c), and this is neither (VM_PFNMAP).

use super::{Backing, Limit};
use crate::kvm::{Machine, Slot, Source};
use crate::mapping::Mapping;
use crate::{Contents, Error};
use core::ops::Range;
use std::sync::Arc;
use strongroom_core::driver::{Mode, Properties};
use strongroom_core::page::Side;
use strongroom_core::{Level, Protections, Receipt};
use strongroom_sys::{PAGE, driver};

/// Pages of /dev/strongroom, all of them shared. KVM maps them by the host address, in pieces of 2 MiB
/// where the length allows.
#[derive(Debug)]
pub struct Driver {
    memory: Mapping,
}

impl Driver {
    /// Memory of `len` bytes, all of which is there from the start: the pool gives it or refuses it now.
    ///
    /// # Errors
    /// A length that is not whole pages; ENOENT and EACCES without the driver; what its mmap says (driver/ABI.md);
    /// a kernel that lets root read the pool by /dev/mem.
    pub fn new(len: usize) -> Result<Self, Error> {
        super::whole_pages(len)?;
        let object = driver::open().map_err(Error::of("open(/dev/strongroom)"))?;
        let abi = driver::abi(&object).map_err(Error::of("ioctl(/dev/strongroom)"))?;
        let properties = Properties::from_bits_truncate(abi.properties);
        if !properties.contains(Properties::DEV_MEM_CLOSED) {
            return Err(Error::NotOffered {
                backing: "driver",
                what: "memory that /dev/mem does not show, on this kernel",
            });
        }
        driver::set_mode(&object, len, Mode::of_level(Level::Hidden))
            .map_err(Error::of("ioctl(/dev/strongroom)"))?;
        // The descriptor goes with this: the mapping is the object's only one.
        let memory = Mapping::of_driver(&object, len)?;
        Ok(Self { memory })
    }
}

impl Backing for Driver {
    fn name(&self) -> &'static str {
        "driver"
    }

    fn host(&self) -> *mut u8 {
        self.memory.start()
    }

    fn len(&self) -> usize {
        self.memory.len()
    }

    fn initial(&self) -> Side {
        Side::Shared
    }

    fn convert(&self, _pages: Range<usize>, to: Side, _contents: Contents) -> Result<(), Error> {
        match to {
            Side::Shared => Ok(()),
            Side::Private => Err(Error::NeverPrivate(self.name())),
        }
    }

    fn receipt(&self) -> Receipt {
        let held = Protections::NO_SWAP
            | Protections::NO_CORE_DUMP
            | Protections::NO_FORK_SHARE
            | Protections::NO_FD_SPILL
            | Protections::NO_PEEK
            | Protections::NO_PIN
            | Protections::NO_DIRECT_MAP;
        super::receipt(self.name(), held)
    }

    fn limits(&self) -> &'static [Limit] {
        &[Limit::NothingPrivate]
    }

    fn guest_alias(&self) -> Option<*mut u8> {
        Some(self.memory.start())
    }

    /// The memory stays the region's: it is wiped here and now.
    fn discard(&self, pages: Range<usize>) -> Result<(), Error> {
        self.memory.wipe(pages.start * PAGE, pages.len() * PAGE);
        Ok(())
    }

    /// It is there, and always was.
    fn populate(&self, _pages: Range<usize>, _side: Side) -> Result<(), Error> {
        Ok(())
    }

    /// It has no other place to go.
    fn lock(&self, _pages: Range<usize>) -> Result<(), Error> {
        Ok(())
    }

    fn place(&self, machine: &Arc<Machine>, start: u64) -> Result<Option<Slot>, Error> {
        let source = Source::Address(self.memory.start());
        // SAFETY: the mapping is the backing's, which outlives the slot, and is used as raw memory only.
        let slot = unsafe { machine.slots().create(start, self.len(), source) }?;
        Ok(Some(slot))
    }
}
