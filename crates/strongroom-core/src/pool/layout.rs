//! Where in the metadata each level of the tree lies.

use super::bits;
use super::summary::Summary;

/// Children of a node: eight words, a cache line on the levels that matter.
pub(super) const FAN_OUT: usize = 8;
/// Levels of the tree over `usize::MAX` pages: 6 bits a leaf, 3 bits a level, leaf level included.
const MAX_LEVELS: usize = 1 + (usize::BITS as usize - 6).div_ceil(3);

/// Pages below one node; level 0 is the leaves, of one word each.
#[inline]
pub(super) const fn pages_at(level: usize) -> usize {
    // Only the root can describe more pages than a `usize` counts, and nobody
    // asks how many pages a root describes.
    match 1_usize.checked_shl(6 + 3 * level as u32) {
        Some(pages) => pages,
        None => usize::MAX,
    }
}

/// Levels from the leaves up to the root. All but the root hold a multiple of
/// eight nodes, so that every node has eight children: those that describe no
/// page stay zero, which means taken. It also keeps siblings in one cache line
/// when the metadata begins on one.
pub(super) struct Layout {
    /// Index of each level's first word.
    base: [usize; MAX_LEVELS],
    /// The root's level; 0 when there are no pages, else at least 1.
    pub(super) root: usize,
    /// Words of all levels together.
    pub(super) words: usize,
}

impl Layout {
    pub(super) const fn new(pages: usize) -> Layout {
        let mut layout = Layout {
            base: [0; MAX_LEVELS],
            root: 0,
            words: 0,
        };
        if pages == 0 {
            return layout;
        }
        let mut nodes = pages.div_ceil(bits::PAGES).next_multiple_of(FAN_OUT);
        layout.words = nodes;
        // The second condition always holds; with it there is no panic to be compiled, which the
        // kernel would have no use for.
        while nodes > 1 && layout.root + 1 < MAX_LEVELS {
            nodes /= FAN_OUT;
            if nodes > 1 {
                nodes = nodes.next_multiple_of(FAN_OUT);
            }
            layout.root += 1;
            layout.base[layout.root] = layout.words;
            layout.words += nodes * Summary::words(layout.root);
        }
        layout
    }

    /// The words of one node's summary.
    #[inline]
    pub(super) fn node(&self, level: usize, node: usize) -> core::ops::Range<usize> {
        self.span(level, node, 1)
    }

    /// The words of one node's children.
    #[inline]
    pub(super) fn children(&self, level: usize, node: usize) -> core::ops::Range<usize> {
        self.span(level.wrapping_sub(1), node.wrapping_mul(FAN_OUT), FAN_OUT)
    }

    /// The words of `count` nodes; an empty range where there is no such level.
    #[inline]
    pub(super) fn span(&self, level: usize, node: usize, count: usize) -> core::ops::Range<usize> {
        let Some(&base) = self.base.get(level) else {
            return 0..0;
        };
        let words = Summary::words(level);
        let first = base.wrapping_add(node.wrapping_mul(words));
        first..first.wrapping_add(count.wrapping_mul(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_each_other() {
        assert_eq!(Layout::new(0).words, 0);
        for pages in [1, 64, 512] {
            // Eight leaves and the root.
            assert_eq!(Layout::new(pages).words, 9);
        }
        assert_eq!(Layout::new(513).words, 16 + 8 + 1);
        let largest = Layout::new(usize::MAX);
        assert_eq!(largest.root, MAX_LEVELS - 1);
        assert!(largest.words > usize::MAX / 64);
    }
}
