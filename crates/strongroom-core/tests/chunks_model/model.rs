//! One `bool` a page, and search by looking. fuzz/ uses it, too.

use strongroom_core::pool::CHUNK_PAGES;

/// True is free.
pub(crate) struct Model(Vec<bool>);

impl Model {
    /// All pages of these chunks are taken.
    pub(crate) fn taken(chunks: usize) -> Self {
        Self(vec![false; chunks * CHUNK_PAGES])
    }

    /// Whether each page is free.
    pub(crate) fn pages(&self) -> &[bool] {
        &self.0
    }

    /// How many are.
    pub(crate) fn free(&self) -> usize {
        self.0.iter().filter(|&&free| free).count()
    }

    /// How many chunks are wholly free.
    pub(crate) fn free_chunks(&self) -> usize {
        (0..self.chunks())
            .filter(|&chunk| self.whole(chunk))
            .count()
    }

    fn chunks(&self) -> usize {
        self.0.len() / CHUNK_PAGES
    }

    fn whole(&self, chunk: usize) -> bool {
        let pages = self.0.chunks(CHUNK_PAGES).nth(chunk);
        pages.is_some_and(|pages| pages.iter().all(|&free| free))
    }

    /// `count` whole chunks from here on.
    fn all_whole(&self, chunk: usize, count: usize) -> bool {
        chunk + count <= self.chunks() && (chunk..chunk + count).all(|chunk| self.whole(chunk))
    }

    /// A free page of a chunk that is cut.
    fn loose(&self, page: usize) -> bool {
        self.0[page] && !self.whole(page / CHUNK_PAGES)
    }

    pub(crate) fn take(&mut self, n: usize) -> Option<usize> {
        let count = n.div_ceil(CHUNK_PAGES);
        if n == 0 || n > self.0.len() {
            return None;
        }
        let chunks = 0..self.chunks();
        let start = if n.is_multiple_of(CHUNK_PAGES) {
            let highest = chunks.rev().find(|&chunk| self.all_whole(chunk, count))?;
            highest * CHUNK_PAGES
        } else {
            let loose: Vec<bool> = (0..self.0.len()).map(|page| self.loose(page)).collect();
            let lowest = loose.windows(n).position(|run| run.iter().all(|&l| l));
            match lowest {
                Some(start) => start,
                None => {
                    let mut chunks = chunks;
                    chunks.find(|&chunk| self.all_whole(chunk, count))? * CHUNK_PAGES
                }
            }
        };
        self.0[start..start + n].fill(false);
        Some(start)
    }

    pub(crate) fn give(&mut self, start: usize, n: usize) -> bool {
        let Some(end) = start.checked_add(n) else {
            return false;
        };
        let possible = n > 0
            && self
                .0
                .get(start..end)
                .is_some_and(|run| run.iter().all(|&f| !f));
        if possible {
            self.0[start..end].fill(true);
        }
        possible
    }

    /// The longest run of loose pages, or of whole chunks.
    pub(crate) fn largest(&self) -> usize {
        let longest = |of: &dyn Fn(usize) -> bool| {
            let pages: Vec<bool> = (0..self.0.len()).map(of).collect();
            let runs = pages.split(|&free| !free).map(<[bool]>::len);
            runs.max().unwrap_or(0)
        };
        longest(&|page| self.loose(page)).max(longest(&|page| self.whole(page / CHUNK_PAGES)))
    }
}
