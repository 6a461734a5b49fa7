//! A storm: processors, devices and converters on the same memory at once, and a checker that knows what each byte must be.
//!
//! The memory has two parts. On the pages of the first one, each processor and each device has a word
//! of its own that nobody else writes, and counts in it all the time, while converters move the pages back and
//! forth: a word that is not what its owner left there is a lost byte. Blocks of the second one are used by one at a
//! time, who writes them, checks them, asks for conversions from inside of the guest, keeps or drops: a model
//! says what they must hold, and that the monitor must not see it while they are private.
//!
//! STRONGROOM_STORM_MIB and STRONGROOM_STORM_SECONDS make it larger: 1024 and 60 is the full one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eyes;
mod guest;

use eyes::read_by_kernel;
use guest::{Guest, MIB, Processor, address, each};
use rustix::io::Errno;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use strongroom_guest::kvm::Limits;
use strongroom_guest::kvm::request::{Function, KEEP, Request};
use strongroom_guest::{Contents, Error, PAGE, Side, Why, ram};
use vm_memory::{Bytes, GuestAddress};

const WORDS: usize = PAGE / 8;
const PROCESSORS: u64 = 2;
const DEVICES: usize = 2;
/// A device's word on a page, beside the processors' at 0, 1, …
const DEVICE_WORD: usize = 100;
/// The last byte of each word that is written to a block, which zero memory does not have.
const MARK: u64 = 0x5a << 56;
/// Lengths of blocks, in pages.
const BLOCKS: [usize; 6] = [1, 3, 16, 100, 512, 1];

/// Numbers in no order (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

/// What a block must be.
struct Block {
    page: usize,
    pages: usize,
    side: Side,
    /// The first of its words, which count up; none for zero.
    first: Option<u64>,
}

