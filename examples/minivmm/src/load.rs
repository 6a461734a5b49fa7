//! The load: a device that talks to the guest and knows what each page must hold, and one that reads
//! whatever it can.

use crate::guest::Op;
use crate::layout::WORK;
use crate::machine::keeps_private;
use crate::processor::Bell;
use crate::ring::{self, Message, Rings};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strongroom_guest::kvm::request::Answer;
use strongroom_guest::{Error, GuestRegion, PAGE, PageState, Why, ram};
use vm_memory::{Bytes, MemoryRegionAddress};

const WORDS: usize = PAGE / 8;
/// The most pages that the guest may convert at once.
pub(crate) const MOST_PAGES: u64 = 64;
/// How many pages are worked on at a time, and for how many requests.
const WINDOW: usize = 64;
const MOVE: usize = 2000;
/// How much longer a slow machine is given, until each thing was tried once.
const LONGER: Duration = Duration::from_secs(60);
/// How long the guest may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the load ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Wrong {
    #[error(transparent)]
    Ring(#[from] ring::Failed),
    #[error(transparent)]
    Memory(#[from] Error),
    #[error(
        "page {page} lost its contents: {found:#x} where {expected:#x} should be, at word {word}"
    )]
    Lost {
        page: u64,
        word: usize,
        expected: u64,
        found: u64,
    },
    #[error("page {0} is private, and was read")]
    Leaked(u64),
    #[error("page {0} is shared, and could not be read: {1}")]
    Unreadable(u64, String),
    #[error("the guest's answer to {0:?} makes no sense: {1:?}")]
    Answer(Op, Message),
    #[error("the guest has not answered for {} seconds", PATIENCE.as_secs())]
    Silent,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) sealed: u64,
    pub(crate) filled: u64,
    pub(crate) summed: u64,
    pub(crate) shown: u64,
    pub(crate) hidden: u64,
    /// Conversions that a reader was in the way of for too long, or that were too many.
    pub(crate) held: u64,
    pub(crate) nonsense: u64,
    /// Times a private page was tried by a system call, and was out of reach.
    pub(crate) out_of_reach: u64,
}

/// Pages that the second device read, and could not.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) whole: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Around which page the other device is at work.
    window: AtomicUsize,
}

/// What a page should be, to the device's knowledge.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Private,
    Shared,
    /// A request about it is under way.
    Busy,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    side: Side,
    /// The first word, where it was filled.
    seed: Option<u64>,
}

/// What a request should be answered by.
#[derive(Debug)]
enum Expected {
    /// Anything else than this; it is sent again then, to have this back.
    Sealed([u64; 6]),
    Opened([u64; 6]),
    Filled {
        page: usize,
        seed: u64,
    },
    Sum {
        page: usize,
    },
    Converted {
        first: usize,
        count: usize,
        to: Side,
    },
    Nonsense,
}

/// xorshift64: no secret is made of it.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// The device at the rings.
#[derive(Debug)]
pub(crate) struct Device<'m> {
    region: &'m GuestRegion,
    bell: &'m Bell,
    reads: &'m Reads,
    rings: Rings<'m>,
    pages: Vec<Page>,
    chance: Chance,
    waiting: VecDeque<(Message, Op, Expected)>,
    /// To be sent next.
    again: VecDeque<(Message, Op, Expected)>,
    tag: u32,
    fills: u64,
    pub(crate) counts: Counts,
}

impl<'m> Device<'m> {
    pub(crate) fn new(
        region: &'m GuestRegion,
        bell: &'m Bell,
        reads: &'m Reads,
        rings: Rings<'m>,
    ) -> Self {
        let side = match keeps_private(region) {
            true => Side::Private,
            false => Side::Shared,
        };
        let seed = None;
        Self {
            region,
            bell,
            reads,
            rings,
            pages: vec![Page { side, seed }; pages(region)],
            chance: Chance(0x5347_1234_5678_9abd),
            waiting: VecDeque::new(),
            again: VecDeque::new(),
            tag: 0,
            fills: 0,
            counts: Counts::default(),
        }
    }

