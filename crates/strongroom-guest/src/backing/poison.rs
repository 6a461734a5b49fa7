//! Memory whose private pages raise SIGBUS in the monitor's view while the guest keeps its own: what
//! was proposed in 2021 with a page flag, by poisoned page-table entries (UFFDIO_POISON, Linux 6.6).
//!
//! The memory is a memfd, mapped twice. The *view* is where the monitor reaches shared pages; the *alias*
//! is what KVM is told. A page becomes private in place: its entry in the view is dropped and a poison
//! marker put there. Contents, NUMA placement and locking stay as they are, as no page moves (E5, E8).
//! State is per page-table entry of one mapping (E3): a flag on the page would be everybody's, a
//! mapping's would split it at each conversion, and the entry is what a touch meets.
//!
//! A thread that touches the page between the two steps makes it present again; it is dropped
//! again then. Whoever holds a guard makes no such touch, so that this is a device gone
//! wrong, and it ends. A page that a real memory error hit raises SIGBUS, too; the region's state
//! tells which it was (E1), and nothing reads a poisoned page (E2).

use super::file::File;
use super::{Backing, Limit};
use crate::kvm::{Machine, Slot};
use crate::mapping::Mapping;
use crate::{Contents, Error, PAGE};
use core::ops::Range;
use rustix::fd::OwnedFd;
use std::sync::Arc;
use strongroom_core::page::Side;
use strongroom_core::{Protections, Receipt};
use strongroom_sys::{Errno, userfaultfd};

/// Pages of a memfd that are poisoned in the monitor's view while they are private.
///
/// The memfd is closed: a descriptor would lead around the poison. A forked child has neither mapping, as it
/// would have the view without the poison.
#[derive(Debug)]
pub struct Poison {
    view: Mapping,
    alias: Mapping,
    /// As long as it is open, pages can be poisoned.
    registration: OwnedFd,
}

/// How often a page that somebody touches meanwhile is poisoned again.
const ATTEMPTS: usize = 1000;

impl Poison {
    /// Memory of `len` bytes; pages are there when they are touched.
    ///
    /// # Errors
    /// A length that is not whole pages; what memfd_create(2), ftruncate(2), mmap(2) and
    /// userfaultfd(2) say: EINVAL before Linux 6.6.
    pub fn new(len: usize) -> Result<Self, Error> {
        super::whole_pages(len)?;
        let file = File::new(len)?;
        let (view, alias) = (file.map(len)?, file.map(len)?);
        for mapping in [&view, &alias] {
            mapping.keep_from_children().map_err(Error::of("madvise"))?;
        }
        // The view is in dumps, without what is private.
        alias.keep_from_dumps().map_err(Error::of("madvise"))?;
        let registration =
            userfaultfd::allow_poison(view.start(), len).map_err(Error::of("userfaultfd"))?;
        Ok(Self {
            view,
            alias,
            registration,
        })
    }

    /// Takes pages out of the view. Tells how many are done where it fails.
    fn hide(&self, pages: Range<usize>) -> Result<(), (usize, Errno)> {
        let mut at = pages.start;
        let mut attempts = 0;
        while at < pages.end {
            let rest = at..pages.end;
            self.view
                .forget(rest.clone())
                .map_err(|e| (at - pages.start, e))?;
            let result =
                userfaultfd::poison(&self.registration, self.view.page(at), rest.len() * PAGE);
            match result {
                Ok(()) => return Ok(()),
                // Somebody touched the page meanwhile, or the mapping is being changed.
                Err((done, Errno::EXIST | Errno::AGAIN)) if attempts < ATTEMPTS => {
                    attempts = if done == 0 { attempts + 1 } else { 0 };
                    at += done / PAGE;
                }
                Err((done, errno)) => return Err((at + done / PAGE - pages.start, errno)),
            }
        }
        Ok(())
    }
}

impl Backing for Poison {
    fn name(&self) -> &'static str {
        "poison"
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

    fn convert(&self, pages: Range<usize>, to: Side, contents: Contents) -> Result<(), Error> {
        if to == Side::Private
            && let Err((_, errno)) = self.hide(pages.clone())
        {
            // Dropping the entries of all of them undoes what was done, markers too.
            self.view.forget(pages).map_err(Error::of("madvise"))?;
            let call = "UFFDIO_POISON";
            return Err(Error::Kernel { call, errno });
        }
        if contents == Contents::Dropped {
            // Poison markers are entries of the mapping and stay.
            if let Err(error) = self.discard(pages.clone()) {
                if to == Side::Private {
                    self.view.forget(pages).map_err(Error::of("madvise"))?;
                }
                return Err(error);
            }
        }
        match to {
            Side::Private => Ok(()),
            Side::Shared => self.view.forget(pages).map_err(Error::of("madvise")),
        }
    }

    fn receipt(&self) -> Receipt {
        let held = Protections::NO_CORE_DUMP | Protections::NO_FORK_SHARE;
        super::receipt(self.name(), held)
    }

    fn limits(&self) -> &'static [Limit] {
        &[
            Limit::AliasInMonitor,
            Limit::StalePin,
            Limit::DirectMap,
            Limit::UnwipedIfKilled,
        ]
    }

    fn guest_alias(&self) -> Option<*mut u8> {
        Some(self.alias.start())
    }

    fn discard(&self, pages: Range<usize>) -> Result<(), Error> {
        // By the view: where the alias is locked, the kernel refuses it there.
        self.view.remove(pages).map_err(Error::of("madvise"))
    }

    fn populate(&self, pages: Range<usize>, _side: Side) -> Result<(), Error> {
        self.alias.populate(pages).map_err(Error::of("madvise"))
    }

    fn lock(&self, pages: Range<usize>) -> Result<(), Error> {
        self.alias.lock(pages).map_err(Error::of("mlock2"))
    }

    fn bind(&self, pages: Range<usize>, _side: Side, nodes: u64) -> Result<(), Error> {
        self.alias.bind(pages, nodes).map_err(Error::of("mbind"))
    }

    fn place(&self, machine: &Arc<Machine>, start: u64) -> Result<Option<Slot>, Error> {
        super::place(&self.alias, machine, start)
    }
}
