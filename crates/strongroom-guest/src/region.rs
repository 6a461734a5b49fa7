//! A range of guest physical memory: whose its pages are, who holds them, and how they change sides.

use crate::backing::Backing;
use crate::dirty::Dirty;
use crate::futex::Futex;
use crate::kvm::{Machine, Slot};
use crate::mapping::{Mapping, View};
use crate::{Error, PAGE, ReadOnly, record};
use core::ops::Range;
use core::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use strongroom_core::Receipt;
use strongroom_core::page::{self, PageState, PageStates, Side};
use strongroom_sys::memory;

/// What becomes of a page's contents when it changes sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// They stay.
    Kept,
    /// Nobody wants them: the page is zero on the other side.
    Dropped,
}

/// Shared pages that one holder has alone.
pub type ExclusivePin<'r> = page::ExclusivePin<'r, Futex>;

/// How much is populated between two words about progress, in bytes.
const POPULATE_AT_ONCE: usize = 64 << 20;

/// What a SIGBUS is about ([`GuestRegion::sigbus`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sigbus {
    /// A page that is private: somebody touched it without a guard. The guest has it, and it is whole.
    Protected {
        /// Where in the region, in bytes.
        offset: usize,
    },
    /// A page whose memory failed: what was in it is lost.
    Failed {
        /// Where in the region, in bytes.
        offset: usize,
    },
}

