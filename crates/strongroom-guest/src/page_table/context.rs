//! One address space.

use super::entry::{Access, ENTRIES, Entry, ROOT, VIRTUAL_BITS, index, span};
use super::extent::{Extent, Extents, Shape};
use super::tables::{Page, Shared, Tables};
use super::walk::canonical;
use super::{ContextId, Error, Sharing};
use crate::PAGE;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use vm_memory::{Bytes, GuestMemoryError};

/// An address space, whose tables go back to the pool when it is dropped. No processor may
/// run it then.
#[derive(Debug)]
pub struct Context<'t, 'g> {
    tables: &'t Tables<'g>,
    id: ContextId,
    extents: Extents,
    /// The pool's page of each table: by level, and by the first address that it maps.
    pages: BTreeMap<(u8, u64), usize>,
    stale: Stale,
    /// Whether a processor may run it.
    ran: AtomicBool,
}

/// What a processor may still have cached.
#[derive(Debug, Default)]
struct Stale {
    pages: Vec<usize>,
    memory: Vec<(Range<u64>, Sharing)>,
}

/// Pages that lie next to each other, virtually and physically, with the same rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first virtual address.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
    /// The first physical address.
    pub physical: u64,
    /// What an access may be.
    pub access: Access,
    /// In how many contexts.
    pub sharing: Sharing,
}

/// An entry in guest memory that is not what it was set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The entry's physical address.
    pub physical: u64,
    /// What it was set to.
    pub expected: u64,
    /// What it is.
    pub found: u64,
}

/// All addresses that tables translate.
const ALL: Range<u64> = 0..1 << VIRTUAL_BITS;

/// Everything that a change needs, before it is begun.
struct Hands<'g> {
    /// Tables that change.
    held: BTreeMap<usize, Page<'g>>,
    /// New tables.
    fresh: Vec<(usize, Page<'g>)>,
}

/// What a change will need.
#[derive(Default)]
struct Needs {
    held: BTreeSet<usize>,
    fresh: usize,
}

impl<'t, 'g> Context<'t, 'g> {
    pub(super) fn new(tables: &'t Tables<'g>) -> Result<Self, Error> {
        let mut shared = tables.shared();
        let mut fresh = Self::take(tables, &mut shared, 1)?;
        let id = shared.next_id();
        drop(shared);
        let mut pages = BTreeMap::new();
        if let Some((page, slice)) = fresh.pop() {
            fill(&slice, &[0; ENTRIES as usize]);
            pages.insert((ROOT, 0), page);
        }
        Ok(Self {
            tables,
            id,
            extents: Extents::default(),
            pages,
            stale: Stale::default(),
            ran: AtomicBool::new(false),
        })
    }

    /// Which one it is.
    pub fn id(&self) -> ContextId {
        self.id
    }

    /// The physical address of its root, which goes into CR3. From here on a processor may run it.
    pub fn root(&self) -> u64 {
        self.ran.store(true, Ordering::Relaxed);
        self.tables.physical(self.root_page())
    }

