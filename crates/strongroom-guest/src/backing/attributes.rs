//! Memory whose pages KVM itself knows as private or shared (KVM_SET_MEMORY_ATTRIBUTES): machines of the type
//! SW_PROTECTED today; confidential ones (SNP, TDX) have the same interface.
//!
//! Private pages are in a guest_memfd that cannot be mapped at all, shared ones in a memfd, and one slot is
//! both (D5): the attribute of a page tells which of the two the guest sees (E3: state per page, in the kernel,
//! which is the one that has to obey it). As in a [`Pair`](super::Pair), the two sides of a page are
//! different memory, so that a stale pin of the shared one never sees what the guest writes later (D1).

use super::file::File;
use super::moving::{self, Bound, Sides};
use super::{Backing, Limit};
use crate::kvm::{GuestMemfd, Held, Kind, Machine, Slot, Source, punch, resident};
use crate::mapping::Mapping;
use crate::{Contents, Error, PAGE};
use core::ops::Range;
use kvm_bindings::{
    KVM_CAP_MEMORY_ATTRIBUTES, KVM_MEMORY_ATTRIBUTE_PRIVATE, kvm_memory_attributes,
};
use rustix::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use strongroom_core::Receipt;
use strongroom_core::page::Side;
use strongroom_sys::Errno;

/// Pages of a guest_memfd and a memfd, and an attribute for each.
#[derive(Debug)]
pub struct Attributes {
    /// First: it goes before what it is of.
    slot: Mutex<Option<Slot>>,
    view: Mapping,
    shared: File,
    private: GuestMemfd,
    bound: Bound,
    initial: Side,
    start: OnceLock<u64>,
    machine: Arc<Machine>,
}

impl Attributes {
    /// Memory of `len` bytes for a virtual machine, all of it on one side at first; pages are there
    /// when they are touched.
    ///
    /// # Errors
    /// A length that is not whole pages; EOPNOTSUPP where the machine's type has no private pages; what
    /// the kernel says.
    pub fn new(machine: &Arc<Machine>, len: usize, initial: Side) -> Result<Self, Error> {
        super::whole_pages(len)?;
        let known = machine
            .vm()
            .check_extension_raw(KVM_CAP_MEMORY_ATTRIBUTES.into());
        if known & KVM_MEMORY_ATTRIBUTE_PRIVATE as i32 == 0 {
            let (call, errno) = ("KVM_CAP_MEMORY_ATTRIBUTES", Errno::OPNOTSUPP);
            return Err(Error::Kernel { call, errno });
        }
        let private = GuestMemfd::new(machine.vm(), len, Kind::Unmappable)?;
        let shared = File::new(len)?;
        let view = shared.map(len)?;
        Ok(Self {
            slot: Mutex::new(None),
            view,
            shared,
            private,
            bound: Bound::default(),
            initial,
            start: OnceLock::new(),
            machine: Arc::clone(machine),
        })
    }

    fn set(&self, pages: Range<usize>, to: Side) -> Result<(), Error> {
        let attributes = match to {
            Side::Private => u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE),
            Side::Shared => 0,
        };
        let wanted = kvm_memory_attributes {
            address: self.address(pages.start),
            size: (pages.len() * PAGE) as u64,
            attributes,
            flags: 0,
        };
        // All of them or none: the kernel gets what it needs before it changes anything.
        self.machine
            .vm()
            .set_memory_attributes(wanted)
            .map_err(Error::kvm("KVM_SET_MEMORY_ATTRIBUTES"))
    }
}

impl Sides for Attributes {
    fn view(&self) -> &Mapping {
        &self.view
    }

    fn address(&self, page: usize) -> u64 {
        // A region that has no place converts nothing.
        self.start.get().copied().unwrap_or_default() + (page * PAGE) as u64
    }

    fn flip(&self, _held: &mut Held, pages: Range<usize>, to: Side) -> Result<(), Error> {
        self.set(pages, to)
    }

    fn populate(&self, side: Side, pages: Range<usize>) -> Result<(), Error> {
        match side {
            Side::Private => self.private.populate(pages),
            // By the view, which may be locked.
            Side::Shared => self.view.populate(pages).map_err(Error::of("madvise")),
        }
    }

    fn bound(&self) -> &Bound {
        &self.bound
    }

    fn punch(&self, side: Side, pages: Range<usize>) -> Result<(), Error> {
        match side {
            Side::Private => self.private.punch(pages),
            Side::Shared => punch(&self.shared, pages),
        }
    }

    fn resident(&self, side: Side, pages: Range<usize>) -> Vec<Range<usize>> {
        match side {
            Side::Private => self.private.resident(pages),
            Side::Shared => resident(&self.shared, pages),
        }
    }
}

impl Backing for Attributes {
    fn name(&self) -> &'static str {
        "attributes"
    }

    fn host(&self) -> *mut u8 {
        self.view.start()
    }

    fn len(&self) -> usize {
        self.view.len()
    }

    fn initial(&self) -> Side {
        self.initial
    }

    fn convert(&self, pages: Range<usize>, to: Side, contents: Contents) -> Result<(), Error> {
        if self.start.get().is_none() {
            return Err(Error::NotPlaced);
        }
        moving::convert(self, &self.machine, pages, to, contents)
    }

    fn place(&self, machine: &Arc<Machine>, start: u64) -> Result<Option<Slot>, Error> {
        if !Arc::ptr_eq(machine, &self.machine) {
            return Err(Error::ForeignMachine);
        }
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        self.start.set(start).map_err(|_| Error::Placed)?;
        let source = Source::File {
            file: self.private.as_fd(),
            offset: 0,
            address: self.view.start(),
        };
        // SAFETY: the view lives longer than the slot; it is used as raw memory only.
        let created = unsafe { machine.slots().create(start, self.len(), source) }?;
        self.set(0..self.len() / PAGE, self.initial)?;
        *slot = Some(created);
        Ok(None)
    }

    fn receipt(&self) -> Receipt {
        super::guest_memfd_receipt(self.name())
    }

    fn limits(&self) -> &'static [Limit] {
        &[
            Limit::GuestControl,
            Limit::Emulated,
            Limit::DirectMap,
            Limit::UnwipedIfKilled,
        ]
    }

    fn converts_by_access(&self) -> bool {
        true
    }

    fn discard(&self, pages: Range<usize>) -> Result<(), Error> {
        moving::discard(self.name(), self, pages)
    }

    fn populate(&self, pages: Range<usize>, side: Side) -> Result<(), Error> {
        Sides::populate(self, side, pages)
    }

    fn lock(&self, pages: Range<usize>) -> Result<(), Error> {
        // Private pages are: the kernel marks those of a guest_memfd unevictable (virt/kvm/guest_memfd.c).
        self.view.lock(pages).map_err(Error::of("mlock2"))
    }

    fn bind(&self, pages: Range<usize>, side: Side, nodes: u64) -> Result<(), Error> {
        moving::bind(self, side, pages, nodes)
    }

    fn shared_file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.as_fd())
    }

    fn private_file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.private.as_fd())
    }

    fn guest_alias(&self) -> Option<*mut u8> {
        None
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // Pages of the private side that the guest sees; those that it does not see were wiped.
        let private = if self.start.get().is_some() {
            self.private.resident(0..self.len() / PAGE)
        } else {
            Vec::new()
        };
        let _ = moving::wipe_all(self, &self.machine, private);
    }
}
