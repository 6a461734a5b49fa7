//! Programs that a victim starts, and what they find of it.

use super::{Attacker, Broken, Captive, Loot, Outcome, Owner};
use crate::masked;
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

    fn control(&self, owner: Owner) -> Option<&'static str> {
        Some(owner.control("open-fd"))
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let secret = victim.secret().to_vec();
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

/// A program that the victim's grandchild becomes: it looks at what it inherits, at its own memory
/// and at its grandparent's.
pub(super) struct Grandchild;

impl Attacker for Grandchild {
    fn name(&self) -> &'static str {
        "fork-exec"
    }

    fn protection(&self) -> Protection {
        Protection::NoForkShare
    }

    fn about(&self) -> &'static str {
        "a grandchild, after exec, searches its descriptors, its own memory and its grandparent's"
    }

    fn control(&self, owner: Owner) -> Option<&'static str> {
        Some(owner.control("open-fd"))
    }

    fn ways(&self) -> &'static [&'static str] {
        &["inherited descriptors"]
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        // What it looks for must not be in its own memory already.
        let masked = masked::of(victim.secret());
        victim.send(b"start-grandchild\n")?;
        victim.send(&masked)?;
        let mut loot = Vec::new();
        let ended = loop {
            let line = victim.line()?;
            match Loot::parse(&line) {
                Some(one) => loot.push(one),
                None => break line,
            }
        };
        if ended != "grandchild 0" || loot.is_empty() {
            return Err(Broken(format!("the victim's grandchild failed ({ended})")));
        }
        victim.prove()?;
        Ok(Loot::sum(&loot))
    }
}