    /// Whether each thing was tried.
    fn enough(&self) -> bool {
        let Counts {
            sealed,
            filled,
            summed,
            out_of_reach,
            ..
        } = self.counts;
        let tried = sealed > 0 && filled > 0 && summed > 0;
        tried && (out_of_reach > 0 || !keeps_private(self.region))
    }

    /// Talks to the guest until the deadline, or until each thing was tried on a slow machine, waits for what is under way, and stops it.
    pub(crate) fn run(&mut self, deadline: Instant) -> Result<(), Wrong> {
        let mut heard = Instant::now();
        loop {
            let now = Instant::now();
            let over = now >= deadline && (self.enough() || now >= deadline + LONGER);
            let mut sent = false;
            while !over || !self.again.is_empty() {
                let next = self.again.pop_front().or_else(|| self.request());
                let Some((message, op, expected)) = next else {
                    break;
                };
                if !self.rings.put(message)? {
                    self.again.push_front((message, op, expected));
                    break;
                }
                self.waiting.push_back((message, op, expected));
                sent = true;
            }
            let mut taken = false;
            while let Some(answer) = self.rings.take()? {
                self.answered(answer)?;
                taken = true;
            }
            // It goes idle without requests, and without room for answers.
            if sent || taken {
                self.bell.ring();
            }
            if taken {
                heard = Instant::now();
            } else if heard.elapsed() > PATIENCE {
                return Err(Wrong::Silent);
            } else {
                std::thread::yield_now();
            }
            if over && self.waiting.is_empty() && self.again.is_empty() {
                break;
            }
        }
        let stop = Message {
            op: Op::Stop as u32,
            ..Message::default()
        };
        // The guest has taken all others, so that there is room.
        self.rings.put(stop)?;
        self.bell.ring();
        Ok(())
    }

    /// The next request, and what it should be answered by. What it is about is busy until then.
    fn request(&mut self) -> Option<(Message, Op, Expected)> {
        // A few pages, often, and others after a while.
        let first = self.tag as usize / MOVE * WINDOW;
        self.reads.window.store(first, Ordering::Relaxed);
        let page = (first + self.chance.below(WINDOW)) % self.pages.len();
        let is = self.pages.get(page)?;
        let arg = page as u64;
        match self.chance.below(100) {
            0..30 => {
                let words = [(); 6].map(|()| self.chance.next());
                let nonce = u64::from(self.tag);
                Some(self.message(Op::Seal, nonce, words, Expected::Sealed(words)))
            }
            40..60
                if is.side == Side::Private
                    || !keeps_private(self.region) && is.side != Side::Busy =>
            {
                self.fills += 1;
                // Says which page it is of.
                let seed = arg << 40 | (self.fills & 0x3fff_ffff) << 10;
                self.busy(page, 1);
                let expected = Expected::Filled { page, seed };
                Some(self.message(Op::Fill, arg, [seed; 6], expected))
            }
            65..75 if is.side != Side::Busy => {
                self.busy(page, 1);
                Some(self.message(Op::Sum, arg, [0; 6], Expected::Sum { page }))
            }
            75..99 if is.side != Side::Busy => {
                let from = is.side;
                let most = 1 + self.chance.below(16);
                let run = self.pages.iter().skip(page).take(most);
                let count = run.take_while(|page| page.side == from).count();
                self.busy(page, count);
                let (op, to) = match from {
                    Side::Private => (Op::Show, Side::Shared),
                    _ => (Op::Hide, Side::Private),
                };
                let words = [count as u64; 6];
                let first = page;
                let expected = Expected::Converted { first, count, to };
                Some(self.message(op, arg, words, expected))
            }
            99 => {
                // Past the end, none, too many, and a length that wraps around.
                let (arg, count) = match self.chance.below(4) {
                    0 => (self.pages.len() as u64, 1),
                    1 => (arg, 0),
                    2 => (arg, MOST_PAGES + 1),
                    _ => (arg, 1 << 52),
                };
                Some(self.message(Op::Show, arg, [count; 6], Expected::Nonsense))
            }
            _ => None,
        }
    }

