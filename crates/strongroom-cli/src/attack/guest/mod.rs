//! Victims that are monitors: a guest in guest memory, by each backing, which keeps a secret of its own.

mod machine;
mod program;

pub(super) use machine::Machine;

use crate::args::VictimArg;
use std::path::Path;
use std::sync::Arc;
use strongroom_core::driver;
use strongroom_guest::backing::{Attributes, Backing, Driver, DriverPoison, Pair, Plain, Poison};
use strongroom_guest::{Error, Side, kvm};
use strongroom_probe::attack::{Owner, Visitor};

const fn visitor(name: &'static str, argument: &'static str) -> Visitor {
    Visitor {
        name,
        argument,
        owner: Owner::Guest,
        level: None,
    }
}

/// What the attackers know of those that there are here.
pub(super) fn visitors() -> impl Iterator<Item = Visitor> {
    let driver = Path::new(driver::DEVICE).exists();
    let there = move |visitor: &Visitor| driver || !visitor.argument.starts_with("guest-driver");
    VISITORS.into_iter().filter(there)
}

const VISITORS: [Visitor; 6] = [
    visitor("guest-plain", "guest-plain"),
    visitor("strongroom-guest-driver", "guest-driver"),
    visitor("strongroom-guest-driver-poison", "guest-driver-poison"),
    visitor("strongroom-guest-poison", "guest-poison"),
    visitor("strongroom-guest-pair", "guest-pair"),
    visitor("strongroom-guest-attributes", "guest-attributes"),
];

/// How a guest's memory is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Plain,
    Poison,
    Pair,
    Attributes,
    Driver,
    DriverPoison,
}

impl Kept {
    /// None for a victim that is no monitor.
    pub(super) fn of(victim: VictimArg) -> Option<Self> {
        match victim {
            VictimArg::GuestPlain => Some(Self::Plain),
            VictimArg::GuestPoison => Some(Self::Poison),
            VictimArg::GuestPair => Some(Self::Pair),
            VictimArg::GuestAttributes => Some(Self::Attributes),
            VictimArg::GuestDriver => Some(Self::Driver),
            VictimArg::GuestDriverPoison => Some(Self::DriverPoison),
            _ => None,
        }
    }

    fn backing(self, machine: &Arc<kvm::Machine>, len: usize) -> Result<Box<dyn Backing>, Error> {
        Ok(match self {
            Self::Plain => Box::new(Plain::new(len)?),
            Self::Poison => Box::new(Poison::new(len)?),
            Self::Pair => Box::new(Pair::new(machine, len, Side::Shared)?),
            Self::Attributes => Box::new(Attributes::new(machine, len, Side::Shared)?),
            Self::Driver => Box::new(Driver::new(len)?),
            Self::DriverPoison => Box::new(DriverPoison::new(len)?),
        })
    }
}
