//! A forked child that looks for what its parent writes later, and writes itself.

use super::{Attacker, Broken, Captive, Outcome, Owner};
use strongroom_core::Protection;

/// Writes of parent and child after a fork, each looked for by the other.
pub(super) struct Fork;

impl Attacker for Fork {
    fn name(&self) -> &'static str {
        "fork"
    }

    fn protection(&self) -> Protection {
        Protection::NoForkShare
    }

    fn about(&self) -> &'static str {
        "a forked child sees what its parent writes later, or the parent what the child writes"
    }

    // Private memory shares no writes; memfd_secret memory does.
    fn control(&self, owner: Owner) -> Option<&'static str> {
        Some(owner.control("open-fd"))
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        if victim.is_monitor() {
            let outcome = victim.look("fork")?;
            victim.prove()?;
            return Ok(outcome);
        }
        let answer = victim.ask("fork")?;
        let words: Vec<&str> = answer.split(' ').collect();
        let outcome = match words.as_slice() {
            ["fork", "true", _, "true", "true"] => {
                Outcome::Leaked("each sees what the other writes".to_owned())
            }
            ["fork", "true", _, "true", _] => {
                Outcome::Leaked("the child sees what the parent writes".to_owned())
            }
            ["fork", "true", _, _, "true"] => {
                Outcome::Leaked("the parent sees what the child writes".to_owned())
            }
            ["fork", "true", "true", "false", "false"] => {
                Outcome::Held("the child has memory of its own".to_owned())
            }
            ["fork", "true", "false", "false", "false"] => {
                Outcome::Held("the child has no such memory".to_owned())
            }
            ["fork", "refused"] => Outcome::Held("fork is refused".to_owned()),
            _ => return Err(Broken(format!("the victim says: {answer}"))),
        };
        victim.prove()?;
        Ok(outcome)
    }
}
