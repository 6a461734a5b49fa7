//! The kernel driver's memory as ordinary guest memory: everything is shared with the monitor, for good, and
//! with nobody else. [`DriverPoison`](super::DriverPoison) is the same memory with private pages.

use super::{Backing, Limit, device};
use crate::kvm::{Machine, Slot};
use crate::mapping::Mapping;
use crate::{Contents, Error};
use core::ops::Range;
use std::sync::Arc;
use strongroom_core::page::Side;
use strongroom_core::{Level, Receipt};
use strongroom_sys::PAGE;

/// Pages of /dev/strongroom, all of them shared. KVM maps them by the host address, in pieces of 2 MiB
/// where the length allows.
#[derive(Debug)]
pub struct Driver {
    memory: Mapping,
}

const NAME: &str = "driver";

impl Driver {
    /// Memory of `len` bytes, all of which is there from the start: the pool gives it or refuses it now.
    ///
    /// # Errors
    /// A length that is not whole pages; ENOENT and EACCES without the driver; what its mmap says (driver/ABI.md);
    /// a kernel that lets root read the pool by /dev/mem.
    pub fn new(len: usize) -> Result<Self, Error> {
        let object = device::object(NAME, len, Level::Hidden)?;
        // The descriptor goes with this: the mapping is the object's only one.
        let memory = Mapping::of_driver(&object, len)?;
        Ok(Self { memory })
    }
}

impl Backing for Driver {
    fn name(&self) -> &'static str {
        NAME
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
            Side::Private => Err(Error::NeverPrivate(NAME)),
        }
    }

    fn receipt(&self) -> Receipt {
        device::receipt(NAME)
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
        super::place(&self.memory, machine, start)
    }
}
