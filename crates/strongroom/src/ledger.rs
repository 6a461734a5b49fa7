//! The ledger: every range outside heaps that a keeper holds, in address order, and the ranges
//! of heaps whose access their user changed.
//!
//! A fork walks it, and whoever unmaps, protects or advises a part of such a range
//! keeps it true. It lies in ordinary memory: addresses are no secret.

use crate::keeper::{Inheritance, KEEPERS, Keeper};
use crate::policy::ForkPolicy;
use core::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use strongroom_core::Reason;
use strongroom_sys::maps::{self, Mapping};
use strongroom_sys::memory::{self, Place};
use strongroom_sys::{Errno, PAGE};

/// What a forked child finds at a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// Its own snapshot.
    Copy,
    /// Zero pages.
    Zeros,
    /// Nothing is mapped there.
    Nothing,
    /// fork fails.
    Deny,
}

impl From<ForkPolicy> for Child {
    fn from(policy: ForkPolicy) -> Self {
        match policy {
            ForkPolicy::Copy => Child::Copy,
            ForkPolicy::Drop => Child::Zeros,
            ForkPolicy::Deny => Child::Deny,
        }
    }
}

/// What keeps a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This keeper, for the range alone.
    Keeper(&'static dyn Keeper),
    /// A heap, kept by this one, which sees to its pages itself; the entry only notes their access.
    Heap(&'static dyn Keeper),
}

impl Holder {
    /// The keeper.
    pub const fn keeper(self) -> &'static dyn Keeper {
        match self {
            Holder::Keeper(keeper) | Holder::Heap(keeper) => keeper,
        }
    }

    /// What a child can have of a range that has its keeper for itself.
    pub(crate) fn inheritance(self) -> Option<Inheritance> {
        match self {
            Holder::Keeper(keeper) => Some(keeper.inheritance()),
            Holder::Heap(_) => None,
        }
    }
}

/// A range that a keeper holds. Addresses are page-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First address.
    pub start: usize,
    /// First address past it.
    pub end: usize,
    /// PROT_ bits that its user set.
    pub access: u32,
    /// What keeps it.
    pub holder: Holder,
    /// What a forked child finds.
    pub child: Child,
}

impl Entry {
    /// Its length in bytes.
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether a mapping can be what the entry was made for.
    fn describes(&self, mapping: &Mapping<'_>) -> bool {
        match self.holder {
            Holder::Keeper(keeper) => keeper.made(mapping),
            // One keeper may have stood in for another.
            Holder::Heap(_) => KEEPERS.into_iter().any(|keeper| keeper.made(mapping)),
        }
    }

    /// Whether it has no length.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

/// The ranges, sorted, in a mapping that grows.
pub struct Ledger {
    table: *mut Entry,
    len: usize,
    capacity: usize,
    /// Whether this is the process's ledger, whose length [`is_empty`] tells.
    published: bool,
}

// SAFETY: the table is a mapping, which belongs to no thread; the mutex guards it.
unsafe impl Send for Ledger {}

static LEDGER: Mutex<Ledger> = Mutex::new(Ledger {
    published: true,
    ..Ledger::new()
});
static LEN: AtomicUsize = AtomicUsize::new(0);

/// The ledger, locked.
pub fn open() -> MutexGuard<'static, Ledger> {
    // Nothing panics while it holds the lock.
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether there is any range, without taking the lock: for wrappers of calls that are made
/// often and seldom concern one.
pub fn is_empty() -> bool {
    LEN.load(Ordering::Relaxed) == 0
}

impl Ledger {
    /// An empty one, of its owner's alone.
    pub const fn new() -> Self {
        Self {
            table: core::ptr::null_mut(),
            len: 0,
            capacity: 0,
            published: false,
        }
    }

    /// The ranges, in address order.
    pub fn entries(&self) -> &[Entry] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the first `len` entries of the table are initialised and ours.
        unsafe { core::slice::from_raw_parts(self.table, self.len) }
    }

