//! A day of requests: five kinds, a load that goes up and down, and lives that end.

use crate::random::Random;
use strongroom_core::pool::CHUNK_PAGES;

pub(crate) const SECONDS: usize = 24 * 3600;

/// A kind of request. Lives are exponential.
pub(crate) struct Kind {
    pub name: &'static str,
    /// Of all that is in use, by memory.
    share: f64,
    /// Mean seconds from taking to giving back.
    life: f64,
    sizes: Sizes,
}

enum Sizes {
    /// 4 to 64 KiB: 1 to 16 pages, with weights 1/n.
    Small,
    /// 2 MiB.
    Chunk,
    /// 4 to 512 MiB: the logarithm is uniform; whole chunks.
    Large,
}

pub(crate) const KINDS: [Kind; 5] = [
    Kind {
        name: "small, 10 min",
        share: 0.0025,
        life: 600.0,
        sizes: Sizes::Small,
    },
    Kind {
        name: "small, 1 h",
        share: 0.02,
        life: 3600.0,
        sizes: Sizes::Small,
    },
    Kind {
        name: "small, 8 h",
        share: 0.1,
        life: 8.0 * 3600.0,
        sizes: Sizes::Small,
    },
    Kind {
        name: "2 MiB, 30 min",
        share: 0.3,
        life: 1800.0,
        sizes: Sizes::Chunk,
    },
    Kind {
        name: "4 to 512 MiB, 3 h",
        share: 0.5775,
        life: 3.0 * 3600.0,
        sizes: Sizes::Large,
    },
];

const SMALLEST: f64 = 2.0;
const LARGEST: f64 = 256.0;

impl Sizes {
    /// Pages, as a random number has it.
    fn pages(&self, random: &mut Random) -> usize {
        match self {
            Sizes::Small => {
                // By the sum of 1/n up to 16.
                let mut left = random.unit() * 3.380_728_993_228_993;
                let mut pages = 1;
                while pages < 16 && left > 1.0 / pages as f64 {
                    left -= 1.0 / pages as f64;
                    pages += 1;
                }
                pages
            }
            Sizes::Chunk => CHUNK_PAGES,
            Sizes::Large => {
                let chunks = SMALLEST * (LARGEST / SMALLEST).powf(random.unit());
                chunks as usize * CHUNK_PAGES
            }
        }
    }

    fn mean(&self) -> f64 {
        match self {
            Sizes::Small => 16.0 / 3.380_728_993_228_993,
            Sizes::Chunk => CHUNK_PAGES as f64,
            // Of the whole part.
            Sizes::Large => {
                ((LARGEST - SMALLEST) / (LARGEST / SMALLEST).ln() - 0.5) * CHUNK_PAGES as f64
            }
        }
    }
}

/// The part of the memory that is to be in use: least at the start and the end, most at noon.
fn load(second: f64) -> f64 {
    const LOW: f64 = 0.4;
    const HIGH: f64 = 0.91;
    let turn = (second / SECONDS as f64 * std::f64::consts::TAU).cos();
    LOW + (HIGH - LOW) * (1.0 - turn) / 2.0
}

/// A request: pages, and the second in which it is given back.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub kind: usize,
    pub pages: usize,
    pub end: usize,
}

/// The requests of each second, in order; what is taken at the start comes in second 0.
pub(crate) struct Trace {
    pages: f64,
    random: Random,
    second: usize,
    /// When the next of each kind comes.
    next: [f64; KINDS.len()],
}

impl Trace {
    /// Of a memory of `pages` pages. The same seed gives the same day.
    pub(crate) fn new(pages: usize, seed: u64) -> Self {
        Self {
            pages: pages as f64,
            random: Random::new(seed),
            second: 0,
            next: [0.0; KINDS.len()],
        }
    }

    /// Requests a second, so that what is in use follows the load: what goes by itself at this load
    /// comes again, and what the load grows by comes on top.
    fn rate(&self, kind: &Kind, second: f64) -> f64 {
        let wanted = |second| kind.share * load(second) * self.pages;
        let growth = wanted(second + 0.5) - wanted(second - 0.5);
        ((wanted(second) / kind.life + growth) / kind.sizes.mean()).max(1e-9)
    }

    fn request(&mut self, kind: usize) -> Request {
        let pages = KINDS[kind].sizes.pages(&mut self.random);
        let life = self.random.exponential(KINDS[kind].life);
        Request {
            kind,
            pages,
            end: self.second + 1 + life as usize,
        }
    }

    /// The next second's requests; `None` after the last.
    pub(crate) fn next_second(&mut self, requests: &mut Vec<Request>) -> Option<usize> {
        requests.clear();
        let now = self.second;
        if now >= SECONDS {
            return None;
        }
        for (kind, of) in KINDS.iter().enumerate() {
            if now == 0 {
                // The day begins with what is in use at its start.
                let mut left = of.share * load(0.0) * self.pages;
                while left > 0.0 {
                    let request = self.request(kind);
                    left -= request.pages as f64;
                    requests.push(request);
                }
            }
            while self.next[kind] < (now + 1) as f64 {
                let at = self.next[kind].max(now as f64);
                let mean = 1.0 / self.rate(of, at);
                self.next[kind] = at + self.random.exponential(mean);
                let request = self.request(kind);
                requests.push(request);
            }
        }
        // Kinds come mixed.
        for index in (1..requests.len()).rev() {
            requests.swap(index, self.random.below(index + 1));
        }
        self.second += 1;
        Some(now)
    }
}
