//! Two files of guest memory on an ordinary virtual machine (D6): a *private* guest_memfd, a touch of which
//! is SIGBUS in the monitor, and a *shared* one, which the monitor maps (Linux 6.18).
//!
//! At each of its addresses the guest sees one of the two. The addresses are covered by slots: runs of
//! pages of one side, none of which crosses a multiple of the chunk size. A conversion deletes the slots that it
//! touches and creates what comes out: a run is split, or, where slots become few, grows into its neighbours (D8).
//! Processors are held out meanwhile (see [`kvm`](crate::kvm)).
//!
//! State is per slot (E3): the kernel keeps none per page on an ordinary machine. A page that is private
//! has no memory on the shared side, so that a stale pin of the page as it was before holds memory that
//! is nobody's any more: what its owner reads are the bytes that were shared, and never what the guest writes
//! later. That is the answer to D1 here: the kernel frees a page that is pinned without a word,
//! and it does not matter.
//!
//! A touch of a private page through the view finds an empty page of the shared side. It is zero, it is
//! seen by nobody, and dropped when the page is shared the next time.

use super::moving::{self, Bound, Sides};
use super::{Backing, Limit};
use crate::kvm::{GuestMemfd, Held, Kind, Machine, Slot, Source};
use crate::mapping::Mapping;
use crate::{Contents, Error, PAGE};
use core::ops::Range;
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use strongroom_core::Receipt;
use strongroom_core::page::Side;
use strongroom_sys::Errno;

/// Pages of two guest_memfds.
#[derive(Debug)]
pub struct Pair {
    /// First: slots go before what they are of.
    runs: Mutex<BTreeMap<usize, Run>>,
    view: Mapping,
    /// What KVM is told is the address of private pages.
    nowhere: Mapping,
    shared: GuestMemfd,
    private: GuestMemfd,
    bound: Bound,
    initial: Side,
    /// In pages: a multiple of [`CHUNK`].
    chunk: usize,
    /// The guest physical address, where it has one.
    start: OnceLock<u64>,
    machine: Arc<Machine>,
}

/// Pages that the guest sees one side of, by one slot.
#[derive(Debug)]
struct Run {
    end: usize,
    side: Side,
    #[expect(dead_code, reason = "deleted when it is dropped")]
    slot: Slot,
}

/// The least chunk, in pages: what is converted at once.
const CHUNK: usize = (2 << 20) / PAGE;
/// How many chunks a region has at most.
const CHUNKS: usize = 4096;
/// While no more than one in so many slots is in use, runs stay split where they were: a page that goes back and forth
/// takes half of the calls then, and the guest keeps what KVM has mapped of the pages around it.
const SPLIT: usize = 8;