    fn entries_mut(&mut self) -> &mut [Entry] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: as in `entries`, and `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.table, self.len) }
    }

    /// The entries that touch the range.
    pub fn touching(&self, range: &Range<usize>) -> &[Entry] {
        &self.entries()[self.positions(range)]
    }

    /// Where in the table the entries are that touch the range.
    fn positions(&self, range: &Range<usize>) -> Range<usize> {
        let from = self.entries().partition_point(|e| e.end <= range.start);
        let to = self.entries().partition_point(|e| e.start < range.end);
        from..to.max(from)
    }

    /// The parts of the range that no entry touches.
    pub fn gaps(&self, range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut at = range.start;
        let end = range.end;
        self.touching(range)
            .iter()
            .map(|e| (e.start, e.end))
            .chain([(end, end)])
            .filter_map(move |(start, next)| {
                let gap = at..start.min(end);
                at = next;
                (!gap.is_empty()).then_some(gap)
            })
    }

    /// Drops what is no longer mapped as the ledger says: libc unmaps and trims its own memory by
    /// calls that nobody sees. Reads /proc/self/maps once, and once more for each range dropped.
    ///
    /// # Errors
    /// Those of reading the file; out of memory.
    pub fn reconcile(&mut self) -> Result<(), Reason> {
        while !self.entries().is_empty() {
            let stale = self
                .first_stale()
                .map_err(|errno| crate::keeper::refusal("open", errno, 0))?;
            match stale {
                Some(range) => self.cut(&range)?,
                None => break,
            }
        }
        Ok(())
    }

    /// As [`Ledger::reconcile`], for the entries that touch the range alone. To be called before
    /// anything is written there on the ledger's word.
    ///
    /// # Errors
    /// As for [`Ledger::reconcile`].
    pub fn reconcile_within(&mut self, range: &Range<usize>) -> Result<(), Reason> {
        let mut at = range.start;
        while let Some(&entry) = self.touching(&(at..range.end)).first() {
            let from = at.max(entry.start);
            let (part, right) = maps::covering_or_next(from, |mapping| {
                if mapping.start > from {
                    (from..mapping.start.min(entry.end), false)
                } else {
                    (from..mapping.end.min(entry.end), entry.describes(mapping))
                }
            })
            .map_err(|errno| crate::keeper::refusal("open", errno, 0))?
            .unwrap_or((from..entry.end, false));
            if !right {
                self.cut(&part)?;
            }
            at = part.end;
        }
        Ok(())
    }

    fn first_stale(&self) -> Result<Option<Range<usize>>, Errno> {
        let entries = self.entries();
        let Some(first) = entries.first() else {
            return Ok(None);
        };
        let (mut index, mut at, mut stale) = (0, first.start, None);
        maps::each(|mapping| {
            while let Some(entry) = entries.get(index).filter(|_| mapping.end > at) {
                let as_noted = entry.describes(mapping);
                let wrong = if mapping.start > at {
                    mapping.start
                } else {
                    mapping.end
                };
                if mapping.start > at || !as_noted {
                    stale = Some(at..wrong.min(entry.end));
                    return false;
                }
                if mapping.end < entry.end {
                    at = mapping.end;
                    return true;
                }
                index += 1;
                at = entries.get(index).map_or(usize::MAX, |next| next.start);
            }
            true
        })?;
        // Past the last mapping.
        let rest = entries.get(index).map(|entry| at..entry.end);
        Ok(stale.or(rest))
    }

    /// Makes room for `more` entries: every change below needs at most two.
    ///
    /// # Errors
    /// Out of memory.
    pub fn make_room(&mut self, more: usize) -> Result<(), Reason> {
        if self.len + more <= self.capacity {
            return Ok(());
        }
        let old_bytes = self.capacity * size_of::<Entry>();
        let bytes = (old_bytes * 2)
            .max((self.len + more) * size_of::<Entry>())
            .max(4 * PAGE)
            .next_multiple_of(PAGE);
        // SAFETY: a new mapping replaces nothing.
        let table = unsafe { memory::map_private(Place::Anywhere, bytes) }
            .map_err(|errno| crate::keeper::refusal("mmap", errno, bytes))?
            .cast::<Entry>();
        if self.capacity > 0 {
            // SAFETY: both tables hold `len` entries, and the old one is ours alone.
            unsafe {
                core::ptr::copy_nonoverlapping(self.table, table, self.len);
                let _ = memory::unmap(self.table.cast(), old_bytes.next_multiple_of(PAGE));
            }
        }
        self.table = table;
        self.capacity = bytes / size_of::<Entry>();
        Ok(())
    }

    fn set_len(&mut self, len: usize) {
        self.len = len;
        if self.published {
            LEN.store(len, Ordering::Relaxed);
        }
    }

    /// Adds a range, in place of whatever the ledger had there.
    ///
    /// # Errors
    /// Out of memory; nothing changes then.
    pub fn insert(&mut self, entry: Entry) -> Result<(), Reason> {
        self.make_room(3)?;
        self.cut(&(entry.start..entry.end))?;
        let at = self.entries().partition_point(|e| e.start < entry.start);
        let len = self.len;
        self.set_len(len + 1);
        let entries = self.entries_mut();
        entries.copy_within(at..len, at + 1);
        entries[at] = entry;
        Ok(())
    }

    /// Removes the range: entries at its edges are shortened or split.
    ///
    /// # Errors
    /// Out of memory; nothing changes then.
    pub fn cut(&mut self, range: &Range<usize>) -> Result<(), Reason> {
        self.split(range)?;
        let gone = self.positions(range);
        self.entries_mut().copy_within(gone.end.., gone.start);
        self.set_len(self.len - gone.len());
        Ok(())
    }

    /// Changes the entries inside the range, which is split off its neighbours.
    ///
    /// # Errors
    /// Out of memory; nothing changes then.
    pub fn update(
        &mut self,
        range: &Range<usize>,
        mut change: impl FnMut(&mut Entry),
    ) -> Result<(), Reason> {
        self.split(range)?;
        let inside = self.positions(range);
        self.entries_mut()[inside].iter_mut().for_each(&mut change);
        Ok(())
    }

    /// Splits the entries that reach over the range's edges.
    fn split(&mut self, range: &Range<usize>) -> Result<(), Reason> {
        self.make_room(2)?;
        for edge in [range.start, range.end] {
            let at = self.entries().partition_point(|e| e.end <= edge);
            let len = self.len;
            if let Some(&entry) = self.entries().get(at).filter(|e| e.start < edge) {
                self.set_len(len + 1);
                let entries = self.entries_mut();
                entries.copy_within(at..len, at + 1);
                entries[at] = Entry { end: edge, ..entry };
                entries[at + 1] = Entry {
                    start: edge,
                    ..entry
                };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: usize, end: usize) -> Entry {
        Entry {
            start,
            end,
            access: 3,
            holder: Holder::Keeper(crate::keeper::SECRETMEM),
            child: Child::Copy,
        }
    }

    fn ranges(ledger: &Ledger) -> Vec<(usize, usize)> {
        ledger.entries().iter().map(|e| (e.start, e.end)).collect()
    }

    #[test]
    fn cuts_split_and_updates_stay_inside() {
        let mut ledger = Ledger::new();
        ledger.insert(entry(100, 200)).unwrap();
        ledger.insert(entry(10, 20)).unwrap();
        ledger.insert(entry(200, 300)).unwrap();
        assert_eq!(ranges(&ledger), [(10, 20), (100, 200), (200, 300)]);
        ledger.cut(&(150..160)).unwrap();
        assert_eq!(
            ranges(&ledger),
            [(10, 20), (100, 150), (160, 200), (200, 300)]
        );
        ledger.cut(&(0..110)).unwrap();
        assert_eq!(ranges(&ledger), [(110, 150), (160, 200), (200, 300)]);
        ledger.update(&(190..210), |e| e.access = 0).unwrap();
        let open: usize = ledger
            .entries()
            .iter()
            .filter(|e| e.access == 3)
            .map(Entry::len)
            .sum();
        assert_eq!(open, 40 + 30 + 90);
        ledger.insert(entry(0, 1000)).unwrap();
        assert_eq!(ranges(&ledger), [(0, 1000)]);
        assert_eq!(ledger.touching(&(1000..2000)), []);
        assert_eq!(ledger.touching(&(999..2000)).len(), 1);
        for page in 0..1000 {
            ledger
                .insert(entry(2000 + page * 2, 2001 + page * 2))
                .unwrap();
        }
        assert_eq!(ledger.entries().len(), 1001);
        assert!(ledger.entries().is_sorted_by_key(|e| e.start));
    }

    #[test]
    fn gaps_are_what_lies_between() {
        let mut ledger = Ledger::new();
        ledger.insert(entry(10, 20)).unwrap();
        ledger.insert(entry(30, 40)).unwrap();
        let gaps = |range: Range<usize>| ledger.gaps(&range).collect::<Vec<_>>();
        assert_eq!(gaps(0..50), [0..10, 20..30, 40..50]);
        assert_eq!(gaps(12..35), vec![20..30; 1]);
        assert_eq!(gaps(12..18), []);
        assert_eq!(gaps(41..42), vec![41..42; 1]);
    }

    #[test]
    fn what_was_unmapped_behind_its_back_is_dropped() {
        let mut ledger = Ledger::new();
        let len = 4 * PAGE;
        // SAFETY: new mappings of this test's own.
        let start = unsafe { crate::keeper::LOCKED.map(Place::Anywhere, len) }.unwrap() as usize;
        let locked = Entry {
            holder: Holder::Keeper(crate::keeper::LOCKED),
            ..entry(start, start + len)
        };
        ledger.insert(locked).unwrap();
        ledger.reconcile().unwrap();
        assert_eq!(ranges(&ledger), [(start, start + len)]);
        ledger.reconcile_within(&(start..start + len)).unwrap();
        assert_eq!(ranges(&ledger), [(start, start + len)]);
        // SAFETY: this test's own mapping.
        unsafe { memory::reserve(Place::Over((start + PAGE) as *mut u8), PAGE) }.unwrap();
        // SAFETY: as above.
        unsafe { memory::unmap((start + 2 * PAGE) as *mut u8, PAGE) }.unwrap();
        ledger.reconcile().unwrap();
        assert_eq!(
            ranges(&ledger),
            [(start, start + 2 * PAGE), (start + 3 * PAGE, start + len)]
        );
        ledger
            .update(&(start..start + PAGE), |e| {
                e.holder = Holder::Keeper(crate::keeper::SECRETMEM)
            })
            .unwrap();
        ledger.insert(entry(16, 32)).unwrap();
        ledger.reconcile().unwrap();
        assert_eq!(
            ranges(&ledger),
            [
                (start + PAGE, start + 2 * PAGE),
                (start + 3 * PAGE, start + len)
            ]
        );
        // SAFETY: as above.
        unsafe { memory::unmap(start as *mut u8, len) }.unwrap();
        ledger
            .reconcile_within(&(start + PAGE..start + PAGE + 1))
            .unwrap();
        assert!(!ranges(&ledger).is_empty());
        ledger.reconcile_within(&(start..start + len)).unwrap();
        assert_eq!(ranges(&ledger), []);
    }
}
