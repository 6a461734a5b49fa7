//! A window that slides over memory: pieces of bounded size, which overlap, so that everything is seen
//! whole and is found once.

use crate::scan::find::{Found, Memory, Search, View};
use zeroize::Zeroizing;

/// How far finders look back and ahead, in bytes: longer than anything they find.
const LOOK: usize = 16 << 10;
/// How much is new in each piece, in bytes. It stays in the processor's cache.
const STEP: usize = 512 << 10;
/// As many hits are told; the others are only counted.
const MOST: usize = 10_000;

/// Something found, and the bytes where they are to be shown.
pub(in crate::scan) struct Catch {
    pub(in crate::scan) found: Found,
    pub(in crate::scan) bytes: Option<Zeroizing<Vec<u8>>>,
}

/// What was caught.
#[derive(Default)]
pub(in crate::scan) struct Catches {
    pub(in crate::scan) list: Vec<Catch>,
    /// How many more there were.
    pub(in crate::scan) omitted: u64,
    /// How many bytes were looked at.
    pub(in crate::scan) scanned: u64,
}

/// The window. Other processes' secrets go through its buffer, which is wiped in the end.
pub(in crate::scan) struct Window<'a> {
    search: &'a mut Search,
    memory: &'a dyn Memory,
    show: bool,
    buffer: Zeroizing<Vec<u8>>,
    /// The address of the buffer's first byte.
    base: u64,
    /// How much of the buffer is filled.
    filled: usize,
    /// Up to where everything that starts there has been found.
    done: usize,
    found: Vec<Found>,
    catches: Catches,
}

impl<'a> Window<'a> {
    pub(in crate::scan) fn new(search: &'a mut Search, memory: &'a dyn Memory, show: bool) -> Self {
        Self {
            search,
            memory,
            show,
            buffer: Zeroizing::new(vec![0; STEP + 2 * LOOK]),
            base: 0,
            filled: 0,
            done: 0,
            found: Vec::new(),
            catches: Catches::default(),
        }
    }

    /// Room for what is at this address, which may be less than there is.
    pub(in crate::scan) fn room(&mut self, address: u64) -> &mut [u8] {
        if address != self.base.wrapping_add(self.filled as u64) {
            self.flush();
            self.base = address;
        }
        if self.filled == self.buffer.len() {
            self.turn();
        }
        self.buffer.get_mut(self.filled..).unwrap_or_default()
    }

    /// So many bytes of the room were filled.
    pub(in crate::scan) fn fill(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.buffer.len());
        self.catches.scanned += count as u64;
    }

    /// How many bytes came in so far.
    pub(in crate::scan) fn scanned(&self) -> u64 {
        self.catches.scanned
    }

    /// Finds what is left, and gives up all that was caught.
    pub(in crate::scan) fn finish(mut self) -> Catches {
        self.flush();
        std::mem::take(&mut self.catches)
    }

    /// Finds what starts in all but the last part, and keeps that and a part before.
    fn turn(&mut self) {
        let done = self.filled.saturating_sub(LOOK);
        self.find(done);
        let kept = done.saturating_sub(LOOK);
        self.buffer.copy_within(kept..self.filled, 0);
        self.base = self.base.wrapping_add(kept as u64);
        self.filled -= kept;
        self.done = done - kept;
    }

    /// Finds the rest: nothing comes after it.
    fn flush(&mut self) {
        self.find(self.filled);
        (self.filled, self.done) = (0, 0);
    }

    fn find(&mut self, until: usize) {
        let bytes = self.buffer.get(..self.filled).unwrap_or_default();
        // Zeros hold nothing, and there are many.
        let is_zero = bytes.iter().fold(0, |any, byte| any | byte) == 0;
        if until <= self.done || is_zero {
            return;
        }
        let view = View {
            base: self.base,
            bytes,
            body: self.done..until,
            memory: self.memory,
        };
        self.search.find(&view, &mut self.found);
        for found in self.found.drain(..) {
            if self.catches.list.len() >= MOST {
                self.catches.omitted += 1;
                continue;
            }
            let bytes = self
                .show
                .then(|| Zeroizing::new(found.bytes(&view).to_vec()));
            self.catches.list.push(Catch { found, bytes });
        }
    }
}
