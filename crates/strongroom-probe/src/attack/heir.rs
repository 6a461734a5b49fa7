//! A child that inherits a descriptor.

use super::{Attacker, Broken, Captive, Loot, Outcome};
use strongroom_core::Protection;

/// A program that the victim starts, by fork and exec, and that maps every descriptor it inherits.
pub(super) struct Heir;

impl Attacker for Heir {
    fn name(&self) -> &'static str {
        "fd-inherited"
    }

    fn protection(&self) -> Protection {
        Protection::NoFdSpill
    }

    fn about(&self) -> &'static str {
        "a program that the victim starts (fork, exec) maps every descriptor that it inherits"
    }

    fn control(&self) -> &'static str {
        "open-fd"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let secret = *victim.secret();
        victim.send(b"start-heir\n")?;
        victim.send(&secret)?;
        let answer = victim.line()?;
        let loot = Loot::parse(&answer)
            .ok_or_else(|| Broken(format!("the victim's child says: {answer}")))?;
        let ended = victim.line()?;
        if ended != "heir 0" {
            return Err(Broken(format!("the victim's child failed ({ended})")));
        }
        victim.prove()?;
        Ok(Loot::sum(&[loot]))
    }
}
