//! What a context maps, as runs of addresses: the truth that its tables are made from.

use super::Sharing;
use super::entry::{Access, ENTRIES, span};
use core::ops::Range;
use std::collections::BTreeMap;

/// Pages that lie next to each other, virtually and physically, with the same rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where it ends.
    pub(super) end: u64,
    pub(super) physical: u64,
    pub(super) access: Access,
    pub(super) sharing: Sharing,
}

/// What a slot of a table must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Empty,
    Leaf { physical: u64, access: Access },
    Table,
}

/// Extents by their first address. No two of them that could be one are apart: what they say of a
/// range depends on its pages only, not on how they came to be mapped.
///
/// Addresses are the 48 bits that the tables translate.
#[derive(Clone, Debug, Default)]
pub(super) struct Extents(BTreeMap<u64, Extent>);

impl Extents {
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        self.0.iter().map(|(start, extent)| (*start, *extent))
    }

    /// Those that have pages in a range, last first.
    fn meeting(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Extent)> + '_ {
        let start = range.start;
        self.0
            .range(..range.end)
            .rev()
            .map(|(at, extent)| (*at, *extent))
            .take_while(move |(_, extent)| extent.end > start)
    }

    /// The first address of a range that is mapped.
    pub(super) fn first_mapped(&self, range: &Range<u64>) -> Option<u64> {
        let (at, _) = self.meeting(range).last()?;
        Some(at.max(range.start))
    }

    /// The first address of a range that is not mapped.
    pub(super) fn first_hole(&self, range: &Range<u64>) -> Option<u64> {
        let mut hole = range.end;
        let mut at = range.end;
        for (start, extent) in self.meeting(range) {
            if extent.end < at {
                hole = extent.end;
            }
            at = start;
        }
        if at > range.start {
            hole = range.start;
        }
        (hole < range.end).then_some(hole)
    }

    /// What is mapped in a range, clipped to it, in order.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<(u64, Extent)> {
        let mut pieces: Vec<_> = self
            .meeting(range)
            .map(|(at, extent)| extent.clipped(at, range))
            .collect();
        pieces.reverse();
        pieces
    }

    /// Takes out what is mapped in a range, and returns it.
    pub(super) fn carve(&mut self, range: &Range<u64>) -> Vec<(u64, Extent)> {
        let met: Vec<_> = self.meeting(range).collect();
        for &(at, extent) in &met {
            self.0.remove(&at);
            for rest in [at..range.start, range.end..extent.end] {
                if !rest.is_empty() {
                    let (at, extent) = extent.clipped(at, &rest);
                    self.0.insert(at, extent);
                }
            }
        }
        let clipped = |&(at, extent): &(u64, Extent)| extent.clipped(at, range);
        met.iter().rev().map(clipped).collect()
    }

    /// Puts an extent where nothing is mapped.
    pub(super) fn insert(&mut self, mut at: u64, mut extent: Extent) {
        let before = self.0.range(..at).next_back().map(|(at, e)| (*at, *e));
        if let Some((start, previous)) = before
            && previous.goes_on_as(start, at, &extent)
        {
            self.0.remove(&start);
            at = start;
            extent.physical = previous.physical;
        }
        if let Some(next) = self.0.get(&extent.end).copied()
            && extent.goes_on_as(at, extent.end, &next)
        {
            self.0.remove(&extent.end);
            extent.end = next.end;
        }
        self.0.insert(at, extent);
    }

    /// The first addresses of the slots in which anything is mapped, of the table at a level that maps
    /// from `base` on.
    pub(super) fn slots(&self, level: u8, base: u64) -> Vec<u64> {
        let span = span(level);
        let mut slots = Vec::new();
        for (at, extent) in self.within(&(base..base + ENTRIES * span)) {
            let used = (at / span * span..extent.end).step_by(span as usize);
            // Two extents may have a slot in common.
            let last = slots.last().copied();
            slots.extend(used.skip_while(|slot| Some(*slot) == last));
        }
        slots
    }

    /// What the slot of a table at a level must hold that maps from `base` on.
    pub(super) fn shape(&self, level: u8, base: u64, largest: u8) -> Shape {
        let slot = base..base + span(level);
        let Some((at, extent)) = self.meeting(&slot).next() else {
            return Shape::Empty;
        };
        let physical = extent.physical + base.saturating_sub(at);
        let whole = at <= slot.start && extent.end >= slot.end;
        if whole && level <= largest && physical.is_multiple_of(span(level)) {
            let access = extent.access;
            Shape::Leaf { physical, access }
        } else {
            Shape::Table
        }
    }
}

impl Extent {
    /// Its physical addresses, where it begins at `at`.
    pub(super) fn memory(&self, at: u64) -> Range<u64> {
        self.physical..self.physical + (self.end - at)
    }

    fn clipped(mut self, at: u64, to: &Range<u64>) -> (u64, Self) {
        let start = at.max(to.start);
        self.physical += start - at;
        self.end = self.end.min(to.end);
        (start, self)
    }

    /// Whether another one at `next` goes on where this one, from `at`, ends.
    fn goes_on_as(&self, at: u64, next: u64, other: &Self) -> bool {
        self.end == next
            && self.physical + (self.end - at) == other.physical
            && self.access == other.access
            && self.sharing == other.sharing
    }
}
