//! Backings: how a region's pages are kept. One file each.

mod attributes;
mod choice;
mod device;
mod driver;
mod driver_poison;
mod file;
mod limit;
mod moving;
mod pair;
mod plain;
mod poison;

pub use attributes::Attributes;
pub use choice::{Choice, best};
pub use driver::Driver;
pub use driver_poison::DriverPoison;
pub use limit::Limit;
pub use pair::Pair;
pub use plain::Plain;
pub use poison::Poison;

use crate::kvm::{Machine, Slot, Source};
use crate::mapping::Mapping;
use crate::{Contents, Error, PAGE};
use core::fmt;
use core::ops::Range;
use rustix::fd::BorrowedFd;
use std::sync::Arc;
use strongroom_core::page::Side;
use strongroom_core::{Protections, Reason, Receipt};

/// How the pages of a region are kept.
///
/// The region calls [`convert`](Self::convert) for runs of pages that nobody holds and no other
/// thread converts; different runs may be converted by different threads at once. Pages are numbered from
/// 0, and all runs lie within the region.
pub trait Backing: Send + Sync + fmt::Debug {
    /// Its name in receipts and errors.
    fn name(&self) -> &'static str;

    /// Where the monitor reaches shared pages: all of the region, in one piece, for as long
    /// as the backing lives. What a touch of a private page does there is the backing's affair; nobody
    /// who holds a guard makes one.
    fn host(&self) -> *mut u8;

    /// How long the region is, in bytes.
    fn len(&self) -> usize;

    /// Whether the region has no bytes. It always has.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What pages are at first.
    fn initial(&self) -> Side;

    /// Makes pages private or shared.
    ///
    /// # Errors
    /// [`Error::Partly`] where the kernel failed in the middle and what was done could not be taken
    /// back; any other where all pages are as they were.
    fn convert(&self, pages: Range<usize>, to: Side, contents: Contents) -> Result<(), Error>;

    /// What a private page is protected from, and why not from more.
    fn receipt(&self) -> Receipt;

    /// Who can reach a private page all the same.
    fn limits(&self) -> &'static [Limit];

    /// Where KVM finds the guest's memory, for a slot by address; none where it has its own file.
    fn guest_alias(&self) -> Option<*mut u8>;

    /// Drops the contents of pages, which nobody holds: they are zero when they are touched again, and
    /// no memory until then. Their sides stay.
    ///
    /// # Errors
    /// What the kernel says; contents may be gone in part then.
    fn discard(&self, pages: Range<usize>) -> Result<(), Error>;

    /// Has pages be there before they are touched, of the side that they are on.
    ///
    /// # Errors
    /// ENOMEM and whatever else the kernel says; some may be there then.
    fn populate(&self, _pages: Range<usize>, _side: Side) -> Result<(), Error> {
        let backing = self.name();
        let what = "pages that are there before they are touched";
        Err(Error::NotOffered { backing, what })
    }

    /// Keeps pages in memory for good, those that are not there yet from their first touch on.
    ///
    /// # Errors
    /// ENOMEM past RLIMIT_MEMLOCK.
    fn lock(&self, _pages: Range<usize>) -> Result<(), Error> {
        let backing = self.name();
        let what = "locked pages: they are never swapped";
        Err(Error::NotOffered { backing, what })
    }

    /// Takes the memory of pages from these NUMA nodes alone, where bit n is node n. It does not
    /// move what is there already.
    ///
    /// # Errors
    /// EINVAL for nodes that there are not; ENOSYS from a kernel that knows no nodes.
    fn bind(&self, _pages: Range<usize>, _side: Side, _nodes: u64) -> Result<(), Error> {
        let backing = self.name();
        let what = "a NUMA policy";
        Err(Error::NotOffered { backing, what })
    }

    /// Makes shared pages ones that this process can only read, and all who have its file: there is no way back. The guest
    /// writes them still. Nobody holds them.
    ///
    /// # Errors
    /// What the kernel says; the file may be closed to new writers then.
    fn read_only(&self, _pages: Range<usize>) -> Result<(), Error> {
        let backing = self.name();
        let what = "pages that the guest alone writes";
        Err(Error::NotOffered { backing, what })
    }

    /// Makes the region the guest's memory at an address. The slot that comes back is dropped before
    /// the backing; where none does, the backing keeps its own.
    ///
    /// # Errors
    /// [`Error::ForeignMachine`] where the backing was made for another one, [`Error::Placed`]; those of
    /// [`Slots::create`](crate::kvm::Slots::create).
    fn place(&self, machine: &Arc<Machine>, start: u64) -> Result<Option<Slot>, Error>;

