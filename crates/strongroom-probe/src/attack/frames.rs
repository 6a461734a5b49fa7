//! The kernel's direct map, read through the kernel, and what is left in the frames afterwards.

use super::direct_map::{self, Reader};
use super::{Attacker, Broken, Captive, Outcome, contains, residue};
use crate::victim::LENGTH;
use strongroom_core::Protection;

/// A kernel-mode read of the page at its direct-map address.
pub(super) struct DirectMap;

impl Attacker for DirectMap {
    fn name(&self) -> &'static str {
        "directmap"
    }

    fn protection(&self) -> Protection {
        Protection::NoDirectMap
    }

    fn about(&self) -> &'static str {
        "the kernel reads the page in its direct map, by an eBPF program (and /proc/kcore)"
    }

    fn needs_root(&self) -> bool {
        true
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let (pid, address) = (victim.pid(), victim.address() as u64);
        let secret = *victim.secret();
        let ways = [
            ("eBPF", direct_map::read(pid, address, LENGTH)),
            ("/proc/kcore", direct_map::read_kcore(pid, address, LENGTH)),
        ];
        victim.prove()?;
        let mut kept = Vec::new();
        let mut refused = Vec::new();
        for (way, answer) in ways {
            match answer {
                Ok(direct_map::Answer::Bytes(bytes)) if bytes == secret => {
                    return Ok(Outcome::Leaked(way.to_owned()));
                }
                // kcore gives zeros where the kernel has no mapping; eBPF says EFAULT.
                Ok(direct_map::Answer::Bytes(bytes))
                    if way == "/proc/kcore" && bytes.iter().all(|&byte| byte == 0) =>
                {
                    kept.push(format!("{way}: zeros"));
                }
                Ok(direct_map::Answer::Bytes(_)) => refused.push(format!("{way}: other bytes")),
                Ok(direct_map::Answer::Fault) => kept.push(format!("{way}: EFAULT")),
                Err(refusal) => refused.push(format!("{way}: {refusal}")),
            }
        }
        Ok(if kept.is_empty() {
            Outcome::Skipped(refused.join("; "))
        } else {
            Outcome::Held(kept.join("; "))
        })
    }
}

/// The frames of the secret, read again after it was freed or its process was killed.
pub(super) struct Residue {
    pub(super) killed: bool,
}

impl Attacker for Residue {
    fn name(&self) -> &'static str {
        if self.killed {
            "residue-exit"
        } else {
            "residue"
        }
    }

    fn protection(&self) -> Protection {
        Protection::WipedOnFree
    }

    fn about(&self) -> &'static str {
        if self.killed {
            "after SIGKILL, the frames that held the secret are read again through the kernel"
        } else {
            "after free, the frames that held the secret are read again through the kernel"
        }
    }

    fn needs_root(&self) -> bool {
        true
    }

    // Whoever needs a frame first may get this one.
    fn attempts(&self) -> usize {
        if self.killed { 5 } else { 1 }
    }

    // A receipt's word is about what is freed; a process that is killed frees nothing.
    fn claimable(&self) -> bool {
        !self.killed
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let skipped = |refusal: direct_map::Refusal| Ok(Outcome::Skipped(refusal.to_string()));
        let reader = match Reader::new() {
            Ok(reader) => reader,
            Err(refusal) => return skipped(refusal),
        };
        let frames = match residue::frames(victim.pid(), victim.address() as u64, LENGTH) {
            Ok(frames) => frames,
            Err(refusal) => return skipped(refusal),
        };
        let secret = *victim.secret();
        victim.prove()?;
        if self.killed {
            victim.kill()?;
        } else if victim.ask("free")? != "freed" {
            return Err(Broken("the victim did not free".to_owned()));
        }
        let pages = match residue::reread_with(&reader, &frames) {
            Ok(pages) => pages,
            Err(refusal) => return skipped(refusal),
        };
        let left = pages.iter().flatten().any(|page| contains(page, &secret));
        let mapped = pages.iter().all(Option::is_some);
        Ok(match (left, mapped) {
            (true, _) => Outcome::Leaked("still in the frame".to_owned()),
            (false, true) => Outcome::Held("no longer in the frame".to_owned()),
            (false, false) => Outcome::Held("the kernel has the frame not mapped".to_owned()),
        })
    }
}
