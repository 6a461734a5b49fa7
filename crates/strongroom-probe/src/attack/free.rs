//! What is left of a secret once its memory is freed.

use super::{Attacker, Broken, Captive, Outcome, contains, search};
use strongroom_core::Protection;

/// The freed memory, as its owner sees it, and all that can be read of the process from outside.
pub(super) struct Free;

impl Attacker for Free {
    fn name(&self) -> &'static str {
        "free"
    }

    fn protection(&self) -> Protection {
        Protection::WipedOnFree
    }

    fn about(&self) -> &'static str {
        "after free, the old address is read by its owner and the whole process from outside"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let secret = victim.secret().to_vec();
        let (before, _) = victim.pages("dump")?;
        if !contains(&before, &secret) {
            return Err(Broken(
                "the victim's own dump does not show its secret".to_owned(),
            ));
        }
        if victim.ask("free")? != "freed" {
            return Err(Broken("the victim did not free".to_owned()));
        }
        let (after, result) = victim.pages("dump")?;
        if contains(&after, &secret) {
            return Ok(Outcome::Leaked("still at the old address".to_owned()));
        }
        let here = if result < 0 {
            "nothing is mapped at the old address"
        } else {
            "wiped at the old address"
        };
        Ok(match search::first(victim.pid(), &secret) {
            Ok(Some((place, _))) => Outcome::Leaked(format!("still at {place:#x}")),
            Ok(None) => Outcome::Held(format!("{here}, and nowhere else from outside")),
            // It may not be looked into.
            Err(_) => Outcome::Held(here.to_owned()),
        })
    }
}
