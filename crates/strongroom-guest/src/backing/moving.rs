//! What the backings have in common that keep private and shared pages in different memory: a conversion
//! changes what the guest's addresses are, and moves what is in the pages where it is wanted.
//!
//! The guest's processors are held out meanwhile, a part at a time. What leaves its memory is wiped there,
//! before the page is freed: bytes on their way into private pages are secret from now on, and freed
//! guest_memfd pages are not zeroed by the kernel before somebody else gets them.

use crate::kvm::{BOUNCE, Held};
use crate::mapping::Mapping;
use crate::{Contents, Error, PAGE};
use core::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use strongroom_core::page::Side;
use strongroom_sys::nodes;

/// How many pages are converted while processors are held out once.
const PART: usize = BOUNCE / PAGE;

/// Memory of two sides, of which the guest sees one at each page.
pub(super) trait Sides {
    /// The shared side, as the monitor sees it.
    fn view(&self) -> &Mapping;

    /// Where the guest sees a page.
    fn address(&self, page: usize) -> u64;

    /// Makes the guest see the other side of pages, all of which it sees one side of; they lie in one part.
    /// Leaves everything as it was where it fails, but for [`Error::Hole`].
    fn flip(&self, held: &mut Held, pages: Range<usize>, to: Side) -> Result<(), Error>;

    /// Has pages of one side be there.
    fn populate(&self, side: Side, pages: Range<usize>) -> Result<(), Error>;

    /// Which pages are bound to NUMA nodes.
    fn bound(&self) -> &Bound;

    /// Frees the pages of one side.
    fn punch(&self, side: Side, pages: Range<usize>) -> Result<(), Error>;

    /// Runs of pages, in order, outside of which a side has none in memory.
    fn resident(&self, side: Side, pages: Range<usize>) -> Vec<Range<usize>>;
}

/// Which pages are bound to which NUMA nodes: a run that begins at a page, to its end.
#[derive(Debug, Default)]
pub(super) struct Bound(Mutex<Vec<(Range<usize>, u64)>>);

impl Bound {
    fn runs(&self) -> MutexGuard<'_, Vec<(Range<usize>, u64)>> {
        // Only changed whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds pages, in place of what they were bound to.
    fn bind(&self, pages: Range<usize>, nodes: u64) {
        let mut runs = self.runs();
        let mut others: Vec<_> = runs
            .drain(..)
            .flat_map(|(run, nodes)| {
                let before = run.start..run.end.min(pages.start);
                let after = run.start.max(pages.end)..run.end;
                [(before, nodes), (after, nodes)]
            })
            .filter(|(run, _)| !run.is_empty())
            .collect();
        others.push((pages, nodes));
        *runs = others;
    }

    /// Those of these pages that are bound.
    fn of(&self, pages: &Range<usize>) -> Vec<(Range<usize>, u64)> {
        self.runs()
            .iter()
            .map(|(run, nodes)| (run.start.max(pages.start)..run.end.min(pages.end), *nodes))
            .filter(|(run, _)| !run.is_empty())
            .collect()
    }
}

/// The parts of a run of pages: none of them crosses a multiple of [`PART`].
fn parts(pages: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut at = pages.start;
    core::iter::from_fn(move || {
        let end = ((at / PART + 1) * PART).min(pages.end);
        let part = at..end;
        at = end;
        (!part.is_empty()).then_some(part)
    })
}

/// Binds pages, all of which are on this side, to NUMA nodes: they are there then.
pub(super) fn bind<S: Sides>(
    sides: &S,
    side: Side,
    pages: Range<usize>,
    nodes: u64,
) -> Result<(), Error> {
    within(nodes, || sides.populate(side, pages.clone()))?;
    sides.bound().bind(pages, nodes);
    Ok(())
}

/// Has those pages be there that are bound: on this side, they are going to be.
fn place<S: Sides>(sides: &S, side: Side, pages: &Range<usize>) -> Result<(), Error> {
    for (bound, nodes) in sides.bound().of(pages) {
        within(nodes, || sides.populate(side, bound))?;
    }
    Ok(())
}

/// Memory of a guest_memfd comes from where the thread's policy says that has it allocated (Linux 6.12: these
/// files have no policy of their own).
fn within(nodes: u64, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    nodes::within(nodes, work).map_err(Error::of("set_mempolicy"))?
}

/// Drops the contents of pages, which have some on their own side alone.
pub(super) fn discard(
    backing: &'static str,
    sides: &impl Sides,
    pages: Range<usize>,
) -> Result<(), Error> {
    if !sides.bound().of(&pages).is_empty() {
        // Whoever touches them first would decide where they come from.
        let what = "a balloon of pages that are bound to NUMA nodes";
        return Err(Error::NotOffered { backing, what });
    }
    sides.punch(Side::Private, pages.clone())?;
    sides.punch(Side::Shared, pages)
}

/// Converts a run of pages.
pub(super) fn convert<S: Sides>(
    sides: &S,
    machine: &crate::kvm::Machine,
    pages: Range<usize>,
    to: Side,
    contents: Contents,
) -> Result<(), Error> {
    let start = pages.start;
    for part in parts(pages) {
        let done = part.start - start;
        let result = machine.hold().and_then(|mut held| match to {
            Side::Private => close(sides, &mut held, part, contents),
            Side::Shared => open(sides, &mut held, part, contents),
        });
        match result {
            Ok(()) => {}
            // A hole is worse than a part: it is what must be told.
            Err(error @ Error::Hole { .. }) => return Err(error),
            Err(error) if done == 0 => return Err(error),
            Err(error) => {
                let (call, errno) = error.call();
                return Err(Error::Partly { call, errno, done });
            }
        }
    }
    Ok(())
}