impl Pair {
    /// Memory of `len` bytes for a virtual machine, all of it on one side at first; pages are there
    /// when they are touched.
    ///
    /// # Errors
    /// A length that is not whole pages; what the kernel says: EINVAL before Linux 6.18, and where
    /// the machine is not an ordinary one. EOPNOTSUPP where a page that should be private can be read.
    pub fn new(machine: &Arc<Machine>, len: usize, initial: Side) -> Result<Self, Error> {
        super::whole_pages(len)?;
        let private = GuestMemfd::new(machine.vm(), len, Kind::Private)?;
        let shared = GuestMemfd::new(machine.vm(), len, Kind::Shared)?;
        let view = Mapping::shared(&shared, 0, len)?;
        if Mapping::shared(&private, 0, PAGE)?.readable()? {
            let (call, errno) = ("a private guest_memfd", Errno::OPNOTSUPP);
            return Err(Error::Kernel { call, errno });
        }
        let pages = len / PAGE;
        Ok(Self {
            runs: Mutex::new(BTreeMap::new()),
            view,
            nowhere: Mapping::nothing(len)?,
            shared,
            private,
            bound: Bound::default(),
            initial,
            chunk: pages.div_ceil(CHUNKS).next_multiple_of(CHUNK),
            start: OnceLock::new(),
            machine: Arc::clone(machine),
        })
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<usize, Run>> {
        // Only changed whole, or by `rebuild`, which tells what is missing.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunk_of(&self, page: usize) -> Range<usize> {
        let start = page / self.chunk * self.chunk;
        start..(start + self.chunk).min(self.len() / PAGE)
    }

    fn create(&self, pages: Range<usize>, side: Side) -> Result<Run, Error> {
        // KVM goes by the address instead of the file in places: where it emulates an instruction, and where its
        // shadow page tables look ahead (seen on Linux 6.18 without nested paging: of 512 private pages, 448 were
        // the shared ones when the address was the view's). So private pages have an address where there is nothing.
        let (file, address) = match side {
            Side::Private => (&self.private, &self.nowhere),
            Side::Shared => (&self.shared, &self.view),
        };
        let offset = pages.start * PAGE;
        let source = Source::File {
            file: file.as_fd(),
            offset: offset as u64,
            address: address.page(pages.start),
        };
        let start = self.address(pages.start);
        // SAFETY: both mappings live longer than the runs. What the guest writes there is used as raw
        // memory only.
        let slot = unsafe {
            self.machine
                .slots()
                .create(start, pages.len() * PAGE, source)
        }?;
        Ok(Run {
            end: pages.end,
            side,
            slot,
        })
    }

    /// Puts runs where there are none.
    fn build(
        &self,
        runs: &mut BTreeMap<usize, Run>,
        plan: &[(Range<usize>, Side)],
    ) -> Result<(), Error> {
        for (pages, side) in plan {
            let run = self.create(pages.clone(), *side)?;
            runs.insert(pages.start, run);
        }
        Ok(())
    }

    /// Makes a change, all of it or none, but for [`Error::Hole`].
    fn replace(&self, runs: &mut BTreeMap<usize, Run>, change: &Change) -> Result<(), Error> {
        for (run, _) in &change.before {
            runs.remove(&run.start);
        }
        let Err(error) = self.build(runs, &change.after) else {
            return Ok(());
        };
        // As it was before.
        for (run, _) in &change.after {
            runs.remove(&run.start);
        }
        self.build(runs, &change.before).map_err(|_| {
            let (call, errno) = error.call();
            let whole = change.whole();
            Error::Hole {
                call,
                errno,
                start: self.address(whole.start),
                length: (whole.len() * PAGE) as u64,
            }
        })?;
        Err(error)
    }

    /// What becomes of the runs that pages of one side are in, when the pages go to the other. With `join`
    /// they become one with the runs beside them that are on that side.
    fn change(
        &self,
        runs: &BTreeMap<usize, Run>,
        pages: &Range<usize>,
        to: Side,
        join: bool,
    ) -> Result<Change, Error> {
        let beside = usize::from(join);
        let before: Vec<_> = runs
            .range(self.chunk_of(pages.start))
            .filter(|(start, run)| **start < pages.end + beside && run.end + beside > pages.start)
            .map(|(start, run)| (*start..run.end, run.side))
            .collect();
        let whole = match (before.first(), before.last()) {
            (Some((first, _)), Some((last, _))) => first.start..last.end,
            _ => return Err(Error::NotPlaced),
        };
        let from = match to {
            Side::Private => Side::Shared,
            Side::Shared => Side::Private,
        };
        // Where the pages end, their run goes on; or a run of the other side begins, which they join.
        let side_at = |page: usize| {
            before
                .iter()
                .find(|(run, _)| run.contains(&page))
                .map(|(_, side)| *side)
        };
        let joins_left = pages.start > whole.start && side_at(pages.start - 1) == Some(to);
        let joins_right = pages.end < whole.end && side_at(pages.end) == Some(to);
        let left = if joins_left { whole.start } else { pages.start };
        let right = if joins_right { whole.end } else { pages.end };
        let mut after = vec![
            (whole.start..left, from),
            (left..right, to),
            (right..whole.end, from),
        ];
        after.retain(|(run, _)| !run.is_empty());
        Ok(Change { before, after })
    }

    /// Joins all runs that can be one.
    fn join_all(&self, runs: &mut BTreeMap<usize, Run>) -> Result<(), Error> {
        let mut changes: Vec<Change> = Vec::new();
        for (&start, run) in runs.iter() {
            let this = (start..run.end, run.side);
            let last = changes
                .last_mut()
                .map(|last| (&mut last.before, last.after.as_mut_slice()));
            match last {
                Some((before, [(whole, side)]))
                    if *side == run.side && whole.end == start && start % self.chunk != 0 =>
                {
                    whole.end = run.end;
                    before.push(this);
                }
                _ => changes.push(Change {
                    before: vec![this.clone()],
                    after: vec![this],
                }),
            }
        }
        changes.retain(|change| change.before.len() > 1);
        changes
            .iter()
            .try_for_each(|change| self.replace(runs, change))
    }
}

/// Runs that are replaced by others of the same pages.
struct Change {
    before: Vec<(Range<usize>, Side)>,
    after: Vec<(Range<usize>, Side)>,
}

impl Change {
    /// How many more slots there are after it.
    fn more(&self) -> usize {
        self.after.len().saturating_sub(self.before.len())
    }

