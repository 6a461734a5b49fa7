//! What one tree node says about the pages below it.

use super::bits;

/// The free pages of one node's range, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Free pages at the range's start.
    pub(super) prefix: usize,
    /// The longest free run inside the range.
    pub(super) longest: usize,
    /// Free pages at the range's end.
    pub(super) suffix: usize,
}

/// The highest level whose summaries fit one word: a node of 2^18 pages, three
/// counts of 21 bits. One level more would need 22.
const LAST_NARROW_LEVEL: usize = 4;
const FIELD_BITS: u32 = 21;
const FIELD_MASK: u64 = (1 << FIELD_BITS) - 1;

impl Summary {
    /// No page is free. Its encoding is all zero bits.
    pub(super) const TAKEN: Summary = Summary {
        prefix: 0,
        longest: 0,
        suffix: 0,
    };

    /// All `pages` of a range are free.
    pub(super) const fn free(pages: usize) -> Summary {
        Summary {
            prefix: pages,
            longest: pages,
            suffix: pages,
        }
    }

    /// Words that one summary of this level takes: one for as long as three counts
    /// fit, then three. The wide levels hold one node in 2^21 pages or fewer, so their
    /// size is nothing, and with them a pool may have any size.
    pub(super) const fn words(level: usize) -> usize {
        if level <= LAST_NARROW_LEVEL { 1 } else { 3 }
    }

    /// Reads a summary of [`words`](Self::words) words.
    #[inline]
    pub(super) fn decode(words: &[u64]) -> Summary {
        match *words {
            [word] => Summary {
                prefix: (word & FIELD_MASK) as usize,
                longest: (word >> FIELD_BITS & FIELD_MASK) as usize,
                suffix: (word >> (2 * FIELD_BITS)) as usize,
            },
            [prefix, longest, suffix] => Summary {
                prefix: prefix as usize,
                longest: longest as usize,
                suffix: suffix as usize,
            },
            _ => Self::TAKEN,
        }
    }

    /// Writes the summary into its words; says whether they were different before.
    #[inline]
    pub(super) fn encode(self, words: &mut [u64]) -> bool {
        let new = [self.prefix, self.longest, self.suffix].map(|pages| pages as u64);
        match words {
            [word] => {
                let [prefix, longest, suffix] = new;
                let new = prefix | longest << FIELD_BITS | suffix << (2 * FIELD_BITS);
                core::mem::replace(word, new) != new
            }
            [_, _, _] => {
                let changed = *words != new;
                words.copy_from_slice(&new);
                changed
            }
            _ => false,
        }
    }
}

/// Joins neighbouring ranges of one size, from the lowest up, into one summary.
pub(super) struct Join {
    /// Pages of each range.
    pages: usize,
    prefix: usize,
    longest: usize,
    /// The free run that ends where the next range begins.
    run: usize,
    /// Every range so far was wholly free.
    all: bool,
}

impl Join {
    pub(super) const fn new(pages: usize) -> Join {
        Join {
            pages,
            prefix: 0,
            longest: 0,
            run: 0,
            all: true,
        }
    }

    #[inline]
    pub(super) fn push(&mut self, range: Summary) {
        // Sums wrap only over metadata that was not zero when the pool was made.
        let joined = self.run.wrapping_add(range.prefix);
        if range.prefix == self.pages {
            self.run = joined;
            return;
        }
        if self.all {
            self.all = false;
            self.prefix = joined;
        }
        self.longest = self.longest.max(joined).max(range.longest);
        self.run = range.suffix;
    }

    /// The same for a leaf, which stores its pages and no summary.
    #[inline]
    pub(super) fn push_word(&mut self, word: u64) {
        let prefix = bits::prefix(word);
        let suffix = bits::suffix(word);
        // How long the longest run inside the word is takes time to find, and it
        // seldom matters: not unless it is longer than one that is known already.
        let known = self.longest.max(self.run + prefix).max(suffix);
        let longest = if bits::run_starts(word, known + 1) == 0 {
            known
        } else {
            bits::longest(word)
        };
        self.push(Summary {
            prefix,
            longest,
            suffix,
        });
    }

    #[inline]
    pub(super) fn finish(self) -> Summary {
        Summary {
            prefix: if self.all { self.run } else { self.prefix },
            longest: self.longest.max(self.run),
            suffix: self.run,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_survive_their_words() {
        let mut word = [0];
        assert_eq!(Summary::decode(&word), Summary::TAKEN);
        for summary in [
            Summary::free(1 << 18),
            Summary {
                prefix: 3,
                longest: 1 << 17,
                suffix: 77,
            },
            Summary::TAKEN,
        ] {
            assert!(summary.encode(&mut word));
            assert!(!summary.encode(&mut word));
            assert_eq!(Summary::decode(&word), summary);
        }
        let mut words = [0; 3];
        let summary = Summary {
            prefix: 1 << 24,
            longest: 1 << 26,
            suffix: 5,
        };
        assert_eq!(Summary::decode(&words), Summary::TAKEN);
        assert!(summary.encode(&mut words));
        assert!(!summary.encode(&mut words));
        assert_eq!(Summary::decode(&words), summary);
    }
}
