//! The kernel driver's memory whose private pages raise SIGBUS in the monitor's view while the guest keeps its
//! own: what [`Poison`](super::Poison) does to a memfd, by calls of the driver's (HIDE and SHOW, driver/ABI.md).
//!
//! An object of the driver is mapped twice and sealed. The *view* is where the monitor reaches shared pages; the
//! *alias* is what KVM is told. UFFDIO_POISON does not take such memory (vma_can_userfault, mm/userfaultfd.c); the
//! driver puts the same markers there itself, all of a range or none, and no touch comes between. A page
//! becomes private in place, and what the driver keeps from other processes, root and the kernel it keeps on both sides.

use super::{Backing, Limit, device};
use crate::kvm::{Machine, Slot};
use crate::mapping::Mapping;
use crate::{Contents, Error, PAGE};
use core::ops::Range;
use rustix::fd::OwnedFd;
use std::sync::Arc;
use strongroom_core::page::Side;
use strongroom_core::{Level, Receipt};
use strongroom_sys::{Errno, driver};

/// Pages of /dev/strongroom that are hidden in the monitor's view while they are private.
///
/// A forked child has neither mapping. KVM maps them by the alias, in pieces of 2 MiB where the length allows.
#[derive(Debug)]
pub struct DriverPoison {
    view: Mapping,
    alias: Mapping,
    /// To hide and show pages. It maps nothing any more, and says EPERM to every other address space.
    object: OwnedFd,
}

const NAME: &str = "driver-poison";

impl DriverPoison {
    /// Memory of `len` bytes, all of which is there from the start: the pool gives it or refuses it now.
    ///
    /// # Errors
    /// Those of [`Driver::new`](super::Driver::new); [`Error::NotOffered`] for a driver that cannot hide pages.
    pub fn new(len: usize) -> Result<Self, Error> {
        // Locked is the mode that a second mapping is allowed in, until the object is sealed.
        let object = device::object(NAME, len, Level::Locked)?;
        // The first one takes the pages, the second one none.
        let view = Mapping::of_driver(&object, len)?;
        let alias = Mapping::of_driver(&object, len)?;
        driver::seal(&object).map_err(Error::of("SEAL(/dev/strongroom)"))?;
        // No page is no range, for a driver that has the call.
        if driver::hide(&object, view.start(), 0) == Err(Errno::NOTTY) {
            return Err(Error::NotOffered {
                backing: NAME,
                what: "private pages, which this version of the driver cannot hide",
            });
        }
        Ok(Self {
            view,
            alias,
            object,
        })
    }
}

impl Backing for DriverPoison {
    fn name(&self) -> &'static str {
        NAME
    }

    fn host(&self) -> *mut u8 {
        self.view.start()
    }

    fn len(&self) -> usize {
        self.view.len()
    }

    fn initial(&self) -> Side {
        Side::Shared
    }

    /// The driver changes all of the pages or none: there is nothing to take back.
    fn convert(&self, pages: Range<usize>, to: Side, contents: Contents) -> Result<(), Error> {
        let (start, len) = (self.view.page(pages.start), pages.len() * PAGE);
        if to == Side::Private {
            driver::hide(&self.object, start, len).map_err(Error::of("HIDE(/dev/strongroom)"))?;
        }
        // While the view does not show them, on the way there or back.
        if contents == Contents::Dropped {
            self.discard(pages)?;
        }
        if to == Side::Shared {
            driver::show(&self.object, start, len).map_err(Error::of("SHOW(/dev/strongroom)"))?;
        }
        Ok(())
    }

    fn receipt(&self) -> Receipt {
        device::receipt(NAME)
    }

    /// Of [`Poison`](super::Poison)'s, the kernel has these pages not mapped, and who is killed leaves them wiped. They
    /// cannot be pinned; but a device to which VFIO gave them reads on.
    fn limits(&self) -> &'static [Limit] {
        &[Limit::AliasInMonitor, Limit::StalePin]
    }

    fn guest_alias(&self) -> Option<*mut u8> {
        Some(self.alias.start())
    }

    /// The memory stays the region's: it is wiped here and now.
    fn discard(&self, pages: Range<usize>) -> Result<(), Error> {
        self.alias.wipe(pages.start * PAGE, pages.len() * PAGE);
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
        super::place(&self.alias, machine, start)
    }
}
