//! The tables of one context: a tree of guest pages that is made from what the context maps.

use super::entry::{ENTRIES, Entry, ROOT, index, span};
use super::extent::{Extent, Extents, Shape};
use super::tables::{Page, Shared, Tables};
use super::{Difference, Error};
use core::ops::Range;
use core::sync::atomic::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use vm_memory::{Bytes, GuestMemoryError};

/// What is mapped, and the tables that say so.
#[derive(Debug)]
pub(super) struct Tree<'t, 'g> {
    tables: &'t Tables<'g>,
    extents: Extents,
    /// The pool's page of each table: by level, and by the first address that it maps.
    pages: BTreeMap<(u8, u64), usize>,
    /// Pages to which no entry leads any more.
    cut: Vec<usize>,
}

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

impl<'t, 'g> Tree<'t, 'g> {
    /// A root that maps nothing.
    pub(super) fn new(tables: &'t Tables<'g>, shared: &mut Shared<'g>) -> Result<Self, Error> {
        let mut fresh = Self::take(tables, shared, 1)?;
        let mut pages = BTreeMap::new();
        if let Some((page, slice)) = fresh.pop() {
            fill(&slice, &[0; ENTRIES as usize]);
            pages.insert((ROOT, 0), page);
        }
        Ok(Self {
            tables,
            extents: Extents::default(),
            pages,
            cut: Vec::new(),
        })
    }

    /// What is mapped.
    pub(super) fn extents(&self) -> &Extents {
        &self.extents
    }

    /// How many tables it has.
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// The physical address of its root.
    pub(super) fn root(&self) -> u64 {
        // There from the beginning to the end.
        let page = self.pages.get(&(ROOT, 0)).copied().unwrap_or_default();
        self.tables.physical(page)
    }

    /// The first entry in guest memory that is not what it was set to.
    pub(super) fn difference(&self) -> Result<Option<Difference>, GuestMemoryError> {
        for (&(level, base), &page) in &self.pages {
            for slot in slots(level, base, &(base..base + ENTRIES * span(level))) {
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

    /// Gives back tables to which no entry leads any more, when no processor has them cached.
    pub(super) fn give_back(&mut self, shared: &mut Shared<'g>) {
        give(shared, self.cut.drain(..));
    }

    /// Gives back all of them.
    pub(super) fn give_all(&mut self, shared: &mut Shared<'g>) {
        self.give_back(shared);
        give(shared, core::mem::take(&mut self.pages).into_values());
    }

    /// None of its tables is used again.
    pub(super) fn leave(&mut self) {
        self.cut.clear();
        self.pages.clear();
    }

    /// Puts `pieces` in place of what is mapped in a range, in extents and tables; what was mapped.
    ///
    /// # Errors
    /// The pool is exhausted, or a page of it cannot be written; nothing is changed then.
    pub(super) fn change(
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
                self.cut.push(page);
            }
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