    fn busy(&mut self, first: usize, count: usize) {
        for page in self.pages.iter_mut().skip(first).take(count) {
            // What it was is in what is expected, or does not matter.
            page.side = match page.side {
                Side::Private | Side::Shared => Side::Busy,
                Side::Busy => Side::Busy,
            };
        }
    }

    fn message(
        &mut self,
        op: Op,
        arg: u64,
        words: [u64; 6],
        expected: Expected,
    ) -> (Message, Op, Expected) {
        self.tag = self.tag.wrapping_add(1);
        let message = Message {
            op: op as u32,
            tag: self.tag,
            arg,
            words,
        };
        (message, op, expected)
    }

    fn answered(&mut self, answer: Message) -> Result<(), Wrong> {
        let Some((asked, op, expected)) = self.waiting.pop_front() else {
            return Err(Wrong::Answer(Op::Idle, answer));
        };
        let nonsense = Wrong::Answer(op, answer);
        if (answer.op, answer.tag, answer.arg) != (asked.op, asked.tag, asked.arg) {
            return Err(nonsense);
        }
        self.counts.messages += 1;
        let first = answer.words.first().copied().unwrap_or_default();
        match expected {
            Expected::Sealed(plain) => {
                if answer.words == plain {
                    return Err(nonsense);
                }
                let back =
                    self.message(Op::Seal, answer.arg, answer.words, Expected::Opened(plain));
                self.again.push_back(back);
            }
            Expected::Opened(plain) => {
                if answer.words != plain {
                    return Err(nonsense);
                }
                self.counts.sealed += 1;
            }
            Expected::Filled { page, seed } => {
                self.settle(page, 1, self.side_of(page), Some(seed));
                self.counts.filled += 1;
            }
            Expected::Sum { page } => {
                let seed = self.pages.get(page).and_then(|page| page.seed);
                let sum = (0..WORDS).fold(0_u64, |sum, word| {
                    sum.wrapping_add(expected_word(seed, word))
                });
                if first != sum {
                    return Err(nonsense);
                }
                self.settle(page, 1, self.side_of(page), None);
                self.counts.summed += 1;
            }
            Expected::Converted {
                first: page,
                count,
                to,
            } => {
                let is = |answer: Answer| first == answer.code();
                let done = is(Answer::Done(0));
                if is(Answer::InUse) || is(Answer::Busy) || is(Answer::TooOften) {
                    self.counts.held += 1;
                } else if !done && (!is(Answer::Unsupported) || keeps_private(self.region)) {
                    return Err(nonsense);
                }
                let side = match (done, to) {
                    (true, to) => to,
                    (false, Side::Private) => Side::Shared,
                    (false, _) => Side::Private,
                };
                self.settle(page, count, side, None);
                match (done, side) {
                    (true, Side::Shared) => {
                        self.counts.shown += count as u64;
                        self.look(page, count)?;
                    }
                    (true, _) => {
                        self.counts.hidden += count as u64;
                        self.try_to_read(page)?;
                    }
                    _ => {}
                }
            }
            Expected::Nonsense => {
                let refusals = [
                    // The guest's own: past its last page.
                    Answer::Unknown,
                    Answer::Misaligned,
                    Answer::NoMemory,
                    Answer::TooLong,
                    Answer::TooOften,
                ];
                if !refusals.iter().any(|answer| first == answer.code()) {
                    return Err(nonsense);
                }
                self.counts.nonsense += 1;
            }
        }
        Ok(())
    }

    /// What the region says of a page.
    fn side_of(&self, page: usize) -> Side {
        let offset = WORK as usize + page * PAGE;
        match self.region.state(offset) {
            Some(PageState::Private) => Side::Private,
            _ => Side::Shared,
        }
    }

    fn settle(&mut self, first: usize, count: usize, side: Side, seed: Option<u64>) {
        for page in self.pages.iter_mut().skip(first).take(count) {
            page.side = side;
            page.seed = seed.or(page.seed);
        }
    }