/// Why a region was not written out.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A page is private: what is the guest's alone is in no snapshot.
    #[error("no snapshot: {0}")]
    Refused(#[from] Error),
    /// The writer failed.
    #[error("the snapshot cannot be written: {0}")]
    Write(#[from] vm_memory::VolatileMemoryError),
}

/// A range of guest physical memory.
///
/// Four bytes of state a page, which are there when the page is first held or converted.
#[derive(Debug)]
pub struct GuestRegion {
    start: u64,
    /// First: what it is of is the backing's.
    slot: OnceLock<Option<Slot>>,
    /// Before the backing: no state outlives the memory it is about.
    words: Mapping,
    dirty: Option<Dirty>,
    /// What the backing says, at hand.
    view: View,
    len: usize,
    initial: Side,
    backing: Box<dyn Backing>,
}

impl GuestRegion {
    /// The backing's memory at a guest physical address.
    ///
    /// # Errors
    /// Where the address is not that of a page, or the region would not end at an address; ENOMEM.
    pub fn new(start: u64, backing: impl Backing + 'static) -> Result<Self, Error> {
        let length = backing.len() as u64;
        if !start.is_multiple_of(PAGE as u64) {
            return Err(Error::Misaligned(start));
        }
        if length == 0 || start.checked_add(length - 1).is_none() {
            return Err(Error::NoRange { start, length });
        }
        let words = Mapping::sparse(backing.len() / PAGE * size_of::<AtomicU32>())?;
        let backing = Box::new(backing);
        // Sooner is cheaper: while the process has one thread, the kernel need not wait for others.
        record::ordered();
        Ok(Self {
            start,
            slot: OnceLock::new(),
            words,
            dirty: None,
            view: View(backing.host()),
            len: backing.len(),
            initial: backing.initial(),
            backing,
        })
    }

    /// The same, with a log of the pages that the monitor and its devices write to.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn with_dirty_log(mut self) -> Result<Self, Error> {
        self.dirty = Some(Dirty::new(self.len / PAGE)?);
        Ok(self)
    }

    /// Whether the page at an offset was written to, through this region or a slice of it, or became shared,
    /// since its mark was last taken. False without a log.
    pub fn is_dirty(&self, offset: usize) -> bool {
        self.dirty
            .as_ref()
            .is_some_and(|dirty| dirty.is(offset / PAGE))
    }

    /// The bytes of all pages of a range that were written to, as runs; their marks are gone. Nothing without a log.
    ///
    /// A write that goes on meanwhile is marked when it is done: a slice that is held may be marked again.
    pub fn take_dirty(&self, bytes: Range<usize>) -> Vec<Range<usize>> {
        let runs = self.dirty.as_ref().map(|dirty| dirty.take(touched(&bytes)));
        let bytes = |run: Range<usize>| run.start * PAGE..run.end * PAGE;
        runs.unwrap_or_default().into_iter().map(bytes).collect()
    }

    /// Marks the pages that bytes lie in.
    #[inline]
    pub(crate) fn mark_dirty(&self, start: usize, len: usize) {
        if let Some(dirty) = &self.dirty {
            dirty.mark(start, len);
        }
    }

    /// Where shared pages are reached.
    #[inline]
    pub(crate) fn host(&self) -> *mut u8 {
        self.view.0
    }

    /// Makes it the memory of a virtual machine, at its addresses, until it is dropped.
    ///
    /// # Errors
    /// [`Error::Placed`] where it is; those of [`Backing::place`].
    pub fn place(&self, machine: &Arc<Machine>) -> Result<(), Error> {
        if self.slot.get().is_some() {
            return Err(Error::Placed);
        }
        let slot = self.backing.place(machine, self.start)?;
        // Two threads at once: the kernel refused the second one's slot.
        self.slot.set(slot).map_err(|_| Error::Placed)
    }

    /// Its first guest physical address.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How long it is, in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes. It always has.
    pub fn is_empty(&self) -> bool {
        self.backing.is_empty()
    }

    /// How its pages are kept.
    pub fn backing(&self) -> &dyn Backing {
        self.backing.as_ref()
    }

    /// What its private pages are protected from, and why not from more.
    pub fn receipt(&self) -> Receipt {
        self.backing.receipt()
    }

    /// The states of its pages, numbered from 0.
    #[inline]
    pub(crate) fn states(&self) -> PageStates<'_, Futex> {
        let words = self.words.words(self.len / PAGE);
        PageStates::new(words, self.initial, Futex)
    }

    /// What the page at an offset is right now; `None` past the end.
    pub fn state(&self, offset: usize) -> Option<PageState> {
        self.states().state(offset / PAGE)
    }

    /// Holds pages exclusively: no guard, no other pin and no conversion until it is dropped.
    ///
    /// # Errors
    /// The first page that is not shared, or that somebody holds.
    pub fn pin(&self, bytes: Range<usize>) -> Result<ExclusivePin<'_>, Error> {
        Ok(self.states().pin(touched(&bytes))?)
    }

    /// Makes whole pages private or shared, all of them or none. To become private, they must be let
    /// go by all who hold them within `patience`. Those that are on that side already stay as
    /// they are, their contents, too.
    ///
    /// # Errors
    /// Misaligned bytes; the first page that is still held, and by how many; a page that is pinned,
    /// poisoned or being converted; what the kernel says. [`Error::Partly`] alone leaves anything changed.
    pub fn convert(
        &self,
        bytes: Range<usize>,
        to: Side,
        contents: Contents,
        patience: Duration,
    ) -> Result<(), Error> {
        let pages = whole(&bytes)?;
        let now = Instant::now();
        // A patience beyond the clock's end is a day's.
        let deadline = now
            .checked_add(patience)
            .unwrap_or(now + Duration::from_secs(86_400));
        let mut conversion = self.states().convert(pages.clone(), to, deadline)?;
        let runs: Vec<_> = conversion.changes().collect();
        for run in runs {
            if let Err(error) = self.backing.convert(run.clone(), to, contents) {
                let done = match error {
                    Error::Partly { done, .. } => run.start + done,
                    _ => run.start,
                };
                return Err(self.stop(&mut conversion, done - pages.start, error));
            }
            if to == Side::Shared || contents == Contents::Dropped {
                self.mark_dirty(run.start * PAGE, run.len() * PAGE);
            }
        }
        conversion.commit();
        Ok(())
    }

    /// Ends a conversion that failed after `done` pages: what was converted goes back, or else stays.
    fn stop(
        &self,
        conversion: &mut page::Conversion<'_, Futex>,
        done: usize,
        error: Error,
    ) -> Error {
        if done == 0 {
            return error;
        }
        conversion.commit_first(done);
        if matches!(error, Error::Hole { .. }) {
            return error;
        }
        let (call, errno) = error.call();
        Error::Partly { call, errno, done }
    }

    /// The first of these pages with those after it that are on the same side, as far as one can tell: somebody may
    /// be converting them.
    fn run(&self, pages: Range<usize>) -> (Range<usize>, Side) {
        let states = self.states();
        let private = |page| states.is_private(page);
        let first = private(pages.start);
        let end = pages.clone().find(|&page| private(page) != first);
        let side = if first { Side::Private } else { Side::Shared };
        (pages.start..end.unwrap_or(pages.end), side)
    }

    /// Drops the contents of whole pages, as a balloon does: they are zero when they are touched
    /// again, and take no memory until then. They stay private or shared.
    ///
    /// # Errors
    /// Misaligned bytes; the first page that somebody holds or converts: pages before it are discarded.
    pub fn discard(&self, bytes: Range<usize>) -> Result<(), Error> {
        let pages = whole(&bytes)?;
        let states = self.states();
        let mut at = pages.start;
        while at < pages.end {
            let (run, side) = self.run(at..pages.end);
            at = run.end;
            if side == Side::Private {
                // On that side already: nothing changes, and nobody else converts them meanwhile.
                let _taken = states.convert(run.clone(), Side::Private, Instant::now())?;
                self.backing.discard(run)?;
            } else {
                let _pin = states.pin(run.clone())?;
                self.backing.discard(run)?;
            }
        }
        Ok(())
    }

    /// Makes shared pages ones that the guest writes and this process, and every one that has their file, can only read. There
    /// is no way back: they stay so, and shared, as long as the region.
    ///
    /// This process itself keeps two ways: the guest's own mapping, where that is one of this process's, and a page
    /// beside them that is writable still, whose mapping mremap(2) makes longer. A process that is given the
    /// file afterwards has none.
    ///
    /// It closes all of the region's file to new writers, so that what is discarded later is wiped and takes memory on.
    ///
    /// # Errors
    /// Misaligned bytes; the first page that is not shared, or that somebody holds; [`Error::NotOffered`]; what the
    /// kernel says.
    pub fn read_only(&self, bytes: Range<usize>) -> Result<ReadOnly<'_>, Error> {
        let pages = whole(&bytes)?;
        let pin = self.states().pin(pages.clone())?;
        self.backing.read_only(pages)?;
        // For good.
        core::mem::forget(pin);
        Ok(ReadOnly::new(self, bytes))
    }

    /// Has whole pages be there before they are touched. `progress` hears how many bytes are done.
    ///
    /// # Errors
    /// Misaligned bytes, ENOMEM.
    pub fn populate(
        &self,
        bytes: Range<usize>,
        mut progress: impl FnMut(usize),
    ) -> Result<(), Error> {
        let pages = whole(&bytes)?;
        self.states().has(pages.clone())?;
        let mut at = pages.start;
        while at < pages.end {
            let end = pages.end.min(at + POPULATE_AT_ONCE / PAGE);
            let (run, side) = self.run(at..end);
            at = run.end;
            self.backing.populate(run, side)?;
            progress((at - pages.start) * PAGE);
        }
        Ok(())
    }

    /// Keeps whole pages in memory for good, from their first touch on.
    ///
    /// # Errors
    /// Misaligned bytes, ENOMEM past RLIMIT_MEMLOCK.
    pub fn lock(&self, bytes: Range<usize>) -> Result<(), Error> {
        let pages = whole(&bytes)?;
        self.states().has(pages.clone())?;
        self.backing.lock(pages)
    }

    /// Takes the memory of whole pages from these NUMA nodes, where bit n is node n. What is there
    /// already stays where it is. Conversions move nothing where a page is the same memory on both sides; where it is not, bound
    /// pages are there from now on, and those of the other side come from the same nodes.
    ///
    /// # Errors
    /// Misaligned bytes; EINVAL for nodes that are not there, and ENOSYS from a kernel that knows no nodes: some
    /// may be bound then.
    pub fn bind(&self, bytes: Range<usize>, nodes: u64) -> Result<(), Error> {
        let pages = whole(&bytes)?;
        self.states().has(pages.clone())?;
        let mut at = pages.start;
        while at < pages.end {
            let (run, side) = self.run(at..pages.end);
            at = run.end;
            self.backing.bind(run, side, nodes)?;
        }
        Ok(())
    }

    /// Writes all of the region out. While it is written, no page becomes private.
    ///
    /// # Errors
    /// The first page that is private: nothing is written then. What the writer says.
    pub fn snapshot(&self, out: &mut impl vm_memory::WriteVolatile) -> Result<(), SnapshotError> {
        let slice = self.slice(0..self.len())?;
        Ok(out.write_all_volatile(&slice)?)
    }

    /// What a SIGBUS at an address of this process is about, if it is one of the region's: a page that is protected, or
    /// one whose memory failed, which is [poisoned](PageState::Poisoned) from now on.
    ///
    /// The signal does not tell: where the kernel knows memory errors, it is BUS_MCEERR_AR for both. So the
    /// page is tried where the guest has it, by a system call that raises no signal. It can be called by
    /// the signal's handler: atomic operations, and one futex(2).
    pub fn sigbus(&self, address: *const u8) -> Option<Sigbus> {
        let within = |start: *mut u8| {
            let offset = (address as usize).checked_sub(start as usize)?;
            (offset < self.len).then_some(offset)
        };
        let alias = self.backing.guest_alias();
        let offset = within(self.host()).or_else(|| alias.and_then(within))?;
        let page = offset / PAGE * PAGE;
        let memory = alias.unwrap_or(self.host()).wrapping_add(page);
        if memory::touch(memory, PAGE).is_ok() {
            return Some(Sigbus::Protected { offset });
        }
        let _ = self.poison(offset);
        Some(Sigbus::Failed { offset })
    }

    /// Marks the page at an offset as lost to a memory error, which is told apart from protection.
    ///
    /// # Errors
    /// Past the end.
    pub fn poison(&self, offset: usize) -> Result<(), Error> {
        Ok(self.states().poison(offset / PAGE)?)
    }
}

impl Drop for GuestRegion {
    fn drop(&mut self) {
        self.states().free_slots();
    }
}

/// The pages that bytes lie in.
#[inline]
pub(crate) fn touched(bytes: &Range<usize>) -> Range<usize> {
    let start = bytes.start / PAGE;
    if bytes.is_empty() {
        start..start
    } else {
        start..bytes.end.div_ceil(PAGE)
    }
}

/// The pages that bytes are exactly.
fn whole(bytes: &Range<usize>) -> Result<Range<usize>, Error> {
    for edge in [bytes.start, bytes.end] {
        if !edge.is_multiple_of(PAGE) {
            return Err(Error::Misaligned(edge as u64));
        }
    }
    if bytes.is_empty() {
        return Err(Error::NoRange {
            start: bytes.start as u64,
            length: 0,
        });
    }
    Ok(bytes.start / PAGE..bytes.end / PAGE)
}
