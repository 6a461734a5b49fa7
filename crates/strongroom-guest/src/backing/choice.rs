//! Which backing, by really trying.

use super::{Attributes, Backing, Pair, Poison};
use crate::Error;
use crate::kvm::Machine;
use std::sync::Arc;
use strongroom_core::page::Side;

/// The best backing that there is here, and why not a better one.
#[derive(Debug)]
pub struct Choice {
    /// It.
    pub backing: Box<dyn Backing>,
    /// Those that would protect from more, best first, and what stood in the way.
    pub refused: Vec<(&'static str, Error)>,
}

/// Memory of `len` bytes for a virtual machine, by the backing that protects from most: each is made, and
/// used where it can be. `initial` is what pages should be at first; a backing that begins with shared
/// ones only is taken all the same. [`Plain`](super::Plain) and [`Driver`](super::Driver), which have no private
/// pages, are never taken, and neither is [`DriverPoison`](super::DriverPoison), whose pool is of a fixed size and
/// others': who wants one says so.
///
/// # Errors
/// That of the last one, where none can be had.
pub fn best(machine: &Arc<Machine>, len: usize, initial: Side) -> Result<Choice, Error> {
    let mut refused = Vec::new();
    match Attributes::new(machine, len, initial) {
        Ok(it) => return Ok(choice(it, refused)),
        Err(error) => refused.push(("attributes", error)),
    }
    match Pair::new(machine, len, initial) {
        Ok(it) => return Ok(choice(it, refused)),
        Err(error) => refused.push(("pair", error)),
    }
    Poison::new(len).map(|it| choice(it, refused))
}

fn choice(backing: impl Backing + 'static, refused: Vec<(&'static str, Error)>) -> Choice {
    let backing = Box::new(backing);
    Choice { backing, refused }
}
