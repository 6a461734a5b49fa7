//! Reading the memory of another process by the ways made for that.

use super::{Attacker, Broken, Captive, Outcome};
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

    fn needs_root(&self) -> bool {
        self.root
    }

    fn ways(&self) -> &'static [&'static str] {
        &["/proc/PID/mem", "ptrace", "process_vm_readv"]
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let outcome = victim.rob("peek", self.root)?;
        victim.prove()?;
        Ok(outcome)
    }
}
