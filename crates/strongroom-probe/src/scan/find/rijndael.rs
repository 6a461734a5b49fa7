//! The key expansion of AES (FIPS 197, 5.2), forwards and backwards, on words whose first byte is the
//! most significant.

/// The words of the longest schedule.
pub(super) const MOST_WORDS: usize = 60;

/// A schedule; the words past its size's count are 0.
pub(super) type Words = [u32; MOST_WORDS];

/// The length of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Aes128,
    Aes192,
    Aes256,
}

impl Size {
    #[cfg(test)]
    pub(super) const ALL: [Size; 3] = [Size::Aes128, Size::Aes192, Size::Aes256];

    /// Words of the key.
    pub(super) const fn key(self) -> usize {
        match self {
            Size::Aes128 => 4,
            Size::Aes192 => 6,
            Size::Aes256 => 8,
        }
    }

    /// Rounds.
    pub(super) const fn rounds(self) -> usize {
        self.key() + 6
    }

    /// Words of the schedule.
    pub(super) const fn words(self) -> usize {
        4 * (self.rounds() + 1)
    }

    pub(super) const fn bits(self) -> usize {
        32 * self.key()
    }

    /// Whether word `index` is the sum of two earlier ones, with no S-box between.
    pub(super) const fn is_linear(self, index: usize) -> bool {
        index >= self.key()
            && !index.is_multiple_of(self.key())
            && !(self.key() == 8 && index % 8 == 4)
    }

    /// What the word before `index` contributes to the word at `index`.
    pub(super) fn feed(self, index: usize, before: u32) -> u32 {
        if index.is_multiple_of(self.key()) {
            let round = (index / self.key()).saturating_sub(1);
            let constant = ROUND_CONSTANTS.get(round).copied().unwrap_or_default();
            substitute(before.rotate_left(8)) ^ u32::from(constant) << 24
        } else if self.is_linear(index) {
            before
        } else {
            substitute(before)
        }
    }

    /// The whole schedule from as many words in a row as the key has, which start at word `from` of it.
    pub(super) fn expand(self, from: usize, known: &[u32]) -> Words {
        let (key, words) = (self.key(), self.words());
        let mut schedule = [0; MOST_WORDS];
        for (place, word) in schedule.iter_mut().skip(from).zip(known.iter().take(key)) {
            *place = *word;
        }
        let at = |schedule: &Words, index: usize| schedule.get(index).copied().unwrap_or_default();
        for index in from + key..words {
            let word = at(&schedule, index - key) ^ self.feed(index, at(&schedule, index - 1));
            if let Some(place) = schedule.get_mut(index) {
                *place = word;
            }
        }
        for index in (key..from + key).rev() {
            let word = at(&schedule, index) ^ self.feed(index, at(&schedule, index - 1));
            if let Some(place) = schedule.get_mut(index - key) {
                *place = word;
            }
        }
        schedule
    }
}

const ROUND_CONSTANTS: [u8; 10] = [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36];

const SUBSTITUTION: [u8; 256] = substitution();

/// The S-box: the inverse in GF(2^8), and an affine map (FIPS 197, 5.1.1).
const fn substitution() -> [u8; 256] {
    let mut table = [0; 256];
    let (mut element, mut inverse) = (1u8, 1u8);
    // 3 generates the field; its powers and those of its inverse, 0xf6, meet every element but 0.
    loop {
        element ^= double(element);
        inverse ^= inverse << 1;
        inverse ^= inverse << 2;
        inverse ^= inverse << 4;
        if inverse & 0x80 != 0 {
            inverse ^= 0x09;
        }
        table[element as usize] = inverse
            ^ inverse.rotate_left(1)
            ^ inverse.rotate_left(2)
            ^ inverse.rotate_left(3)
            ^ inverse.rotate_left(4)
            ^ 0x63;
        if element == 1 {
            break;
        }
    }
    table[0] = 0x63;
    table
}

const fn double(element: u8) -> u8 {
    (element << 1) ^ if element & 0x80 != 0 { 0x1b } else { 0 }
}

fn substitute(word: u32) -> u32 {
    u32::from_be_bytes(
        word.to_be_bytes()
            .map(|byte| SUBSTITUTION.get(usize::from(byte)).copied().unwrap_or(0)),
    )
}

/// MixColumns of one column (FIPS 197, 5.1.3).
pub(super) fn mix(word: u32) -> u32 {
    let [a, b, c, d] = word.to_be_bytes();
    let all = a ^ b ^ c ^ d;
    u32::from_be_bytes([
        a ^ all ^ double(a ^ b),
        b ^ all ^ double(b ^ c),
        c ^ all ^ double(c ^ d),
        d ^ all ^ double(d ^ a),
    ])
}

/// InvMixColumns: MixColumns has order four.
pub(super) fn unmix(word: u32) -> u32 {
    mix(mix(mix(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197, appendix A: the last words of the expanded example keys.
    #[test]
    fn the_standards_examples() {
        let cases: [(Size, &[u32], u32); 3] = [
            (
                Size::Aes128,
                &[0x2b7e1516, 0x28aed2a6, 0xabf71588, 0x09cf4f3c],
                0xb6630ca6,
            ),
            (
                Size::Aes192,
                &[
                    0x8e73b0f7, 0xda0e6452, 0xc810f32b, 0x809079e5, 0x62f8ead2, 0x522c6b7b,
                ],
                0x01002202,
            ),
            (
                Size::Aes256,
                &[
                    0x603deb10, 0x15ca71be, 0x2b73aef0, 0x857d7781, 0x1f352c07, 0x3b6108d7,
                    0x2d9810a3, 0x0914dff4,
                ],
                0x706c631e,
            ),
        ];
        for (size, key, last) in cases {
            let schedule = size.expand(0, key);
            assert_eq!(schedule[size.words() - 1], last, "{size:?}");
            for from in 0..=size.words() - size.key() {
                assert_eq!(size.expand(from, &schedule[from..]), schedule, "{from}");
            }
        }
    }

    #[test]
    fn mixing_is_undone() {
        // FIPS 197, appendix B, round 1.
        assert_eq!(mix(0xd4bf5d30), 0x046681e5);
        for word in [0, 1, 0xdead_beef, u32::MAX] {
            assert_eq!(unmix(mix(word)), word);
        }
    }
}
