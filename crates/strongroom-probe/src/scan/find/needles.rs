//! Bytes that are known: the parts of keys that are given, and patterns.
//!
//! A heap writes its lists into what is freed, and so a number is often there but for its first 16
//! bytes. Parts of keys are therefore found in fragments too. Each is looked for by four bytes at every
//! 16th or 32nd place of it (all at once, by aho-corasick's vectors), and from there in both directions.

use super::{Found, Identity, Kind, View};
use aho_corasick::AhoCorasick;
use aho_corasick::packed::{Config, MatchKind, Searcher};
use std::collections::{HashMap, HashSet};
use zeroize::Zeroizing;

/// The shortest fragment that counts, in bytes: one is met by chance with a probability of 2⁻¹²⁸ a
/// place.
const FRAGMENT: usize = 16;
/// How many bytes are searched for at once.
const ANCHOR: usize = 4;
/// How many anchors one pass looks for; with more the vectors' first test lets too much through.
const GROUP: usize = 32;

/// Something to look for. The bytes are wiped when it is dropped; the search itself keeps four of every
/// 16 or more of them, which are not.
pub(in crate::scan) struct Needle {
    pub(in crate::scan) bytes: Zeroizing<Vec<u8>>,
    pub(in crate::scan) kind: Kind,
    /// What it is, in words.
    pub(in crate::scan) what: String,
    pub(in crate::scan) identity: Identity,
    /// Whether fragments count.
    pub(in crate::scan) in_fragments: bool,
}

impl Needle {
    /// The places of it that are looked for. Any fragment of a stride and three bytes holds one.
    fn anchors(&self) -> impl Iterator<Item = usize> + '_ {
        let last = self.bytes.len().saturating_sub(ANCHOR);
        let stride = match self.bytes.len() {
            _ if !self.in_fragments => usize::MAX,
            ..=64 => 16,
            _ => 32,
        };
        std::iter::successors(Some(0), move |at: &usize| at.checked_add(stride))
            .take_while(move |&at| at <= last)
    }
}

/// The finder.
pub(in crate::scan) struct Needles {
    needles: Vec<Needle>,
    groups: Vec<Group>,
}

struct Group {
    engine: Engine,
    /// For each pattern, the needles that have it, and where.
    owners: Vec<Vec<(usize, usize)>>,
}

enum Engine {
    Packed(Box<Searcher>),
    /// Where the processor has no vectors for it.
    Automaton(Option<AhoCorasick>),
}

impl Needles {
    /// Needles of less than four bytes are never found.
    pub(in crate::scan) fn new(needles: Vec<Needle>) -> Self {
        let mut owners: HashMap<[u8; ANCHOR], Vec<(usize, usize)>> = HashMap::new();
        let mut order = Vec::new();
        for (number, needle) in needles.iter().enumerate() {
            for at in needle.anchors() {
                let anchor = needle
                    .bytes
                    .get(at..)
                    .and_then(|b| b.first_chunk::<ANCHOR>());
                let Some(anchor) = anchor else { continue };
                let list = owners.entry(*anchor).or_insert_with(|| {
                    order.push(*anchor);
                    Vec::new()
                });
                list.push((number, at));
            }
        }
        let groups = order.chunks(GROUP).map(|anchors| {
            let packed = Config::new()
                .match_kind(MatchKind::LeftmostFirst)
                .builder()
                .extend(anchors)
                .build();
            let engine = packed.map_or_else(
                || Engine::Automaton(AhoCorasick::new(anchors).ok()),
                |searcher| Engine::Packed(Box::new(searcher)),
            );
            let owners = anchors
                .iter()
                .map(|anchor| owners.remove(anchor).unwrap_or_default());
            Group {
                engine,
                owners: owners.collect(),
            }
        });
        let groups = groups.collect();
        Self { needles, groups }
    }

    pub(in crate::scan) fn find(&self, view: &View<'_>, found: &mut Vec<Found>) {
        let mut seen = HashSet::new();
        for group in &self.groups {
            group.engine.search(view.bytes, |pattern, place| {
                for &(number, at) in group.owners.get(pattern).into_iter().flatten() {
                    let Some(needle) = self.needles.get(number) else {
                        continue;
                    };
                    let Some((from, to)) = extent(view.bytes, place, &needle.bytes, at) else {
                        continue;
                    };
                    let start = place - (at - from);
                    if view.body.contains(&start) && seen.insert((number, start)) {
                        found.extend(report(view, needle, start, from, to));
                    }
                }
            });
        }
    }
}

fn report(view: &View<'_>, needle: &Needle, start: usize, from: usize, to: usize) -> Option<Found> {
    let whole = to - from == needle.bytes.len();
    let counts = needle.in_fragments && to - from >= FRAGMENT;
    if !whole && !counts {
        return None;
    }
    let mut what = needle.what.clone();
    if !whole {
        what = format!("{what}, bytes {from} to {to} of {}", needle.bytes.len());
    }
    Some(Found {
        kind: needle.kind,
        what,
        address: view.base + start as u64,
        length: (to - from) as u64,
        identity: needle.identity.clone(),
    })
}

/// How far a needle is there around its byte `at`, which lies at `place`.
fn extent(bytes: &[u8], place: usize, needle: &[u8], at: usize) -> Option<(usize, usize)> {
    let (before, after) = (bytes.get(..place)?, bytes.get(place..)?);
    let (head, tail) = needle.split_at_checked(at)?;
    let same = |pair: &(&u8, &u8)| pair.0 == pair.1;
    let forward = after.iter().zip(tail).take_while(same).count();
    let backward = before.iter().rev().zip(head.iter().rev());
    let backward = backward.take_while(same).count();
    (forward >= ANCHOR).then_some((at - backward, at + forward))
}

impl Engine {
    /// Every place of every pattern, also where they overlap.
    fn search(&self, bytes: &[u8], mut act: impl FnMut(usize, usize)) {
        match self {
            Engine::Packed(searcher) => {
                let mut span = aho_corasick::Span::from(0..bytes.len());
                while let Some(hit) = searcher.find_in(bytes, span) {
                    act(hit.pattern().as_usize(), hit.start());
                    span.start = hit.start() + 1;
                }
            }
            Engine::Automaton(automaton) => {
                let hits = automaton.iter();
                for hit in hits.flat_map(|automaton| automaton.find_overlapping_iter(bytes)) {
                    act(hit.pattern().as_usize(), hit.start());
                }
            }
        }
    }
}
