//! How much an adversary reaches.

use super::Entry;
use crate::exposure::{Adversary, Reach};
use serde::Serialize;

/// Mappings and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many mappings.
    pub mappings: u64,
    /// How many bytes of them, present or swapped.
    pub bytes: u64,
}

/// What an adversary reaches of what may hold a secret ([`Entry::own`]).
#[derive(Clone, Debug, Serialize)]
pub struct Tally {
    /// Who.
    pub adversary: Adversary,
    /// It gets there.
    pub reachable: Amount,
    /// It does not.
    pub out_of_reach: Amount,
    /// It cannot be told from here.
    pub unknown: Amount,
}

impl Tally {
    /// Of an adversary, with nothing counted yet.
    pub fn new(adversary: Adversary) -> Self {
        let none = Amount::default();
        Self {
            adversary,
            reachable: none,
            out_of_reach: none,
            unknown: none,
        }
    }

    /// Counts a mapping, where it has anything that may hold a secret.
    pub fn add(&mut self, entry: &Entry) {
        let Some(exposure) = entry.exposure.as_ref().filter(|_| entry.own > 0) else {
            return;
        };
        let amount = match exposure.get(self.adversary).reach {
            Reach::Reachable => &mut self.reachable,
            Reach::OutOfReach => &mut self.out_of_reach,
            Reach::Unknown => &mut self.unknown,
        };
        amount.mappings += 1;
        amount.bytes += entry.own;
    }
}
