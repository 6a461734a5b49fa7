//! The keepers, each tried with one page.

use super::super::check::{Check, Part, Status};
use strongroom::keeper::{self, KEEPERS, Keeper};
use strongroom_core::{Level, Protections};

/// A check for each keeper, and the level that the best of those that work reaches.
pub(super) fn all() -> (Vec<Check>, Option<Level>) {
    let checks = KEEPERS.into_iter().map(check).collect();
    let working = KEEPERS
        .into_iter()
        .filter(|keeper| keeper::probe(*keeper).is_ok());
    let level = working.filter_map(level_of).max();
    (checks, level)
}

fn level_of(keeper: &dyn Keeper) -> Option<Level> {
    Level::reached(keeper.offers())
}

fn check(keeper: &'static dyn Keeper) -> Check {
    let level = level_of(keeper).map_or("none", Level::name);
    let why = if keeper.offers().contains(Protections::NO_DIRECT_MAP) {
        "out of the direct map: unreadable from outside"
    } else {
        "out of swap and core dumps, and not for children"
    };
    let offers: Vec<_> = keeper.offers().members().map(|p| p.name()).collect();
    let described = |value| {
        Check::new(Part::Secrets, keeper.name(), value, why)
            .with("level", level)
            .with("protections", offers)
    };
    match keeper::probe(keeper) {
        Ok(()) => described(format!("works, and reaches the level {level}")),
        Err(reason) => described(reason.to_string())
            .with("reason", reason.word())
            .falls_short(Status::Missing, reason.fix()),
    }
}
