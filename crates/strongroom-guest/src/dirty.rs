//! Which pages the monitor and its devices have written to.
//!
//! One bit a page, set by each write that goes through a region or a slice of it, and when a page becomes shared or
//! its contents are dropped. What the guest writes is KVM's to log (KVM_MEM_LOG_DIRTY_PAGES, for slots by
//! address); a slot with a guest_memfd refuses that.

use crate::mapping::Mapping;
use crate::{Error, PAGE};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

const BITS: usize = u32::BITS as usize;

/// A bit a page, which is there when the page is first written to.
#[derive(Debug)]
pub(crate) struct Dirty {
    words: Mapping,
    pages: usize,
}

impl Dirty {
    pub(crate) fn new(pages: usize) -> Result<Self, Error> {
        let words = Mapping::sparse(pages.div_ceil(BITS) * size_of::<AtomicU32>())?;
        Ok(Self { words, pages })
    }

    fn words(&self) -> &[AtomicU32] {
        self.words.words(self.pages.div_ceil(BITS))
    }

    /// Marks the pages that bytes lie in.
    #[inline(never)]
    pub(crate) fn mark(&self, start: usize, len: usize) {
        let Some(last) = len.checked_sub(1).and_then(|len| start.checked_add(len)) else {
            return;
        };
        for page in start / PAGE..=(last / PAGE).min(self.pages.saturating_sub(1)) {
            let bit = 1 << (page % BITS);
            if let Some(word) = self.words().get(page / BITS)
                // A page that is written again and again costs a read.
                && word.load(Ordering::Relaxed) & bit == 0
            {
                // What was written comes before the mark, for who takes the mark.
                word.fetch_or(bit, Ordering::Release);
            }
        }
    }

    pub(crate) fn is(&self, page: usize) -> bool {
        self.words()
            .get(page / BITS)
            .is_some_and(|word| word.load(Ordering::Acquire) & 1 << (page % BITS) != 0)
    }

    /// The marked pages of a range, as runs; their marks are gone.
    pub(crate) fn take(&self, pages: Range<usize>) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        let end = pages.end.min(self.pages);
        let mut at = pages.start;
        while at < end {
            let next = end.min((at / BITS + 1) * BITS);
            let mask = (u32::MAX << (at % BITS)) & (u32::MAX >> (BITS - 1 - (next - 1) % BITS));
            let Some(word) = self.words().get(at / BITS) else {
                break;
            };
            let mut marked = match word.load(Ordering::Relaxed) & mask {
                0 => 0,
                _ => word.fetch_and(!mask, Ordering::Acquire) & mask,
            };
            while marked != 0 {
                let page = at / BITS * BITS + marked.trailing_zeros() as usize;
                match runs.last_mut() {
                    Some(run) if run.end == page => run.end += 1,
                    _ => runs.push(page..page + 1),
                }
                marked &= marked - 1;
            }
            at = next;
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_once_and_in_the_range_only() {
        let dirty = Dirty::new(100).unwrap();
        dirty.mark(31 * PAGE + 5, 2 * PAGE);
        dirty.mark(70 * PAGE, 1);
        dirty.mark(99 * PAGE, usize::MAX / 2);
        dirty.mark(usize::MAX, 2);
        dirty.mark(3, 0);
        assert!(dirty.is(33) && !dirty.is(34) && !dirty.is(0) && !dirty.is(1000));
        assert_eq!(dirty.take(32..33).first(), Some(&(32..33)));
        assert_eq!(dirty.take(0..1000), [31..32, 33..34, 70..71, 99..100]);
        assert!(dirty.take(0..100).is_empty());
    }
}