/// Shared pages become private. The private side has nothing in these pages, or zeros.
fn close<S: Sides>(
    sides: &S,
    held: &mut Held,
    pages: Range<usize>,
    contents: Contents,
) -> Result<(), Error> {
    // What is not in memory is zero on both sides.
    let runs = match contents {
        Contents::Dropped => Vec::new(),
        Contents::Kept => sides.resident(Side::Shared, pages.clone()),
    };
    // Made before anything is changed.
    if !runs.is_empty() {
        held.copier()?;
    }
    place(sides, Side::Private, &pages)?;
    sides.flip(held, pages.clone(), Side::Private)?;
    if let Err(error) = fill(sides, held, &runs) {
        // All of it is in the shared pages still.
        let (start, length) = (sides.address(pages.start), pages.len() * PAGE);
        sides.flip(held, pages, Side::Shared).map_err(|again| {
            let (call, errno) = again.call();
            Error::Hole {
                call,
                errno,
                start,
                length: length as u64,
            }
        })?;
        return Err(error);
    }
    for run in runs {
        sides.view().wipe(run.start * PAGE, run.len() * PAGE);
    }
    // All at once; freeing would unmap each page by itself. Where it fails, freeing does.
    if pages.len() > 1 {
        let _ = sides.view().forget(pages.clone());
    }
    // The pages are converted, whether this can be freed or not; it is dropped before they are shared again.
    let _ = sides.punch(Side::Shared, pages);
    Ok(())
}

/// Has the view of pages be there: all at once instead of one fault a page, and another one when they are wiped.
fn populate(sides: &impl Sides, run: &Range<usize>) {
    if run.len() > 1 {
        sides
            .view()
            .try_to_populate(run.start * PAGE, run.len() * PAGE);
    }
}

/// Copies runs of shared pages to the private side, which the guest sees by now.
fn fill<S: Sides>(sides: &S, held: &mut Held, runs: &[Range<usize>]) -> Result<(), Error> {
    for run in runs {
        let (offset, len) = (run.start * PAGE, run.len() * PAGE);
        populate(sides, run);
        let copier = held.copier()?;
        copier.bounce().copy(0, sides.view(), offset, len);
        let stored = copier.store(sides.address(run.start), len);
        copier.bounce().wipe(0, len);
        stored?;
    }
    Ok(())
}

/// Private pages become shared.
fn open<S: Sides>(
    sides: &S,
    held: &mut Held,
    pages: Range<usize>,
    contents: Contents,
) -> Result<(), Error> {
    // Whatever a stray write through the view has left there.
    sides.punch(Side::Shared, pages.clone())?;
    place(sides, Side::Shared, &pages)?;
    let runs = sides.resident(Side::Private, pages.clone());
    let mut taken = 0;
    let moved = runs.iter().try_for_each(|run| {
        let (address, len) = (sides.address(run.start), run.len() * PAGE);
        match contents {
            Contents::Dropped => held.copier()?.wipe(address, len)?,
            Contents::Kept => {
                let offset = run.start * PAGE;
                populate(sides, run);
                let bounce = held.copier()?.take(address, len)?;
                sides.view().copy(offset, bounce, 0, len);
            }
        }
        taken += 1;
        Ok(())
    });
    if let Err(error) = moved.and_then(|()| sides.flip(held, pages.clone(), Side::Shared)) {
        if contents == Contents::Kept {
            // They stay private, with what was in them.
            let taken = runs.get(..taken).unwrap_or_default();
            fill(sides, held, taken)?;
            for run in taken {
                sides.view().wipe(run.start * PAGE, run.len() * PAGE);
            }
        }
        return Err(error);
    }
    // As above; they are zero.
    let _ = sides.punch(Side::Private, pages);
    Ok(())
}

/// Wipes pages of the private side that the guest sees, at the end. Those that are not in memory are left alone.
pub(super) fn wipe_all<S: Sides>(
    sides: &S,
    machine: &crate::kvm::Machine,
    private: impl IntoIterator<Item = Range<usize>>,
) -> Result<(), Error> {
    let mut held = machine.hold()?;
    for run in private {
        for run in sides.resident(Side::Private, run) {
            let address = sides.address(run.start);
            held.copier()?.wipe(address, run.len() * PAGE)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_binding_of_a_page_counts() {
        let bound = Bound::default();
        assert!(bound.of(&(0..100)).is_empty());
        bound.bind(10..50, 1);
        bound.bind(20..30, 2);
        bound.bind(45..60, 4);
        let mut all = bound.of(&(0..100));
        all.sort_by_key(|(run, _)| run.start);
        let expected = [(10..20, 1), (20..30, 2), (30..45, 1), (45..60, 4)];
        assert_eq!(all, expected);
        assert_eq!(bound.of(&(25..26)), [(25..26, 2)]);
        assert!(bound.of(&(60..61)).is_empty());
    }

    #[test]
    fn parts_make_up_the_whole_and_cross_no_boundary() {
        for pages in [0..1, 5..PART, 1..3 * PART + 7, PART - 1..PART + 1, 4..4] {
            let mut at = pages.start;
            for part in parts(pages.clone()) {
                assert_eq!(part.start, at);
                assert!(!part.is_empty());
                assert_eq!(part.start / PART, (part.end - 1) / PART);
                at = part.end;
            }
            assert_eq!(at, pages.end);
        }
    }
}