#[derive(Default)]
struct Done {
    rounds: AtomicU64,
    device: AtomicU64,
    refused: AtomicU64,
    converted: AtomicU64,
    requests: AtomicU64,
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// Uses one block.
fn use_block(guest: &Guest, vcpu: &mut Processor, block: &mut Block, dice: &mut Dice, done: &Done) {
    let words = block.pages * WORDS;
    let check = |vcpu: &mut Processor, block: &Block| match block.first {
        Some(first) => assert_eq!(vcpu.differs(block.page, words, first), None),
        None => {
            let page = block.page + block.pages / 2;
            assert_eq!(vcpu.read(page, 0), Ok(0), "page {page} was dropped");
            assert_eq!(vcpu.read(block.page + block.pages - 1, PAGE - 8), Ok(0));
        }
    };
    check(vcpu, block);
    let view = guest.region().backing().host();
    match block.side {
        Side::Private => {
            let page = block.page + dice.roll(block.pages);
            let at = page * PAGE + dice.roll(WORDS) * 8 + 7;
            let seen = read_by_kernel(view.wrapping_add(at));
            assert!(
                matches!(seen, Err(Errno::FAULT | Errno::HWPOISON) | Ok(0)),
                "{seen:?}"
            );
            assert!(guest.region().guard(at..at + 1).is_err());
        }
        Side::Shared => {
            if let Some(first) = block.first {
                let word = dice.roll(words);
                let at = address(block.page) + word as u64 * 8;
                let seen: u64 = guest.ram.read_obj(GuestAddress(at)).unwrap();
                assert_eq!(seen, first + word as u64);
            }
        }
    }
    match dice.roll(4) {
        0 => {
            let first = MARK | (dice.roll(1 << 30) as u64) << 20;
            vcpu.fill(block.page, words, first);
            block.first = Some(first);
        }
        choice => {
            let keep = choice != 1;
            let (function, to) = match block.side {
                Side::Private => (Function::Share, Side::Shared),
                Side::Shared => (Function::Hide, Side::Private),
            };
            let answer = vcpu.request(Request {
                function: function as u64,
                address: address(block.page),
                length: (block.pages * PAGE) as u64,
                flags: if keep { KEEP } else { 0 },
            });
            assert_eq!(answer, 0, "{function:?}, {} pages", block.pages);
            block.side = to;
            block.first = block.first.filter(|_| keep);
            done.requests.fetch_add(1, Relaxed);
        }
    }
    check(vcpu, block);
}

fn storm(name: &str, guest: &Guest, len: usize, time: Duration) {
    let counted = len / PAGE / 4;
    // The rest is blocks.
    let mut blocks = Vec::new();
    let mut page = counted;
    for pages in BLOCKS.into_iter().cycle() {
        if page + pages > len / PAGE || blocks.len() == 200 {
            break;
        }
        blocks.push(Mutex::new(Block {
            page,
            pages,
            side: Side::Shared,
            first: None,
        }));
        page += pages;
    }
    let done = Done::default();
    let end = Instant::now() + time;
    let (done_ref, blocks_ref) = (&done, &blocks);
    let (rounds, counts) = std::thread::scope(|scope| {
        let processors: Vec<_> = (0..PROCESSORS)
            .map(|number| {
                let mut vcpu = guest.processor(number);
                scope.spawn(move || {
                    let mut dice = Dice(number + 7);
                    let mut round = 0;
                    while Instant::now() < end {
                        let rounds = round..round + 1 + dice.roll(40) as u64;
                        let differs = vcpu.count(0, counted, rounds.clone(), number as usize);
                        assert_eq!(differs, None, "{name}: rounds {rounds:?}");
                        round = rounds.end;
                        done_ref.rounds.store(round, Relaxed);
                        let block = &blocks_ref[dice.roll(blocks_ref.len())];
                        if let Ok(mut block) = block.try_lock() {
                            use_block(guest, &mut vcpu, &mut block, &mut dice, done_ref);
                        }
                    }
                    round
                })
            })
            .collect();
        let devices: Vec<_> = (0..DEVICES)
            .map(|number| {
                scope.spawn(move || {
                    let mut dice = Dice(number as u64 + 70);
                    let mut counts = vec![0u64; counted];
                    let mut kept = Vec::new();
                    while Instant::now() < end {
                        let page = dice.roll(counted);
                        let at = page * PAGE + (DEVICE_WORD + number) * 8;
                        match guest.region().slice(at..at + 8) {
                            Ok(slice) => {
                                let seen: u64 = slice.read_obj(0).unwrap();
                                assert_eq!(seen, counts[page], "{name}: page {page}");
                                counts[page] += 1;
                                slice.write_obj(counts[page], 0).unwrap();
                                done_ref.device.fetch_add(1, Relaxed);
                                // Some keep their pages for a while.
                                if dice.roll(4) == 0 {
                                    kept.push(slice);
                                }
                            }
                            Err(Error::Refused(refused)) => {
                                assert!(matches!(refused.why, Why::Private | Why::Converting));
                                done_ref.refused.fetch_add(1, Relaxed);
                            }
                            Err(other) => panic!("{other}"),
                        }
                        if kept.len() > 20 || dice.roll(50) == 0 {
                            kept.clear();
                            std::thread::yield_now();
                        }
                    }
                    counts
                })
            })
            .collect();
        let converter = scope.spawn(move || {
            let mut dice = Dice(700);
            while Instant::now() < end {
                let start = dice.roll(counted);
                let pages = match dice.roll(3) {
                    0 => 1,
                    1 => 1 + dice.roll(16),
                    _ => 1 + dice.roll(512),
                };
                let bytes = start * PAGE..(start + pages).min(counted) * PAGE;
                let to = [Side::Private, Side::Shared][dice.roll(2)];
                let patience = Duration::from_millis(dice.roll(20) as u64);
                match guest.region().convert(bytes, to, Contents::Kept, patience) {
                    Ok(()) => {
                        done_ref.converted.fetch_add(pages as u64, Relaxed);
                    }
                    Err(Error::Refused(refused)) => {
                        assert!(matches!(refused.why, Why::Held { .. }), "{refused}");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        });
        converter.join().unwrap();
        let rounds: Vec<_> = processors
            .into_iter()
            .map(|it| it.join().unwrap())
            .collect();
        let counts: Vec<_> = devices.into_iter().map(|it| it.join().unwrap()).collect();
        (rounds, counts)
    });
    // All of it, by the monitor.
    guest
        .convert(0..len / PAGE, Side::Shared, Contents::Kept)
        .unwrap();
    let word = |page: usize, word: usize| -> u64 {
        let at = address(page) + word as u64 * 8;
        guest.ram.read_obj(GuestAddress(at)).unwrap()
    };
    for page in 0..counted {
        for (number, round) in rounds.iter().enumerate() {
            assert_eq!(word(page, number), *round, "{name}: page {page}");
        }
        for (number, counts) in counts.iter().enumerate() {
            assert_eq!(word(page, DEVICE_WORD + number), counts[page]);
        }
        assert_eq!(word(page, 50), 0);
    }
    for block in blocks {
        let block = block.into_inner().unwrap();
        for index in (0..block.pages * WORDS).step_by(61) {
            let expected = block.first.map_or(0, |first| first + index as u64);
            assert_eq!(word(block.page, index), expected, "{name}");
        }
    }
    eprintln!(
        "{name}: {rounds:?} rounds of {counted} pages, {} device accesses, {} refused, {} pages converted, {} requests",
        done.device.load(Relaxed),
        done.refused.load(Relaxed),
        done.converted.load(Relaxed),
        done.requests.load(Relaxed),
    );
    assert!(rounds.iter().all(|round| *round > 0));
    let converted = done.converted.load(Relaxed) * done.requests.load(Relaxed);
    assert!(
        converted > 0 && done.device.load(Relaxed) > 0,
        "{name}: no storm"
    );
    // The typed error that a private page is.
    guest.convert(0..1, Side::Private, Contents::Kept).unwrap();
    let error = guest.ram.read_obj::<u64>(GuestAddress(address(0)));
    assert!(ram::cause(&error.unwrap_err()).is_some());
}

#[test]
fn no_byte_is_lost_in_a_storm() {
    let len = number("STRONGROOM_STORM_MIB", 16) * MIB;
    let time = Duration::from_secs(number("STRONGROOM_STORM_SECONDS", 3) as u64);
    let limits = Limits {
        requests: u32::MAX,
        pages: u32::MAX,
        most: u32::MAX,
        patience: Duration::from_secs(10),
    };
    each(len, limits, |name, guest| storm(name, &guest, len, time));
}
