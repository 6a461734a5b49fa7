//! Which physical pages are mapped, how often, and whose alone they are: the owner table.

use super::{ContextId, Error, Sharing};
use core::ops::Range;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// So often, in any contexts.
    Common(u32),
    /// Once.
    Exclusive(ContextId),
}

/// Uses of physical memory, as runs: start to end and use. What is not here is not mapped.
#[derive(Debug, Default)]
pub(super) struct Uses(BTreeMap<u64, (u64, Use)>);

impl Uses {
    /// Whether physical memory may be mapped once more.
    pub(super) fn check(&self, memory: &Range<u64>, sharing: Sharing) -> Result<(), Error> {
        for (start, (_, kind)) in self.meeting(memory) {
            let physical = start.max(memory.start);
            match (kind, sharing) {
                (Use::Exclusive(owner), _) => return Err(Error::Exclusive { physical, owner }),
                (Use::Common(times), Sharing::Exclusive) => {
                    return Err(Error::Common { physical, times });
                }
                // So many mappings have more tables than there is memory.
                (Use::Common(u32::MAX), _) => {
                    let times = u32::MAX;
                    return Err(Error::Common { physical, times });
                }
                (Use::Common(_), Sharing::Common) => {}
            }
        }
        Ok(())
    }

    /// Maps physical memory once more; it has been checked.
    pub(super) fn add(&mut self, memory: &Range<u64>, sharing: Sharing, by: ContextId) {
        match sharing {
            Sharing::Exclusive => {
                self.0
                    .insert(memory.start, (memory.end, Use::Exclusive(by)));
            }
            Sharing::Common => self.change(memory, |kind| match kind {
                None => Some(Use::Common(1)),
                Some(Use::Common(times)) => Some(Use::Common(times.saturating_add(1))),
                exclusive => exclusive,
            }),
        }
    }

    /// Maps physical memory once less.
    pub(super) fn remove(&mut self, memory: &Range<u64>, sharing: Sharing, by: ContextId) {
        self.change(memory, |kind| match (kind, sharing) {
            (Some(Use::Common(times)), Sharing::Common) if times > 1 => {
                Some(Use::Common(times - 1))
            }
            (Some(Use::Common(_)), Sharing::Common) => None,
            (Some(Use::Exclusive(owner)), Sharing::Exclusive) if owner == by => None,
            (other, _) => other,
        });
    }

    /// Who has a page alone.
    pub(super) fn owner(&self, physical: u64) -> Option<ContextId> {
        match self.meeting(&(physical..physical + 1)).next() {
            Some((_, (_, Use::Exclusive(owner)))) => Some(owner),
            _ => None,
        }
    }

    fn meeting(&self, memory: &Range<u64>) -> impl Iterator<Item = (u64, (u64, Use))> + '_ {
        let start = memory.start;
        self.0
            .range(..memory.end)
            .rev()
            .map(|(at, run)| (*at, *run))
            .take_while(move |(_, (end, _))| *end > start)
    }

    /// Changes the use of each run in a range, and of the holes between them.
    fn change(&mut self, memory: &Range<u64>, next: impl Fn(Option<Use>) -> Option<Use>) {
        self.split(memory.start);
        self.split(memory.end);
        let runs: Vec<_> = self.meeting(memory).collect();
        let mut at = memory.start;
        let mut set = |range: Range<u64>, kind| {
            if range.is_empty() {
                return;
            }
            match next(kind) {
                Some(kind) => self.0.insert(range.start, (range.end, kind)),
                None => self.0.remove(&range.start),
            };
        };
        for (start, (end, kind)) in runs.into_iter().rev() {
            set(at..start, None);
            set(start..end, Some(kind));
            at = end;
        }
        set(at..memory.end, None);
        self.join(memory);
    }

    /// Cuts the run that an address lies in.
    fn split(&mut self, at: u64) {
        let met = self.meeting(&(at..at + 1)).next();
        if let Some((start, (end, kind))) = met
            && start < at
        {
            self.0.insert(start, (at, kind));
            self.0.insert(at, (end, kind));
        }
    }

    /// Makes one of runs that say the same, at a range's edges and in it.
    fn join(&mut self, memory: &Range<u64>) {
        let around = memory.start.saturating_sub(1)..memory.end + 1;
        let runs: Vec<_> = self.meeting(&around).collect();
        let mut last: Option<(u64, u64, Use)> = None;
        for (start, (end, kind)) in runs.into_iter().rev() {
            last = match last {
                // Exclusive runs stay apart: they are given back as they were taken.
                Some((first, until, Use::Common(times)))
                    if until == start && kind == Use::Common(times) =>
                {
                    self.0.remove(&start);
                    self.0.insert(first, (end, kind));
                    Some((first, end, kind))
                }
                _ => Some((start, end, kind)),
            };
        }
    }

    #[cfg(test)]
    fn runs(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ContextId = ContextId(1);
    const B: ContextId = ContextId(2);

    #[test]
    fn exclusive_is_alone_and_common_is_counted() {
        let mut uses = Uses::default();
        uses.add(&(10..20), Sharing::Exclusive, A);
        for sharing in [Sharing::Common, Sharing::Exclusive] {
            let refused = uses.check(&(15..30), sharing);
            assert_eq!(
                refused,
                Err(Error::Exclusive {
                    physical: 15,
                    owner: A
                })
            );
        }
        // Only the owner gives it back, and in parts.
        uses.remove(&(10..20), Sharing::Exclusive, B);
        assert_eq!(uses.owner(12), Some(A));
        uses.remove(&(12..14), Sharing::Exclusive, A);
        assert_eq!((uses.owner(12), uses.owner(14)), (None, Some(A)));
        uses.add(&(12..14), Sharing::Common, B);
        assert!(uses.check(&(12..14), Sharing::Common).is_ok());
        assert_eq!(
            uses.check(&(12..14), Sharing::Exclusive),
            Err(Error::Common {
                physical: 12,
                times: 1
            })
        );
    }

    #[test]
    fn runs_come_and_go_without_a_trace() {
        let mut uses = Uses::default();
        for (start, end) in [(0, 100), (50, 150), (20, 30), (30, 60)] {
            uses.add(&(start..end), Sharing::Common, A);
        }
        for (start, end) in [(30, 60), (0, 100), (20, 30), (50, 150)] {
            uses.remove(&(start..end), Sharing::Common, A);
        }
        assert_eq!(uses.runs(), 0);
        uses.add(&(0..10), Sharing::Common, A);
        uses.add(&(10..20), Sharing::Common, A);
        assert_eq!(uses.runs(), 1);
    }
}
