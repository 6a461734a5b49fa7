//! Taking a descriptor that leads to the memory.

use super::{Attacker, Broken, Captive, Outcome, Owner, Reach};
use strongroom_core::Protection;

/// pidfd_getfd and mmap, /proc/PID/fd, and map_files.
pub(super) struct Fd {
    pub(super) root: bool,
}

impl Attacker for Fd {
    fn name(&self) -> &'static str {
        if self.root { "fd-root" } else { "fd" }
    }

    fn protection(&self) -> Protection {
        Protection::NoFdSpill
    }

    fn about(&self) -> &'static str {
        if self.root {
            "root takes every descriptor (pidfd_getfd) and maps it, opens /proc/PID/fd and map_files"
        } else {
            "the same user takes every descriptor (pidfd_getfd) and maps it, opens /proc/PID/fd"
        }
    }

    fn reach(&self) -> Reach {
        Reach::Place
    }

    fn needs_root(&self) -> bool {
        self.root
    }

    fn control(&self, owner: Owner) -> Option<&'static str> {
        Some(owner.control("open-fd"))
    }

    fn ways(&self) -> &'static [&'static str] {
        &["pidfd_getfd"]
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let outcome = victim.rob("fd", self.root)?;
        victim.prove()?;
        Ok(outcome)
    }
}
