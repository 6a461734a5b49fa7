//! Which pages of an object nothing maps any more.
//!
//! Mappings are cut, moved and put over each other by munmap, mprotect and mremap; the kernel tells of
//! some of it only. So nobody keeps books here: when a mapping has gone, the others are asked.

/// Pages of an object from `first` up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first one.
    pub first: usize,
    /// The one after the last.
    pub end: usize,
}

impl Span {
    /// How many.
    pub fn pages(&self) -> usize {
        self.end.saturating_sub(self.first)
    }
}

/// Calls `found` for each part of `gone` that no other mapping has, in order. `others` gives all of them
/// anew at each call. O(mappings) a part, and again for each mapping that covers a part of it.
pub fn uncovered<I: Iterator<Item = Span>>(
    gone: Span,
    others: impl Fn() -> I,
    mut found: impl FnMut(Span),
) {
    let mut first = gone.first;
    while first < gone.end {
        // The end of what covers `first`, as far as one look tells.
        let covered = others()
            .filter(|other| other.first <= first && first < other.end)
            .map(|other| other.end)
            .max();
        if let Some(end) = covered {
            first = end;
            continue;
        }
        let end = others()
            .map(|other| other.first)
            .filter(|&start| first < start)
            .min()
            .map_or(gone.end, |start| start.min(gone.end));
        found(Span { first, end });
        first = end;
    }
}

/// Whether the mappings together have all of `span`.
pub fn is_covered<I: Iterator<Item = Span>>(span: Span, mappings: impl Fn() -> I) -> bool {
    let mut covered = true;
    uncovered(span, mappings, |_| covered = false);
    covered
}