    /// A file of the whole region's length in which shared pages are and private ones never, for device
    /// processes that map it themselves (vhost-user). None where a page is the same memory on both sides: whoever had
    /// its file would have the private pages.
    ///
    /// Guards know nothing of another process's mapping. A conversion does not wait for it: what a device
    /// process reads of a page that has become private is the page as it was, or zeros.
    fn shared_file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The file of private pages, where they have one of their own.
    fn private_file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether KVM knows which pages are private, so that an access to the wrong side of one is the guest's
    /// wish to convert it.
    fn converts_by_access(&self) -> bool {
        false
    }
}

impl Backing for Box<dyn Backing> {
    fn name(&self) -> &'static str {
        self.as_ref().name()
    }

    fn host(&self) -> *mut u8 {
        self.as_ref().host()
    }

    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn initial(&self) -> Side {
        self.as_ref().initial()
    }

    fn convert(&self, pages: Range<usize>, to: Side, contents: Contents) -> Result<(), Error> {
        self.as_ref().convert(pages, to, contents)
    }

    fn receipt(&self) -> Receipt {
        self.as_ref().receipt()
    }

    fn limits(&self) -> &'static [Limit] {
        self.as_ref().limits()
    }

    fn guest_alias(&self) -> Option<*mut u8> {
        self.as_ref().guest_alias()
    }

    fn discard(&self, pages: Range<usize>) -> Result<(), Error> {
        self.as_ref().discard(pages)
    }

    fn populate(&self, pages: Range<usize>, side: Side) -> Result<(), Error> {
        self.as_ref().populate(pages, side)
    }

    fn lock(&self, pages: Range<usize>) -> Result<(), Error> {
        self.as_ref().lock(pages)
    }

    fn bind(&self, pages: Range<usize>, side: Side, nodes: u64) -> Result<(), Error> {
        self.as_ref().bind(pages, side, nodes)
    }

    fn read_only(&self, pages: Range<usize>) -> Result<(), Error> {
        self.as_ref().read_only(pages)
    }

    fn place(&self, machine: &Arc<Machine>, start: u64) -> Result<Option<Slot>, Error> {
        self.as_ref().place(machine, start)
    }

    fn shared_file(&self) -> Option<BorrowedFd<'_>> {
        self.as_ref().shared_file()
    }

    fn private_file(&self) -> Option<BorrowedFd<'_>> {
        self.as_ref().private_file()
    }

    fn converts_by_access(&self) -> bool {
        self.as_ref().converts_by_access()
    }
}

/// The receipt of a backing, by what its private pages are protected from. NoVmm no backing holds: whoever
/// runs a machine can give it a processor and code that copies its pages, wherever they lie
/// (`strongroom attack`: vmm-steer).
fn receipt(keeper: &'static str, held: Protections) -> Receipt {
    let asked = Protections::NO_SWAP
        | Protections::NO_CORE_DUMP
        | Protections::NO_FORK_SHARE
        | Protections::NO_FD_SPILL
        | Protections::NO_PEEK
        | Protections::NO_PIN
        | Protections::NO_DIRECT_MAP
        | Protections::NO_VMM;
    Receipt::new(asked)
        .lack(asked, Reason::KeeperLacks { keeper })
        .lack(Protections::NO_VMM, Reason::GuestSteered)
        .hold(held)
}

/// The receipt of a backing whose private pages are in a guest_memfd. No process has them mapped, and none can
/// map, read or pin them, whatever descriptors it has; the kernel does not swap them. They stand in the
/// direct map.
fn guest_memfd_receipt(keeper: &'static str) -> Receipt {
    let held = Protections::NO_SWAP
        | Protections::NO_CORE_DUMP
        | Protections::NO_FORK_SHARE
        | Protections::NO_FD_SPILL
        | Protections::NO_PEEK
        | Protections::NO_PIN;
    receipt(keeper, held)
}

/// A slot by the address of a mapping that is a backing's: [`Backing::place`].
fn place(memory: &Mapping, machine: &Arc<Machine>, start: u64) -> Result<Option<Slot>, Error> {
    let source = Source::Address(memory.start());
    // SAFETY: the mapping is the backing's, which outlives the slot, and is used as raw memory only.
    let slot = unsafe { machine.slots().create(start, memory.len(), source) }?;
    Ok(Some(slot))
}

/// Whether a length is whole pages, and at least one.
fn whole_pages(len: usize) -> Result<(), Error> {
    match len {
        0 => Err(Error::NoRange {
            start: 0,
            length: 0,
        }),
        _ if len.is_multiple_of(PAGE) => Ok(()),
        _ => Err(Error::Misaligned(len as u64)),
    }
}