    /// Shared pages hold what the guest has put there.
    fn look(&self, first: usize, count: usize) -> Result<(), Wrong> {
        for (page, is) in self.pages.iter().enumerate().skip(first).take(count) {
            let words = read(self.region, page as u64)
                .map_err(|error| Wrong::Unreadable(page as u64, error.to_string()))?;
            for (word, &found) in words.iter().enumerate() {
                let expected = expected_word(is.seed, word);
                if found != expected {
                    let page = page as u64;
                    return Err(Wrong::Lost {
                        page,
                        word,
                        expected,
                        found,
                    });
                }
            }
        }
        Ok(())
    }

    /// A private page is refused, and a system call that does not ask does not get what is in it: it fails, or
    /// finds a page that is nobody's.
    fn try_to_read(&mut self, page: usize) -> Result<(), Wrong> {
        let leaked = Err(Wrong::Leaked(page as u64));
        if read(self.region, page as u64).is_ok() {
            return leaked;
        }
        let offset = WORK as usize + page * PAGE;
        let host = self.region.backing().host().wrapping_add(offset);
        // The first word is where a page that was filled begins.
        let Some(seed) = self.pages.get(page).and_then(|page| page.seed) else {
            return Ok(());
        };
        match word_by_kernel(host) {
            Err(Errno::FAULT) => {}
            Ok(word) if word != seed => {}
            _ => return leaked,
        }
        self.counts.out_of_reach += 1;
        Ok(())
    }
}

/// How many pages the guest works on.
fn pages(region: &GuestRegion) -> usize {
    (region.len() - WORK as usize) / PAGE
}

fn expected_word(seed: Option<u64>, word: usize) -> u64 {
    seed.map_or(0, |seed| seed + word as u64)
}

fn read(region: &GuestRegion, page: u64) -> Result<[u64; WORDS], vm_memory::GuestMemoryError> {
    let mut bytes = [0; PAGE];
    let at = MemoryRegionAddress(WORK + page * PAGE as u64);
    region.read_slice(&mut bytes, at)?;
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Ok(words)
}

/// What a system call finds that is told to read a word there.
fn word_by_kernel(address: *const u8) -> Result<u64, Errno> {
    let (reader, writer) = rustix::pipe::pipe()?;
    // SAFETY: only the kernel looks at the bytes, and says EFAULT where it cannot.
    let bytes = unsafe { std::slice::from_raw_parts(address, 8) };
    rustix::io::write(&writer, bytes)?;
    let mut word = [0; 8];
    rustix::io::read(&reader, &mut word)?;
    Ok(u64::from_le_bytes(word))
}

/// Reads pages as fast as it can, whosever they are. What it gets is one page's contents, whole.
pub(crate) fn read_everything(
    region: &GuestRegion,
    reads: &Reads,
    stop: &AtomicBool,
) -> Result<(), Wrong> {
    let mut chance = Chance(0x1234_5678_9abc_def1);
    while !stop.load(Ordering::Relaxed) {
        let page = match chance.below(4) {
            0 => chance.below(pages(region)),
            _ => reads.window.load(Ordering::Relaxed) + chance.below(WINDOW),
        };
        let page = (page % pages(region)) as u64;
        let words = match read(region, page) {
            Ok(words) => words,
            Err(error) => {
                let Some(Error::Refused(refused)) = ram::cause(&error) else {
                    return Err(Wrong::Unreadable(page, error.to_string()));
                };
                if !matches!(refused.why, Why::Private | Why::Converting) {
                    return Err(Wrong::Unreadable(page, refused.to_string()));
                }
                reads.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
        };
        let seed = words.first().copied().filter(|word| *word != 0);
        // Where pages are always shared, the guest may be writing to this one.
        if keeps_private(region) {
            for (word, &found) in words.iter().enumerate() {
                let expected = expected_word(seed, word);
                if found != expected || seed.is_some_and(|seed| seed >> 40 != page) {
                    return Err(Wrong::Lost {
                        page,
                        word,
                        expected,
                        found,
                    });
                }
            }
        }
        reads.whole.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
