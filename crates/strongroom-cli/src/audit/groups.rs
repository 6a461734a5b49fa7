//! Mappings by what they are for, added up.

use strongroom_probe::audit::{Entry, Kind, Tally};
use strongroom_probe::exposure::Adversary;

/// Those of one kind.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) kind: Kind,
    /// Mappings with anything that may hold a secret.
    pub(super) counted: u64,
    /// Bytes of address space, bytes present, bytes that may hold a secret.
    pub(super) size: u64,
    pub(super) present: u64,
    pub(super) own: u64,
    /// In the order of [`Adversary::ALL`].
    pub(super) tallies: [Tally; Adversary::ALL.len()],
}

/// All kinds, in the order of the table.
#[derive(Debug)]
pub(super) struct Groups(pub(super) [Group; Kind::ALL.len()]);

impl Default for Groups {
    fn default() -> Self {
        Self(Kind::ALL.map(|kind| Group {
            kind,
            counted: 0,
            size: 0,
            present: 0,
            own: 0,
            tallies: Adversary::ALL.map(Tally::new),
        }))
    }
}

impl Groups {
    pub(super) fn add(&mut self, entry: &Entry) {
        let Some(group) = self.0.iter_mut().find(|group| group.kind == entry.kind) else {
            return;
        };
        group.counted += u64::from(entry.own > 0);
        group.size += entry.mapping.len();
        group.present += entry.present();
        group.own += entry.own;
        for tally in &mut group.tallies {
            tally.add(entry);
        }
    }
}
