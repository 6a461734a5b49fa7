//! The audit as an object, written while the mappings are walked: it is never whole in memory.

use serde::Serialize;
use serde::ser::{Error, SerializeMap, SerializeSeq, Serializer};
use std::cell::RefCell;
use std::io::{self, Write};
use strongroom_probe::audit::{Audit, Entry, Outcome};
use strongroom_probe::exposure::Adversary;

/// How a mapping stands in the object, and what else there is.
pub(super) trait Shape {
    /// The mapping.
    fn mapping<S: SerializeSeq>(&mut self, mappings: &mut S, entry: &Entry)
    -> Result<(), S::Error>;
    /// After all of them.
    fn end<M: SerializeMap>(&mut self, object: &mut M) -> Result<(), M::Error>;
}

/// What `--json` prints.
pub(super) struct Plain;

impl Shape for Plain {
    fn mapping<S: SerializeSeq>(
        &mut self,
        mappings: &mut S,
        entry: &Entry,
    ) -> Result<(), S::Error> {
        mappings.serialize_element(entry)
    }

    fn end<M: SerializeMap>(&mut self, _object: &mut M) -> Result<(), M::Error> {
        Ok(())
    }
}

/// Writes it, shows each mapping, and returns what it all came to.
pub(crate) fn write(
    out: &mut impl Write,
    audit: Audit,
    shape: impl Shape,
    show: impl FnMut(&Entry),
) -> io::Result<Outcome> {
    let mut serializer = serde_json::Serializer::new(out);
    let process = audit.process.clone();
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("schema", &1)?;
    map.serialize_entry("pid", &process.pid)?;
    map.serialize_entry("command", &process.command)?;
    map.serialize_entry("exe", &process.program)?;
    map.serialize_entry("user", &process.user())?;
    map.serialize_entry("as_root", &audit.as_root)?;
    // Why what could be measured was not.
    map.serialize_entry("inferred", &audit.inferred)?;
    map.serialize_entry("adversaries", &Adversary::ALL.map(About))?;
    let walk = Walk(RefCell::new(State {
        audit,
        shape,
        show,
        outcome: None,
    }));
    map.serialize_entry("mappings", &walk)?;
    let State {
        mut shape, outcome, ..
    } = walk.0.into_inner();
    let outcome = outcome.ok_or_else(|| io::Error::other("the mappings were not walked"))?;
    map.serialize_entry("partial", &outcome.partial)?;
    map.serialize_entry("summary", &outcome.summary)?;
    map.serialize_entry("holes", &outcome.holes)?;
    shape.end(&mut map)?;
    SerializeMap::end(map)?;
    Ok(outcome)
}

struct About(Adversary);

impl Serialize for About {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("name", self.0.name())?;
        map.serialize_entry("about", self.0.about())?;
        map.end()
    }
}

/// A sequence of mappings that is walked when it is written.
struct Walk<H, F>(RefCell<State<H, F>>);

struct State<H, F> {
    audit: Audit,
    shape: H,
    show: F,
    outcome: Option<Outcome>,
}

impl<H: Shape, F: FnMut(&Entry)> Serialize for Walk<H, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut state = self
            .0
            .try_borrow_mut()
            .map_err(|_| S::Error::custom("the mappings are being walked"))?;
        let State {
            audit,
            shape,
            show,
            outcome,
        } = &mut *state;
        let mut mappings = serializer.serialize_seq(None)?;
        *outcome = Some(audit.walk(|entry| {
            show(entry);
            shape.mapping(&mut mappings, entry)
        })?);
        mappings.end()
    }
}
