//! The victim made to hand its secret over itself.

use super::{Attacker, Broken, Captive, Outcome, Reach};
use strongroom_core::Protection;

/// System calls injected by ptrace, and code written through /proc/PID/mem.
pub(super) struct Inject {
    pub(super) root: bool,
}

impl Attacker for Inject {
    fn name(&self) -> &'static str {
        if self.root { "inject-root" } else { "inject" }
    }

    fn protection(&self) -> Protection {
        Protection::NoInject
    }

    fn about(&self) -> &'static str {
        if self.root {
            "the same by root, from whom nothing keeps it: never claimed"
        } else {
            "the same user attaches and has the victim itself write its secret out, or writes its code"
        }
    }

    fn reach(&self) -> Reach {
        Reach::Place
    }

    fn needs_root(&self) -> bool {
        self.root
    }

    fn claimable(&self) -> bool {
        !self.root
    }

    fn ways(&self) -> &'static [&'static str] {
        &["injected system calls", "code written"]
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let outcome = victim.rob("inject", self.root)?;
        victim.prove()?;
        Ok(outcome)
    }
}
