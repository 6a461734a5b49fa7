//! Runs of set bits in one word: 64 pages, bit 0 is the lowest, 1 means free.

/// Pages that one word describes.
pub(super) const PAGES: usize = u64::BITS as usize;
/// The word of 64 free pages.
pub(super) const FREE: u64 = !0;
/// The word of 64 taken pages.
pub(super) const TAKEN: u64 = 0;

/// Free pages from the lowest upward, 0 to 64.
pub(super) const fn prefix(word: u64) -> usize {
    word.trailing_ones() as usize
}

/// Free pages from the highest downward, 0 to 64.
pub(super) const fn suffix(word: u64) -> usize {
    word.leading_ones() as usize
}

/// A bit for every page that begins `n` free pages in a row; none when `n` is more than 64.
pub(super) const fn run_starts(word: u64, n: usize) -> u64 {
    if n > PAGES {
        return 0;
    }
    let mut starts = word;
    let mut have = 1;
    // Where runs of `have` begin both here and `step` pages on, with no gap
    // between them, a run of `have + step` begins: log2(n) steps.
    while have < n {
        let step = if have < n - have { have } else { n - have };
        starts &= starts >> step;
        have += step;
    }
    starts
}

/// The longest free run, 0 to 64.
pub(super) const fn longest(word: u64) -> usize {
    if word == FREE {
        return PAGES;
    }
    // Where runs of 1, 2, 4, … 32 begin; the length is then found one binary
    // digit at a time, without a branch that depends on the data.
    let by1 = word;
    let by2 = by1 & (by1 >> 1);
    let by4 = by2 & (by2 >> 2);
    let by8 = by4 & (by4 >> 4);
    let by16 = by8 & (by8 >> 8);
    let by32 = by16 & (by16 >> 16);
    let (starts, length) = digit(FREE, 0, by32, 32);
    let (starts, length) = digit(starts, length, by16, 16);
    let (starts, length) = digit(starts, length, by8, 8);
    let (starts, length) = digit(starts, length, by4, 4);
    let (starts, length) = digit(starts, length, by2, 2);
    let (_, length) = digit(starts, length, by1, 1);
    length as usize
}

/// Lengthens the runs that begin at `starts` by `more` if any of them goes on that far.
const fn digit(starts: u64, length: u32, begins: u64, more: u32) -> (u64, u32) {
    let longer = starts & (begins >> length);
    if longer == 0 {
        (starts, length)
    } else {
        (longer, length + more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same answers, one page at a time.
    fn slow_longest(word: u64) -> usize {
        let mut longest = 0;
        let mut run = 0;
        for page in 0..PAGES {
            run = if word >> page & 1 == 1 { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        longest
    }

    fn slow_starts(word: u64, n: usize) -> u64 {
        (0..PAGES)
            .filter(|&at| at + n <= PAGES && (at..at + n).all(|page| word >> page & 1 == 1))
            .fold(0, |starts, at| starts | 1 << at)
    }

    #[test]
    fn runs_agree_with_counting_one_page_at_a_time() {
        let check = |word: u64| {
            assert_eq!(longest(word), slow_longest(word), "{word:#x}");
            for n in 1..=PAGES + 1 {
                assert_eq!(run_starts(word, n), slow_starts(word, n), "{word:#x} {n}");
            }
        };
        for length in 0..=PAGES {
            let run = if length == 0 {
                0
            } else {
                FREE >> (PAGES - length)
            };
            for at in 0..=PAGES - length {
                check(if at == PAGES { 0 } else { run << at });
            }
        }
        let mut state = 1_u64;
        for round in 0..300 {
            // A linear congruence is random enough here; ORs make longer runs.
            let mut next = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state ^ state >> 32
            };
            let mut word = next();
            for _ in 0..round % 4 {
                word |= next();
            }
            check(word);
        }
    }
}
