//! AES key schedules, also with a few bits flipped.
//!
//! The idea is that of Halderman et al., "Lest We Remember: Cold Boot Attacks on Encryption Keys"
//! (USENIX Security 2008, 6.1): a schedule is so redundant that it is found by its inner relations,
//! wherever it lies and however it is called. Three steps:
//!
//! 1. Most words of a schedule are the sum (XOR) of the word before and the word one key length before.
//!    Every word of the memory is tested for that, for the three key lengths and for both directions
//!    in which programs keep schedules. Random words pass once in 2³² for each of the six.
//! 2. Each place where a schedule would have that relation is tried: a schedule with `f` flipped bits
//!    breaks at most `3 f` of its relations.
//! 3. Every run of as many words as the key has gives the whole schedule. The closest to what is there
//!    must differ in [`tolerated`] bits at most.
//!
//! As many flips as [`tolerated`] says are found wherever they are: they cannot break all relations of
//! step 1, nor hit all disjoint runs of step 3. More are not accepted. A random string is that close to
//! some schedule with a probability below 2⁻¹¹⁰⁰.
//!
//! Found are schedules for encryption and, as AES-NI and most libraries keep them, for decryption
//! (InvMixColumns applied, the last round first), each as bytes in the standard's order or as words in
//! the order of the machine. Schedules start at a multiple of four bytes. Bitsliced and masked ones
//! (RustCrypto without AES-NI, BearSSL, some of OpenSSL's vector code) have another form and are not
//! found.

use super::rijndael::{MOST_WORDS, Size, Words, mix, unmix};
use super::{Found, Identity, Kind, View};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The flipped bits up to which a schedule is found, wherever they are.
///
/// AES-128 has 30 relations of step 1, and a flip breaks at most three: nine leave one. It has eleven
/// disjoint runs of four words: ten leave one whole. For AES-192 it is eight runs, for AES-256 seven;
/// AES-192 kept for decryption has 20 relations left.
const fn tolerated(size: Size, use_: Use) -> usize {
    match (size, use_) {
        (Size::Aes128, _) => 9,
        (Size::Aes192, Use::Encryption) => 7,
        (Size::Aes192, Use::Decryption) | (Size::Aes256, _) => 6,
    }
}

/// Which way round a schedule is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Encryption,
    Decryption,
}

/// How the four bytes of a word lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Standard,
    Machine,
}

/// One kind of schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    size: Size,
    use_: Use,
    order: Order,
}

impl Form {
    /// The word of the schedule that lies at word `place`.
    fn index(self, place: usize) -> usize {
        match self.use_ {
            Use::Encryption => place,
            Use::Decryption => 4 * (self.size.rounds() - place / 4) + place % 4,
        }
    }

    fn is_mixed(self, index: usize) -> bool {
        self.use_ == Use::Decryption && index >= 4 && index < 4 * self.size.rounds()
    }

    /// What lies in memory, as a schedule. Its own inverse but for the mixing.
    fn read(self, lying: &[u32]) -> Words {
        let mut schedule = [0; MOST_WORDS];
        for (place, &word) in lying.iter().enumerate().take(self.size.words()) {
            let index = self.index(place);
            let word = match self.order {
                Order::Standard => word.swap_bytes(),
                Order::Machine => word,
            };
            let word = if self.is_mixed(index) {
                mix(word)
            } else {
                word
            };
            if let Some(slot) = schedule.get_mut(index) {
                *slot = word;
            }
        }
        schedule
    }

    /// In how many bits two schedules differ as they lie in memory.
    fn distance(self, one: &Words, other: &Words) -> usize {
        let pairs = one.iter().zip(other).enumerate().take(self.size.words());
        pairs
            .map(|(index, (a, b))| {
                // Mixing is linear.
                let difference = a ^ b;
                let lies = if self.is_mixed(index) {
                    unmix(difference)
                } else {
                    difference
                };
                lies.count_ones() as usize
            })
            .sum()
    }

