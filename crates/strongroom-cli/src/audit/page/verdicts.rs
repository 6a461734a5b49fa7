//! Each verdict once.

use super::super::json::Shape;
use serde::ser::{Error, SerializeMap, SerializeSeq};
use serde_json::Value;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};
use strongroom_probe::audit::Entry;
use strongroom_probe::exposure::Adversary;

/// The audit's object with numbers in the `reach` of a mapping, in the order of the adversaries, and all
/// of the different `{"reach": …, "why": …}` after the mappings: a process may have 65,530 mappings and a
/// few dozen of these. With it the time in seconds since 1970, and who wrote it.
#[derive(Default)]
pub(super) struct ToldOnce {
    all: Vec<Value>,
    numbers: HashMap<Value, usize>,
}

impl Shape for ToldOnce {
    fn mapping<S: SerializeSeq>(
        &mut self,
        mappings: &mut S,
        entry: &Entry,
    ) -> Result<(), S::Error> {
        let mut mapping = serde_json::to_value(entry).map_err(S::Error::custom)?;
        let reach = mapping
            .get_mut("reach")
            .ok_or_else(|| S::Error::custom("a mapping does not say who reaches it"))?;
        self.number(reach).map_err(S::Error::custom)?;
        mappings.serialize_element(&mapping)
    }

    fn end<M: SerializeMap>(&mut self, object: &mut M) -> Result<(), M::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        object.serialize_entry("verdicts", &self.all)?;
        object.serialize_entry("version", env!("CARGO_PKG_VERSION"))?;
        object.serialize_entry("written", &now.map_or(0, |since| since.as_secs()))
    }
}

impl ToldOnce {
    /// Puts the numbers of the verdicts in their place.
    fn number(&mut self, reach: &mut Value) -> Result<(), String> {
        let Self { all, numbers } = self;
        let mut found = Vec::with_capacity(Adversary::ALL.len());
        for adversary in Adversary::ALL {
            let name = adversary.name();
            let verdict = reach
                .get_mut(name)
                .map(Value::take)
                .ok_or_else(|| format!("a mapping does not say whether {name} reaches it"))?;
            let number = *numbers.entry(verdict).or_insert_with_key(|verdict| {
                all.push(verdict.clone());
                all.len() - 1
            });
            found.push(Value::from(number));
        }
        *reach = Value::Array(found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_verdict_is_told_once_and_none_is_lost() {
        let mut verdicts = ToldOnce::default();
        let open = json!({"reach": "reachable", "why": "x"});
        let shut = json!({"reach": "out-of-reach", "why": "x"});
        let reach = |last: &Value| {
            let each = Adversary::ALL.map(|one| (one.name().to_owned(), open.clone()));
            let mut reach = Value::Object(each.into_iter().collect());
            reach["direct-map"] = last.clone();
            reach
        };
        let (mut first, mut second) = (reach(&shut), reach(&open));
        verdicts.number(&mut first).unwrap();
        verdicts.number(&mut second).unwrap();
        assert_eq!(first, json!([0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(second, json!([0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(verdicts.all, [open.clone(), shut]);
        let error = verdicts
            .number(&mut json!({"same-user": open}))
            .unwrap_err();
        assert!(error.contains("root"), "{error}");
    }
}
