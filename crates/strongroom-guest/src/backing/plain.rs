//! Ordinary memory of a regular virtual machine: everything is shared, for good (D4). A monitor that
//! misbehaves loses no more than its own hardening.

use super::file::File;
use super::{Backing, Limit};
use crate::kvm::{Machine, Slot};
use crate::mapping::Mapping;
use crate::{Contents, Error};
use core::ops::Range;
use rustix::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use strongroom_core::page::Side;
use strongroom_core::{Protections, Receipt};

/// Pages of a memfd, all of them shared.
#[derive(Debug)]
pub struct Plain {
    view: Mapping,
    /// What KVM is told.
    alias: Mapping,
    file: File,
}

impl Plain {
    /// Memory of `len` bytes; pages are there when they are touched.
    ///
    /// # Errors
    /// A length that is not whole pages; what memfd_create(2), ftruncate(2) and mmap(2) say.
    pub fn new(len: usize) -> Result<Self, Error> {
        super::whole_pages(len)?;
        let file = File::new(len)?;
        let (view, alias) = (file.map(len)?, file.map(len)?);
        Ok(Self { view, alias, file })
    }
}

impl Backing for Plain {
    fn name(&self) -> &'static str {
        "plain"
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

    fn convert(&self, _pages: Range<usize>, to: Side, _contents: Contents) -> Result<(), Error> {
        match to {
            Side::Shared => Ok(()),
            Side::Private => Err(Error::NeverPrivate(self.name())),
        }
    }

    fn receipt(&self) -> Receipt {
        super::receipt(self.name(), Protections::empty())
    }

    fn limits(&self) -> &'static [Limit] {
        &[Limit::NothingPrivate]
    }

    fn guest_alias(&self) -> Option<*mut u8> {
        Some(self.alias.start())
    }

    fn discard(&self, pages: Range<usize>) -> Result<(), Error> {
        self.file.discard(pages, &self.alias)
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

    fn read_only(&self, pages: Range<usize>) -> Result<(), Error> {
        self.file.end_writing()?;
        // Made after that: it cannot become writable.
        self.view.map_read_only(&self.file, pages)
    }

    fn place(&self, machine: &Arc<Machine>, start: u64) -> Result<Option<Slot>, Error> {
        super::place(&self.alias, machine, start)
    }

    fn shared_file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