    /// Whether so many relations hold as a schedule with the tolerated flips leaves.
    fn looks_like_one(self, schedule: &Words) -> bool {
        let mut broken = 0;
        let key = self.size.key();
        for index in key..self.size.words() {
            let word = |index: usize| schedule.get(index).copied().unwrap_or_default();
            let expected = word(index - key) ^ self.size.feed(index, word(index - 1));
            broken += usize::from(word(index) != expected);
            if broken > 3 * tolerated(self.size, self.use_) {
                return false;
            }
        }
        true
    }

    /// The schedule that is closest, and its distance; `None` where that is not close enough.
    fn repair(self, schedule: &Words) -> Option<(Words, usize)> {
        let (words, key) = (self.size.words(), self.size.key());
        let candidates = (0..=words - key).filter_map(|from| {
            let candidate = self.size.expand(from, schedule.get(from..from + key)?);
            Some((candidate, self.distance(&candidate, schedule)))
        });
        candidates
            .min_by_key(|(_, distance)| *distance)
            .filter(|(_, distance)| *distance <= tolerated(self.size, self.use_))
    }
}

/// Words on both sides of a view's own, so that every relation can be asked for.
const MARGIN: usize = 8;
/// How many words are tested at once.
const BLOCK: usize = 64;

/// The distances, in words, at which the sum of a word and the one before is looked for.
const RELATIONS: [(isize, Size, Use); 6] = [
    (-4, Size::Aes128, Use::Encryption),
    (-6, Size::Aes192, Use::Encryption),
    (-8, Size::Aes256, Use::Encryption),
    (4, Size::Aes128, Use::Decryption),
    (2, Size::Aes192, Use::Decryption),
    (8, Size::Aes256, Use::Decryption),
];

/// The finder.
#[derive(Default)]
pub(super) struct Schedules {
    words: Zeroizing<Vec<u32>>,
}

impl Schedules {
    /// Finds those that start in the view's body.
    pub(super) fn find(&mut self, view: &View<'_>, found: &mut Vec<Found>) {
        let skipped = (view.base.wrapping_neg() & 3) as usize;
        let bytes = view.bytes.get(skipped..).unwrap_or_default();
        let count = bytes.len() / 4;
        self.words.clear();
        self.words.resize(MARGIN, 0);
        let words = bytes
            .chunks_exact(4)
            .map(|four| four.try_into().map_or(0, u32::from_le_bytes));
        self.words.extend(words);
        // Zeros pass no test, see `block_passes`.
        self.words
            .resize(2 * MARGIN + count.next_multiple_of(BLOCK), 0);
        let mut accepted = 0;
        let mut at = MARGIN;
        while at < MARGIN + count {
            if block_passes(&self.words, at) {
                for index in at..at + BLOCK {
                    if index < accepted {
                        continue;
                    }
                    if let Some((start, form)) = self.at(index) {
                        let place = skipped + 4 * (start - MARGIN);
                        accepted = start + form.size.words();
                        if view.body.contains(&place) {
                            found.extend(self.report(view, place, start, form));
                        }
                    }
                }
            }
            at += BLOCK;
        }
    }

    /// A schedule that has its relation at this word.
    fn at(&self, index: usize) -> Option<(usize, Form)> {
        let word = |at: usize| self.words.get(at).copied().unwrap_or_default();
        let (here, before) = (word(index), word(index.checked_sub(1)?));
        if !is_rough(here) || !is_rough(before) || !is_rough(here ^ before) {
            return None;
        }
        let related = RELATIONS.iter().filter(|(distance, ..)| {
            index
                .checked_add_signed(*distance)
                .is_some_and(|other| word(other) == here ^ before)
        });
        for &(_, size, use_) in related {
            for order in [Order::Standard, Order::Machine] {
                let form = Form { size, use_, order };
                let place = (0..size.words()).find_map(|place| {
                    let start = index.checked_sub(place).filter(|&s| s >= MARGIN)?;
                    let tested = size.is_linear(form.index(place)) && form.has_relation(place);
                    (tested && self.is_one(start, form)).then_some(start)
                });
                if let Some(start) = place {
                    return Some((start, form));
                }
            }
        }
        None
    }