    fn whole(&self) -> Range<usize> {
        match (self.before.first(), self.before.last()) {
            (Some((first, _)), Some((last, _))) => first.start..last.end,
            _ => 0..0,
        }
    }
}

impl Sides for Pair {
    fn view(&self) -> &Mapping {
        &self.view
    }

    fn address(&self, page: usize) -> u64 {
        // A region that has no place converts nothing.
        self.start.get().copied().unwrap_or_default() + (page * PAGE) as u64
    }

    fn flip(&self, _held: &mut Held, pages: Range<usize>, to: Side) -> Result<(), Error> {
        let mut runs = self.runs();
        let slots = self.machine.slots();
        let most = slots.most();
        let join = slots.count() >= most as usize / SPLIT;
        let mut change = self.change(&runs, &pages, to, join)?;
        if change.more() > slots.left() {
            self.join_all(&mut runs)?;
            change = self.change(&runs, &pages, to, true)?;
        }
        if change.more() > slots.left() {
            return Err(Error::SlotsExhausted { most });
        }
        self.replace(&mut runs, &change)
    }

    fn populate(&self, side: Side, pages: Range<usize>) -> Result<(), Error> {
        match side {
            Side::Private => self.private.populate(pages),
            Side::Shared => self.shared.populate(pages),
        }
    }

    fn bound(&self) -> &Bound {
        &self.bound
    }

    fn punch(&self, side: Side, pages: Range<usize>) -> Result<(), Error> {
        match side {
            Side::Private => self.private.punch(pages),
            Side::Shared => self.shared.punch(pages),
        }
    }

    fn resident(&self, side: Side, pages: Range<usize>) -> Vec<Range<usize>> {
        match side {
            Side::Private => self.private.resident(pages),
            Side::Shared => self.shared.resident(pages),
        }
    }
}

impl Backing for Pair {
    fn name(&self) -> &'static str {
        "pair"
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
        let mut runs = self.runs();
        self.start.set(start).map_err(|_| Error::Placed)?;
        let pages = self.len() / PAGE;
        let plan: Vec<_> = (0..pages)
            .step_by(self.chunk)
            .map(|page| (self.chunk_of(page), self.initial))
            .collect();
        self.build(&mut runs, &plan).inspect_err(|_| runs.clear())?;
        Ok(None)
    }

    fn receipt(&self) -> Receipt {
        super::guest_memfd_receipt(self.name())
    }

    fn limits(&self) -> &'static [Limit] {
        &[
            Limit::GuestControl,
            Limit::DirectMap,
            Limit::UnwipedIfKilled,
        ]
    }

    fn discard(&self, pages: Range<usize>) -> Result<(), Error> {
        moving::discard(self.name(), self, pages)
    }

    fn populate(&self, pages: Range<usize>, side: Side) -> Result<(), Error> {
        Sides::populate(self, side, pages)
    }

    fn lock(&self, _pages: Range<usize>) -> Result<(), Error> {
        // Both files are: the kernel marks their pages unevictable (virt/kvm/guest_memfd.c, Linux 6.8 and later).
        Ok(())
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

impl Drop for Pair {
    fn drop(&mut self) {
        let private: Vec<_> = self
            .runs()
            .iter()
            .filter(|(_, run)| run.side == Side::Private)
            .map(|(start, run)| *start..run.end)
            .collect();
        // Where a processor does not come out, or the copier fails, there is nobody to tell.
        let _ = moving::wipe_all(self, &self.machine, private);
    }
}
