//! One mapping of an audited process.

use super::Kind;
use crate::exposure::{Adversary, Exposure, Mapping};
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

/// A mapping, and who reaches it. It serializes as the audit's JSON has it; sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What the kernel tells.
    pub mapping: Mapping,
    /// What it is for.
    pub kind: Kind,
    /// How much of it may hold a secret, present or swapped, in bytes.
    pub own: u64,
    /// Who reaches it; none where nothing is there: no page, neither present nor swapped.
    pub exposure: Option<Exposure>,
    /// For whom that was tried on pages of it; for the others it was inferred.
    pub measured: Vec<Adversary>,
}

impl Entry {
    /// How much is present, in bytes.
    pub fn present(&self) -> u64 {
        self.mapping.rss + self.mapping.hugetlb
    }
}

struct Reach<'a>(Option<&'a Exposure>);

impl Serialize for Reach<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Nothing {
            reach: &'static str,
            why: &'static str,
        }
        const NOTHING: Nothing = Nothing {
            reach: "nothing",
            why: "no page is there",
        };
        match self.0 {
            Some(exposure) => exposure.serialize(serializer),
            None => {
                let mut map = serializer.serialize_map(Some(Adversary::ALL.len()))?;
                for adversary in Adversary::ALL {
                    map.serialize_entry(adversary.name(), &NOTHING)?;
                }
                map.end()
            }
        }
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { mapping, .. } = self;
        let mut entry = serializer.serialize_struct("Entry", 13)?;
        entry.serialize_field("start", &format_args!("{:#x}", mapping.start))?;
        entry.serialize_field("end", &format_args!("{:#x}", mapping.end))?;
        entry.serialize_field("access", &String::from_utf8_lossy(&mapping.access))?;
        entry.serialize_field("name", &String::from_utf8_lossy(&mapping.name))?;
        entry.serialize_field("kind", &self.kind)?;
        entry.serialize_field("size", &mapping.len())?;
        entry.serialize_field("present", &self.present())?;
        entry.serialize_field("swapped", &mapping.swap)?;
        entry.serialize_field("locked", &mapping.locked)?;
        entry.serialize_field("writable", &mapping.is_writable())?;
        entry.serialize_field("own", &self.own)?;
        entry.serialize_field("reach", &Reach(self.exposure.as_ref()))?;
        entry.serialize_field("measured", &self.measured)?;
        entry.end()
    }
}