    /// What it maps, in the order of addresses.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.extents.iter().map(|(at, extent)| Run {
            start: sign_extended(at),
            length: extent.end - at,
            physical: extent.physical,
            access: extent.access,
            sharing: extent.sharing,
        })
    }

    /// How many tables it has, a page each.
    pub fn tables(&self) -> usize {
        self.pages.len()
    }

    /// About how many bytes of the monitor's memory it has.
    pub fn state_bytes(&self) -> usize {
        let extents = self.extents.iter().count() * size_of::<(u64, Extent)>();
        let pages = self.pages.len() * size_of::<((u8, u64), usize)>();
        size_of::<Self>() + extents + pages
    }

    /// Maps physical memory at a virtual address where nothing is mapped.
    ///
    /// Entries are as large as alignment and the processor allow.
    ///
    /// # Errors
    /// As [`Error`] says; nothing is changed then.
    pub fn map(
        &mut self,
        at: u64,
        memory: Range<u64>,
        access: Access,
        sharing: Sharing,
    ) -> Result<(), Error> {
        let length = memory.end.saturating_sub(memory.start);
        let range = addresses(at, length)?;
        if !memory.start.is_multiple_of(PAGE as u64) {
            return Err(Error::Misaligned(memory.start));
        }
        let tables = self.tables;
        if memory.end > 1 << tables.features().physical_bits {
            let start = memory.start;
            return Err(Error::Beyond { start, length });
        }
        if let Some(mapped) = self.extents.first_mapped(&range) {
            return Err(Error::Mapped(sign_extended(mapped)));
        }
        let mut shared = tables.shared();
        tables.check(&shared, &memory, sharing)?;
        let extent = Extent {
            end: range.end,
            physical: memory.start,
            access,
            sharing,
        };
        self.change(&mut shared, &range, vec![(range.start, extent)])?;
        shared.uses.add(&memory, sharing, self.id);
        Ok(())
    }

    /// Unmaps pages, all of which are mapped. What was exclusive is free again, as soon as
    /// no processor has it cached.
    ///
    /// # Errors
    /// As [`Error`] says; nothing is changed then. Splitting a large entry may need tables.
    pub fn unmap(&mut self, start: u64, length: u64) -> Result<(), Error> {
        let range = self.mapped(start, length)?;
        self.reducible()?;
        let tables = self.tables;
        let mut shared = tables.shared();
        let gone = self.change(&mut shared, &range, Vec::new())?;
        let memory = gone.iter().map(|(at, e)| (e.memory(*at), e.sharing));
        self.stale.memory.extend(memory);
        self.settle(&mut shared);
        Ok(())
    }

    /// Gives pages, all of which are mapped, these rights and no others.
    ///
    /// # Errors
    /// As [`Error`] says; nothing is changed then. Splitting a large entry may need tables.
    pub fn protect(&mut self, start: u64, length: u64, access: Access) -> Result<(), Error> {
        let range = self.mapped(start, length)?;
        self.with_access(&range, |_| access)
    }

    /// Takes away all rights but these from whatever is mapped in a range. Never gives one.
    ///
    /// # Errors
    /// As [`Error`] says; nothing is changed then. Splitting a large entry may need tables.
    pub fn restrict(&mut self, start: u64, length: u64, to: Access) -> Result<(), Error> {
        let range = addresses(start, length)?;
        self.with_access(&range, |access| access & to)
    }

    /// Another context with the same mappings, but for exclusive pages, which stay here.
    ///
    /// # Errors
    /// The pool is exhausted, or a page of it cannot be written.
    pub fn try_clone(&self) -> Result<Self, Error> {
        self.copy_of(&[ALL])
    }

    /// Another context with what is mapped in these ranges (address and length) and nothing else. Exclusive
    /// pages stay here.
    ///
    /// # Errors
    /// Ranges that are misaligned or overlap; the pool is exhausted, or a page of it cannot be written.
    pub fn restricted_to(&self, ranges: &[(u64, u64)]) -> Result<Self, Error> {
        let mut keep = Vec::new();
        for &(start, length) in ranges {
            keep.push(addresses(start, length)?);
        }
        keep.sort_by_key(|range| range.start);
        if let Some([_, next]) = keep.windows(2).find(|pair| match pair {
            [before, after] => before.end > after.start,
            _ => false,
        }) {
            return Err(Error::Mapped(sign_extended(next.start)));
        }
        self.copy_of(&keep)
    }

    /// No processor has anything of it cached any more: each has loaded CR3 since the last
    /// change, or does not run it. What was unmapped is given back.
    pub fn flushed(&mut self) {
        let tables = self.tables;
        self.give_back(&mut tables.shared());
    }

    /// Compares guest memory with what the tables were set to: what a guest has changed.
    ///
    /// # Errors
    /// A table is private.
    pub fn check(&self) -> Result<Option<Difference>, GuestMemoryError> {
        for (&(level, base), &page) in &self.pages {
            for slot in slots(level, base, &ALL) {
                let physical = self.tables.physical(page) + index(level, slot) * 8;
                let expected = self.entry(level, slot, self.shape(level, slot)).0;
                let found = self.tables.load(physical)?;
                if found != expected {
                    return Ok(Some(Difference {
                        physical,
                        expected,
                        found,
                    }));
                }
            }
        }
        Ok(None)
    }

    fn root_page(&self) -> usize {
        // There from the beginning to the end.
        self.pages.get(&(ROOT, 0)).copied().unwrap_or_default()
    }

    /// The range, if all of it is mapped.
    fn mapped(&self, start: u64, length: u64) -> Result<Range<u64>, Error> {
        let range = addresses(start, length)?;
        match self.extents.first_hole(&range) {
            None => Ok(range),
            Some(hole) => Err(Error::NotMapped(sign_extended(hole))),
        }
    }

    /// Whether what is taken away is gone at the next flush.
    fn reducible(&self) -> Result<(), Error> {
        match self.shadowed() {
            true => Err(Error::Shadowed(self.id)),
            false => Ok(()),
        }
    }

    /// Whether KVM may remember its tables, and would not see them change.
    fn shadowed(&self) -> bool {
        self.tables.features().shadowed && self.ran.load(Ordering::Relaxed)
    }

    fn with_access(
        &mut self,
        range: &Range<u64>,
        next: impl Fn(Access) -> Access,
    ) -> Result<(), Error> {
        self.reducible()?;
        let mut pieces = self.extents.within(range);
        for (_, extent) in &mut pieces {
            extent.access = next(extent.access);
        }
        let tables = self.tables;
        let mut shared = tables.shared();
        self.change(&mut shared, range, pieces)?;
        // Equal neighbours may have become one large entry.
        self.settle(&mut shared);
        Ok(())
    }

    fn copy_of(&self, keep: &[Range<u64>]) -> Result<Self, Error> {
        let mut copy = Self::new(self.tables)?;
        let mut pieces: Vec<_> = keep.iter().flat_map(|r| self.extents.within(r)).collect();
        pieces.retain(|(_, extent)| extent.sharing == Sharing::Common);
        let tables = self.tables;
        let mut shared = tables.shared();
        for (at, extent) in &pieces {
            tables.check(&shared, &extent.memory(*at), extent.sharing)?;
        }
        let memory: Vec<_> = pieces.iter().map(|(at, e)| e.memory(*at)).collect();
        let first = pieces.first().map_or(0, |(at, _)| *at);
        let end = pieces.last().map_or(0, |(_, extent)| extent.end);
        if let Err(error) = copy.change(&mut shared, &(first..end), pieces) {
            // Its drop takes the lock.
            drop(shared);
            return Err(error);
        }
        for memory in &memory {
            shared.uses.add(memory, Sharing::Common, copy.id);
        }
        drop(shared);
        Ok(copy)
    }

    /// Puts `pieces` in place of what is mapped in a range, in extents and tables; what was mapped.
    fn change(
        &mut self,
        shared: &mut Shared<'g>,
        range: &Range<u64>,
        pieces: Vec<(u64, Extent)>,
    ) -> Result<Vec<(u64, Extent)>, Error> {
        let before = self.extents.carve(range);
        for (at, extent) in pieces {
            self.extents.insert(at, extent);
        }
        let hands = match self.prepare(shared, range) {
            Ok(hands) => hands,
            Err(error) => {
                // Extents depend on pages only, so that this is what they were.
                self.extents.carve(range);
                for (at, extent) in before {
                    self.extents.insert(at, extent);
                }
                return Err(error);
            }
        };
        let Hands { held, mut fresh } = hands;
        self.rewrite(ROOT, 0, range, &held, &mut fresh);
        Ok(before)
    }

    /// Takes new tables and holds those that change.
    fn prepare(&self, shared: &mut Shared<'g>, range: &Range<u64>) -> Result<Hands<'g>, Error> {
        let free = shared.pool.free_pages();
        let mut needs = Needs::default();
        self.survey(ROOT, 0, range, free, &mut needs);
        if needs.fresh > free {
            let needed = needs.fresh;
            return Err(Error::Exhausted { needed, free });
        }
        let mut held = BTreeMap::new();
        for page in needs.held {
            held.insert(page, self.tables.page(page)?);
        }
        let fresh = Self::take(self.tables, shared, needs.fresh)?;
        Ok(Hands { held, fresh })
    }

    /// Takes pages from the pool, all or none.
    fn take(
        tables: &Tables<'g>,
        shared: &mut Shared<'g>,
        count: usize,
    ) -> Result<Vec<(usize, Page<'g>)>, Error> {
        let free = shared.pool.free_pages();
        let mut taken = Vec::new();
        while taken.len() < count {
            let error = match shared.pool.take(1) {
                None => Error::Exhausted {
                    needed: count,
                    free,
                },
                Some(page) => match tables.page(page) {
                    Ok(slice) => {
                        taken.push((page, slice));
                        continue;
                    }
                    Err(error) => {
                        give(shared, [page]);
                        error
                    }
                },
            };
            give(shared, taken.into_iter().map(|(page, _)| page));
            return Err(error);
        }
        Ok(taken)
    }

    /// What it takes to make the tables from the extents again in a range: the table at a level that
    /// maps from `base` on, which there is, and those below it. Ends early where the pool has too few.
    fn survey(&self, level: u8, base: u64, range: &Range<u64>, free: usize, needs: &mut Needs) {
        for slot in slots(level, base, range) {
            let shape = self.shape(level, slot);
            if shape == Shape::Table && self.child(level, slot).is_some() {
                self.survey(level - 1, slot, range, free, needs);
                continue;
            }
            if shape == Shape::Table {
                self.count(level - 1, slot, free, needs);
            }
            needs.held.extend(self.pages.get(&(level, base)));
            if needs.fresh > free {
                return;
            }
        }
    }

    /// Counts a new table and those below it.
    fn count(&self, level: u8, base: u64, free: usize, needs: &mut Needs) {
        needs.fresh += 1;
        if level == 0 {
            return;
        }
        for slot in self.extents.slots(level, base) {
            if needs.fresh > free {
                return;
            }
            if self.shape(level, slot) == Shape::Table {
                self.count(level - 1, slot, free, needs);
            }
        }
    }

    /// Makes the tables from the extents again, in a range: what [`survey`](Self::survey) has looked at.
    fn rewrite(
        &mut self,
        level: u8,
        base: u64,
        range: &Range<u64>,
        held: &BTreeMap<usize, Page<'g>>,
        fresh: &mut Vec<(usize, Page<'g>)>,
    ) {
        let table = self
            .pages
            .get(&(level, base))
            .and_then(|page| held.get(page));
        for slot in slots(level, base, range) {
            let child = self.child(level, slot).is_some();
            let shape = self.shape(level, slot);
            if shape == Shape::Table && child {
                self.rewrite(level - 1, slot, range, held, fresh);
                continue;
            }
            if shape == Shape::Table {
                self.build(level - 1, slot, fresh);
            }
            let entry = self.entry(level, slot, shape);
            if let Some(table) = table {
                let at = index(level, slot) as usize * 8;
                // Whole and aligned in a page that is held: there is nothing that could fail.
                let _ = table.store(entry.0, at, Ordering::Release);
            }
            if shape != Shape::Table && child {
                self.forget(level - 1, slot);
            }
        }
    }

    /// Makes a new table, and those below it first.
    fn build(&mut self, level: u8, base: u64, fresh: &mut Vec<(usize, Page<'g>)>) {
        let mut entries = [0; ENTRIES as usize];
        for slot in self.extents.slots(level, base) {
            let shape = self.shape(level, slot);
            if shape == Shape::Table {
                self.build(level - 1, slot, fresh);
            }
            if let Some(entry) = entries.get_mut(index(level, slot) as usize) {
                *entry = self.entry(level, slot, shape).0;
            }
        }
        // As many were taken as were counted.
        if let Some((page, slice)) = fresh.pop() {
            fill(&slice, &entries);
            self.pages.insert((level, base), page);
        }
    }

    /// No entry leads to a table any more, nor to those below it.
    fn forget(&mut self, level: u8, base: u64) {
        let end = base + span(level + 1);
        for level in 0..=level {
            let below: Vec<_> = self
                .pages
                .range((level, base)..(level, end))
                .map(|(key, page)| (*key, *page))
                .collect();
            for (key, page) in below {
                self.pages.remove(&key);
                self.stale.pages.push(page);
            }
        }
    }

    /// Gives back at once what no processor can have cached.
    fn settle(&mut self, shared: &mut Shared<'g>) {
        if !self.ran.load(Ordering::Relaxed) {
            self.give_back(shared);
        }
    }

    fn give_back(&mut self, shared: &mut Shared<'g>) {
        give(shared, self.stale.pages.drain(..));
        for (memory, sharing) in self.stale.memory.drain(..) {
            shared.uses.remove(&memory, sharing, self.id);
        }
    }

    fn shape(&self, level: u8, slot: u64) -> Shape {
        let largest = self.tables.features().largest.level();
        self.extents.shape(level, slot, largest)
    }

    /// The table that a slot leads to.
    fn child(&self, level: u8, slot: u64) -> Option<usize> {
        self.pages.get(&(level.checked_sub(1)?, slot)).copied()
    }

    /// What a slot's entry is, once the table that it leads to is there.
    fn entry(&self, level: u8, slot: u64, shape: Shape) -> Entry {
        match shape {
            Shape::Empty => Entry::EMPTY,
            Shape::Leaf { physical, access } => Entry::leaf(level, physical, access),
            Shape::Table => match self.child(level, slot) {
                Some(page) => Entry::table(self.tables.physical(page)),
                None => Entry::EMPTY,
            },
        }
    }
}

impl Drop for Context<'_, '_> {
    fn drop(&mut self) {
        let tables = self.tables;
        let shared = &mut tables.shared();
        if self.shadowed() {
            // KVM finds what it remembers by the number of the table's page.
            self.stale.pages.clear();
            self.pages.clear();
        }
        self.give_back(shared);
        give(shared, self.pages.values().copied());
        for (at, extent) in self.extents.iter() {
            shared
                .uses
                .remove(&extent.memory(at), extent.sharing, self.id);
        }
    }
}

fn give(shared: &mut Shared<'_>, pages: impl IntoIterator<Item = usize>) {
    for page in pages {
        let given = shared.pool.give(page, 1);
        debug_assert!(given, "page {page} of the pool was free already");
    }
}

/// Writes a table that no entry leads to yet.
fn fill(page: &Page<'_>, entries: &[u64; ENTRIES as usize]) {
    page.copy_from(entries);
}

/// The first addresses of the slots of a table that meet a range.
fn slots(level: u8, base: u64, range: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
    let span = span(level);
    let first = range.start.max(base) / span * span;
    let end = range.end.min(base + ENTRIES * span);
    (first..end).step_by(span as usize)
}

/// The 48 bits of virtual addresses, if the tables translate all of them.
fn addresses(start: u64, length: u64) -> Result<Range<u64>, Error> {
    for number in [start, length] {
        if !number.is_multiple_of(PAGE as u64) {
            return Err(Error::Misaligned(number));
        }
    }
    let none = Error::NotCanonical { start, length };
    let last = length
        .checked_sub(1)
        .and_then(|length| start.checked_add(length))
        .ok_or(none)?;
    let one_half = start >> (VIRTUAL_BITS - 1) == last >> (VIRTUAL_BITS - 1);
    if !canonical(start) || !one_half {
        return Err(none);
    }
    let start = start & (ALL.end - 1);
    Ok(start..start + length)
}

/// The address that a processor is given.
fn sign_extended(address: u64) -> u64 {
    let unused = 64 - VIRTUAL_BITS;
    ((address << unused) as i64 >> unused) as u64
}