    fn is_one(&self, start: usize, form: Form) -> bool {
        let lying = self.words.get(start..start + form.size.words());
        lying.is_some_and(|lying| {
            let schedule = Zeroizing::new(form.read(lying));
            form.looks_like_one(&schedule) && form.repair(&schedule).is_some()
        })
    }

    fn report(&self, view: &View<'_>, place: usize, start: usize, form: Form) -> Option<Found> {
        let lying = self.words.get(start..start + form.size.words())?;
        let (schedule, flips) = form.repair(&form.read(lying))?;
        let schedule = Zeroizing::new(schedule);
        let mut hash = Sha256::new();
        for word in schedule.iter().take(form.size.key()) {
            hash.update(word.to_be_bytes());
        }
        let bits = form.size.bits();
        let use_ = match form.use_ {
            Use::Encryption => "encryption",
            Use::Decryption => "decryption",
        };
        let order = match form.order {
            Order::Standard => "",
            Order::Machine => ", words in machine order",
        };
        let flips = match flips {
            0 => String::new(),
            1 => ", 1 bit flipped".to_owned(),
            some => format!(", {some} bits flipped"),
        };
        Some(Found {
            kind: Kind::AesSchedule,
            what: format!("AES-{bits} schedule for {use_}{order}{flips}"),
            address: view.base + place as u64,
            length: 4 * form.size.words() as u64,
            identity: Identity::Found {
                algorithm: format!("AES-{bits}"),
                fingerprint: Some(super::fingerprint(&hash.finalize())),
            },
        })
    }
}

impl Form {
    /// Whether the words at the distance of [`RELATIONS`] are those of this place's relation: the
    /// blocks of four are in reverse for decryption, and for AES-192 some relations cross them.
    fn has_relation(self, place: usize) -> bool {
        match (self.use_, self.size) {
            (Use::Encryption, _) => true,
            (Use::Decryption, Size::Aes192) => place % 4 >= 2,
            (Use::Decryption, _) => !place.is_multiple_of(4),
        }
    }
}

/// Neither small nor round, as a word of a schedule is but once in 2¹⁵: the sums of counters, flags
/// and halves of pointers come out right far too often.
fn is_rough(word: u32) -> bool {
    word >> 16 != 0 && word & 0xffff != 0
}

