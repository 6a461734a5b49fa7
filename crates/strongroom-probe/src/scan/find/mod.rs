//! The finders: each looks at a piece of memory and says what starts there.
//!
//! * [`aes_schedule`]: AES key schedules, by [`rijndael`]'s relations.
//! * [`structures`]: things that have a beginning of their own, searched for all at once:
//!   [`pem`], [`openssh`], [`der`], [`shield`].
//! * [`needles`]: the parts of keys that are given, and patterns.

mod aes_schedule;
mod der;
mod needles;
mod openssh;
mod pem;
mod rijndael;
mod shield;
mod structures;

pub(super) use der::multiply_to;
pub(super) use needles::{Needle, Needles};

use std::ops::Range;

/// Random access to the memory that is scanned, for what is found by pointers.
pub(super) trait Memory {
    /// Fills `into` from `address`; false where not all of that can be read.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;
}

/// Memory without addresses.
pub(super) struct NoMemory;

impl Memory for NoMemory {
    fn read(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

/// A piece of memory in a row.
pub(super) struct View<'a> {
    /// The address of the first byte.
    pub(super) base: u64,
    /// What is there, with what was before and comes after as far as it is known.
    pub(super) bytes: &'a [u8],
    /// Only what starts here is asked for; the rest belongs to another view.
    pub(super) body: Range<usize>,
    /// All of the memory.
    pub(super) memory: &'a dyn Memory,
}

impl View<'_> {
    fn after(&self, place: usize) -> &[u8] {
        self.bytes.get(place..).unwrap_or_default()
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A PEM block with a private key.
    Pem,
    /// A private key as OpenSSH writes it, in a file or to its agent.
    OpenSsh,
    /// A private key in DER: PKCS#1, PKCS#8 or SEC1.
    Der,
    /// OpenSSH's shield with the key that it shields.
    Shield,
    /// An AES key schedule.
    AesSchedule,
    /// A part of a key that was given.
    Component,
    /// A pattern that was given.
    Pattern,
}

impl Kind {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Pem => "pem",
            Kind::OpenSsh => "openssh",
            Kind::Der => "der",
            Kind::Shield => "shield",
            Kind::AesSchedule => "aes-schedule",
            Kind::Component => "component",
            Kind::Pattern => "pattern",
        }
    }
}

/// Whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The key of this number among those given.
    Given(usize),
    /// A key that the finding itself tells.
    Found {
        algorithm: String,
        /// Of the public half, as `ssh-keygen -l` has it; for AES, the hash of the key.
        fingerprint: Option<String>,
    },
    /// The pattern of this number among those given.
    Pattern(usize),
}

/// Something at an address.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) kind: Kind,
    /// What it is, in words.
    pub(super) what: String,
    pub(super) address: u64,
    /// In bytes.
    pub(super) length: u64,
    pub(super) identity: Identity,
}

impl Found {
    /// What is there, as far as the view has it.
    pub(super) fn bytes<'a>(&self, view: &View<'a>) -> &'a [u8] {
        let from = usize::try_from(self.address.wrapping_sub(view.base)).unwrap_or(usize::MAX);
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let bytes = view.bytes.get(from..).unwrap_or_default();
        bytes.get(..length).unwrap_or(bytes)
    }
}

/// Which finders are to look besides the needles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finders {
    /// PEM, OpenSSH, DER and shields.
    pub formats: bool,
    /// AES key schedules.
    pub schedules: bool,
}

impl Default for Finders {
    fn default() -> Self {
        Self {
            formats: true,
            schedules: true,
        }
    }
}

/// All finders that are to look.
pub(super) struct Search {
    structures: Option<structures::Structures>,
    schedules: Option<aes_schedule::Schedules>,
    needles: Needles,
}

impl Search {
    pub(super) fn new(finders: Finders, needles: Vec<Needle>) -> Self {
        Self {
            structures: finders.formats.then(structures::Structures::new),
            schedules: finders.schedules.then(aes_schedule::Schedules::default),
            needles: Needles::new(needles),
        }
    }

    /// Everything that starts in the view's body.
    pub(super) fn find(&mut self, view: &View<'_>, found: &mut Vec<Found>) {
        if let Some(structures) = &self.structures {
            structures.find(view, found);
        }
        if let Some(schedules) = &mut self.schedules {
            schedules.find(view, found);
        }
        self.needles.find(view, found);
    }
}

/// A SHA-256 hash as `ssh-keygen -l` writes one.
fn fingerprint(hash: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "SHA256:".to_owned();
    for three in hash.chunks(3) {
        let bits = three
            .iter()
            .chain([&0; 2])
            .take(3)
            .fold(0, |bits, &byte| bits << 8 | usize::from(byte));
        for digit in 0..=three.len() {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS.get(value).copied().unwrap_or_default()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn fingerprints_are_base64_without_its_end() {
        assert_eq!(
            fingerprint(&Sha256::digest(b"")),
            "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
        );
    }
}
