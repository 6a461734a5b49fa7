//! Reading the memory of another process by the ways made for that.

use super::{Attacker, Broken, Captive, Outcome, Owner, Reach};
use strongroom_core::Protection;

/// /proc/PID/mem, ptrace and process_vm_readv.
pub(super) struct Peek {
    pub(super) root: bool,
}

impl Attacker for Peek {
    fn name(&self) -> &'static str {
        if self.root { "peek-root" } else { "peek" }
    }

    fn protection(&self) -> Protection {
        Protection::NoPeek
    }

    fn about(&self) -> &'static str {
        if self.root {
            "root reads /proc/PID/mem, by ptrace and by process_vm_readv"
        } else {
            "another process of the same user reads /proc/PID/mem, by ptrace and by process_vm_readv"
        }
    }

    fn reach(&self) -> Reach {
        Reach::Place
    }

    fn needs_root(&self) -> bool {
        self.root
    }

    fn ways(&self) -> &'static [&'static str] {
        &["/proc/PID/mem", "ptrace", "process_vm_readv"]
    }

    fn control(&self, owner: Owner) -> Option<&'static str> {
        Some(owner.control("plain"))
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let way = if victim.is_monitor() {
            "peek-guest"
        } else {
            "peek"
        };
        let mut outcome = victim.rob(way, self.root)?;
        // A program may have copies where nothing keeps them, as on its stack.
        if victim.is_program() && victim.is_first_of_its_secret() {
            let found = victim.rob("search", self.root)?;
            // A place that is known is attacked by itself, and its leak told under its own name.
            let known = |detail: &str| {
                let mut places = victim.places();
                places.any(|(at, _)| detail.contains(&format!(" at {at:#x} ")))
            };
            if !matches!(&found, Outcome::Leaked(detail) if known(detail)) {
                outcome = outcome.and(found);
            }
            for pid in victim.others() {
                let found = victim.rob_process(pid, "search", self.root)?;
                if let Outcome::Leaked(detail) = found {
                    outcome = outcome.and(Outcome::Leaked(format!("process {pid}: {detail}")));
                }
            }
        }
        victim.prove()?;
        Ok(outcome)
    }
}
