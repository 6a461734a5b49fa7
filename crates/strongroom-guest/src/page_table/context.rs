//! One address space.

use super::entry::{Access, VIRTUAL_BITS};
use super::extent::Extent;
use super::tables::{Shared, Tables};
use super::tree::Tree;
use super::walk::canonical;
use super::{ContextId, Error, Sharing};
use crate::PAGE;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use vm_memory::GuestMemoryError;

/// An address space, whose tables go back to the pool when it is dropped. No processor may
/// run it then.
#[derive(Debug)]
pub struct Context<'t, 'g> {
    tables: &'t Tables<'g>,
    id: ContextId,
    tree: Tree<'t, 'g>,
    /// Memory that was unmapped, and that a processor may still have cached.
    stale: Vec<(Range<u64>, Sharing)>,
    /// Whether a processor may run it.
    ran: AtomicBool,
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

impl<'t, 'g> Context<'t, 'g> {
    pub(super) fn new(tables: &'t Tables<'g>) -> Result<Self, Error> {
        let mut shared = tables.shared();
        Ok(Self {
            tables,
            tree: Tree::new(tables, &mut shared)?,
            id: shared.next_id(),
            stale: Vec::new(),
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
        self.tree.root()
    }

    /// What it maps, in the order of addresses.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.tree.extents().iter().map(|(at, extent)| Run {
            start: sign_extended(at),
            length: extent.end - at,
            physical: extent.physical,
            access: extent.access,
            sharing: extent.sharing,
        })
    }

    /// How many tables it has, a page each.
    pub fn tables(&self) -> usize {
        self.tree.len()
    }

    /// About how many bytes of the monitor's memory it has.
    pub fn state_bytes(&self) -> usize {
        let extents = self.tree.extents().iter().count() * size_of::<(u64, Extent)>();
        let pages = self.tree.len() * size_of::<((u8, u64), usize)>();
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
        if let Some(mapped) = self.tree.extents().first_mapped(&range) {
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
        self.tree
            .change(&mut shared, &range, vec![(range.start, extent)])?;
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
        let gone = self.tree.change(&mut shared, &range, Vec::new())?;
        let memory = gone.iter().map(|(at, e)| (e.memory(*at), e.sharing));
        self.stale.extend(memory);
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
        self.tree.difference()
    }

    /// The range, if all of it is mapped.
    fn mapped(&self, start: u64, length: u64) -> Result<Range<u64>, Error> {
        let range = addresses(start, length)?;
        match self.tree.extents().first_hole(&range) {
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
        let mut pieces = self.tree.extents().within(range);
        for (_, extent) in &mut pieces {
            extent.access = next(extent.access);
        }
        let tables = self.tables;
        let mut shared = tables.shared();
        self.tree.change(&mut shared, range, pieces)?;
        // Equal neighbours may have become one large entry.
        self.settle(&mut shared);
        Ok(())
    }

    fn copy_of(&self, keep: &[Range<u64>]) -> Result<Self, Error> {
        let mut copy = Self::new(self.tables)?;
        let mut pieces: Vec<_> = keep
            .iter()
            .flat_map(|r| self.tree.extents().within(r))
            .collect();
        pieces.retain(|(_, extent)| extent.sharing == Sharing::Common);
        let tables = self.tables;
        let mut shared = tables.shared();
        for (at, extent) in &pieces {
            tables.check(&shared, &extent.memory(*at), extent.sharing)?;
        }
        let memory: Vec<_> = pieces.iter().map(|(at, e)| e.memory(*at)).collect();
        let first = pieces.first().map_or(0, |(at, _)| *at);
        let end = pieces.last().map_or(0, |(_, extent)| extent.end);
        if let Err(error) = copy.tree.change(&mut shared, &(first..end), pieces) {
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

    /// Gives back at once what no processor can have cached.
    fn settle(&mut self, shared: &mut Shared<'g>) {
        if !self.ran.load(Ordering::Relaxed) {
            self.give_back(shared);
        }
    }

    fn give_back(&mut self, shared: &mut Shared<'g>) {
        self.tree.give_back(shared);
        for (memory, sharing) in self.stale.drain(..) {
            shared.uses.remove(&memory, sharing, self.id);
        }
    }
}

impl Drop for Context<'_, '_> {
    fn drop(&mut self) {
        let tables = self.tables;
        let shared = &mut tables.shared();
        if self.shadowed() {
            // KVM finds what it remembers by the number of the table's page.
            self.tree.leave();
        }
        self.give_back(shared);
        self.tree.give_all(shared);
        for (at, extent) in self.tree.extents().iter() {
            shared
                .uses
                .remove(&extent.memory(at), extent.sharing, self.id);
        }
    }
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