/// Whether any word of the block passes. No branch and no call: this is what all memory goes through,
/// in the machine's vectors.
fn block_passes(words: &[u32], at: usize) -> bool {
    let row = |distance: isize| -> Option<&[u32; BLOCK]> {
        words
            .get(at.checked_add_signed(distance)?..)?
            .first_chunk::<BLOCK>()
    };
    let (Some(here), Some(before)) = (row(0), row(-1)) else {
        return false;
    };
    let [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f)] =
        RELATIONS.map(|(distance, ..)| row(distance))
    else {
        return false;
    };
    let mut any = 0;
    for k in 0..BLOCK {
        let sum = here[k] ^ before[k];
        let related = u32::from(sum == a[k])
            | u32::from(sum == b[k])
            | u32::from(sum == c[k])
            | u32::from(sum == d[k])
            | u32::from(sum == e[k])
            | u32::from(sum == f[k]);
        let rough = u32::from(sum & 0xffff != 0)
            & u32::from(sum & 0xffff_0000 != 0)
            & u32::from(here[k] & 0xffff != 0)
            & u32::from(here[k] & 0xffff_0000 != 0);
        any |= related & rough;
    }
    any != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lie(form: Form, schedule: &Words) -> Vec<u8> {
        let words = (0..form.size.words()).map(|place| {
            let index = form.index(place);
            let word = schedule[index];
            if form.is_mixed(index) {
                unmix(word)
            } else {
                word
            }
        });
        let bytes = |word: u32| match form.order {
            Order::Standard => word.to_be_bytes(),
            Order::Machine => word.to_le_bytes(),
        };
        words.flat_map(bytes).collect()
    }

    fn chance(seed: &mut u64) -> u64 {
        // SplitMix64.
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn forms() -> impl Iterator<Item = Form> {
        Size::ALL.into_iter().flat_map(|size| {
            [Use::Encryption, Use::Decryption]
                .into_iter()
                .flat_map(move |use_| {
                    [Order::Standard, Order::Machine]
                        .into_iter()
                        .map(move |order| Form { size, use_, order })
                })
        })
    }

    fn find(bytes: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        let view = View {
            base: 0x1000,
            bytes,
            body: 0..bytes.len(),
            memory: &super::super::NoMemory,
        };
        Schedules::default().find(&view, &mut found);
        found
    }

    fn schedule(size: Size, seed: &mut u64) -> Words {
        let key: Vec<u32> = (0..size.key()).map(|_| chance(seed) as u32).collect();
        size.expand(0, &key)
    }

    #[test]
    fn every_form_is_found_alone_and_in_a_crowd() {
        let mut seed = 1;
        for form in forms() {
            let bytes = lie(form, &schedule(form.size, &mut seed));
            let alone = find(&bytes);
            assert_eq!(alone.len(), 1, "{form:?}: {alone:?}");
            assert_eq!(alone[0].address, 0x1000);
            assert_eq!(alone[0].length, bytes.len() as u64);
            let mut crowd: Vec<u8> = (0..4096).map(|_| chance(&mut seed) as u8).collect();
            crowd.splice(1024..1024, bytes.iter().copied());
            let found = find(&crowd);
            assert_eq!(found.len(), 1, "{form:?}");
            assert_eq!(found[0].address, 0x1400);
        }
    }

    /// As many as are tolerated, at random places and all in one spot; one more is not accepted.
    #[test]
    fn flips_are_tolerated_up_to_the_bound() {
        let mut seed = 2;
        for form in forms() {
            let bound = tolerated(form.size, form.use_);
            for round in 0..20 {
                let clean = lie(form, &schedule(form.size, &mut seed));
                let mut bytes = clean.clone();
                let mut flipped = Vec::new();
                while flipped.len() < bound + 1 {
                    let bits = 8 * bytes.len() as u64;
                    // Every second round spreads them over the disjoint runs, the worst case.
                    let bit = if round % 2 == 0 {
                        chance(&mut seed) % bits
                    } else {
                        let part = bits / (bound as u64 + 1);
                        flipped.len() as u64 * part + chance(&mut seed) % part
                    };
                    if flipped.contains(&bit) {
                        continue;
                    }
                    flipped.push(bit);
                    if flipped.len() > bound {
                        break;
                    }
                    bytes[bit as usize / 8] ^= 1 << (bit % 8);
                }
                let found = find(&bytes);
                assert_eq!(found.len(), 1, "{form:?} with {bound} flips");
                assert!(found[0].what.ends_with(&format!("{bound} bits flipped")));
                assert_eq!(found[0].identity, find(&clean)[0].identity);
                let bit = flipped[bound];
                bytes[bit as usize / 8] ^= 1 << (bit % 8);
                assert!(find(&bytes).is_empty(), "{form:?}, one more than {bound}");
            }
        }
    }

    #[test]
    fn what_only_looks_regular_is_none() {
        for pattern in [
            vec![0; 8192],
            vec![0x5a; 8192],
            (0..8192u32).map(|i| i as u8).collect(),
            (0..2048u32).flat_map(u32::to_le_bytes).collect(),
            (0..1024u64)
                .flat_map(|i| (0x7f12_3456_0000 + 16 * i).to_le_bytes())
                .collect(),
        ] {
            assert!(find(&pattern).is_empty());
        }
    }
}
