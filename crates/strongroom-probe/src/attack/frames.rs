//! The kernel's direct map, read through the kernel, and what is left in the frames afterwards.

use super::direct_map::{self, Reader};
use super::sweep::{Swept, sweep};
use super::{Attacker, Broken, Captive, Loot, Outcome, Owner, Reach, contains, pool, residue};
use std::ops::Range;
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

    fn reach(&self) -> Reach {
        Reach::Place
    }

    fn needs_root(&self) -> bool {
        true
    }

    fn control(&self, owner: Owner) -> Option<&'static str> {
        Some(owner.control("plain"))
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        if pool::holds(victim.pid(), victim.address()) {
            return of_pool(victim);
        }
        if victim.is_monitor() {
            return of_guest(victim);
        }
        let (pid, address) = (victim.pid(), victim.address() as u64);
        let secret = victim.secret().to_vec();
        let ways = [
            ("eBPF", direct_map::read(pid, address, secret.len())),
            (
                "/proc/kcore",
                direct_map::read_kcore(pid, address, secret.len()),
            ),
        ];
        victim.prove()?;
        let mut kept = Vec::new();
        let mut refused = Vec::new();
        for (way, answer) in ways {
            match answer {
                Ok(direct_map::Answer::Bytes(bytes)) if bytes == secret => {
                    let hole = if is_of_kernel_image(pid, address, secret.len()) {
                        ", by the second mapping that the kernel's image has of the frame (pti=on removes it)"
                    } else {
                        ""
                    };
                    return Ok(Outcome::Leaked(format!("{way}{hole}")));
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

/// The page of a guest, wherever it is.
fn of_guest(victim: &mut Captive) -> Result<Outcome, Broken> {
    let found = Reader::new().and_then(|reader| sweep(&reader, victim.pid(), victim.secret()));
    victim.prove()?;
    Ok(match found {
        Ok(Swept {
            frame: Some(frame),
            looked,
        }) => Outcome::Leaked(format!(
            "eBPF: in frame {frame:#x}, after a look at {looked}"
        )),
        // It may be in a frame that was not looked at.
        Ok(Swept { looked, .. }) => {
            Outcome::Skipped(format!("the page was not found in {looked} frames"))
        }
        Err(refusal) => Outcome::Skipped(refusal.to_string()),
    })
}

/// The page of the kernel driver's memory, wherever in its pool it is.
fn of_pool(victim: &mut Captive) -> Result<Outcome, Broken> {
    let frames = match pool::frames() {
        Ok(frames) => frames,
        Err(refusal) => return Ok(Outcome::Skipped(refusal.to_string())),
    };
    let secret = victim.secret().to_vec();
    let all: u64 = frames.iter().map(|range| range.end - range.start).sum();
    let judge = |way: &str, leaks: Result<bool, direct_map::Refusal>, none: &str| match leaks {
        Ok(true) => Loot::leaked(way),
        Ok(false) => Loot::held(format!("{way}: {none} at each of the pool's {all} frames")),
        Err(refusal) => Loot::skipped(format!("{way}: {refusal}")),
    };
    let any = |look: &dyn Fn(Range<u64>) -> Result<bool, direct_map::Refusal>| {
        for range in &frames {
            if look(range.clone())? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mapped = Reader::new().and_then(|reader| any(&|range| reader.has_any(range)));
    let mut loot = vec![judge("eBPF", mapped, "EFAULT")];
    if std::path::Path::new("/proc/kcore").exists() {
        let shown = any(&|range| direct_map::kcore_has(range, &secret));
        loot.push(judge("/proc/kcore", shown, "nothing"));
    }
    victim.prove()?;
    Ok(Loot::sum(&loot))
}

/// Whether the page is in a frame that was freed out of the kernel's image: a known hole, which
/// explains a leak and does not excuse it.
fn is_of_kernel_image(pid: i32, address: u64, len: usize) -> bool {
    let frames = residue::frames(pid, address, len);
    match (Reader::new(), frames) {
        (Ok(reader), Ok(frames)) => frames.iter().any(|&frame| reader.is_of_kernel_image(frame)),
        _ => false,
    }
}

/// The frames of the secret, read again after it was freed or its process was killed.
pub(super) struct Residue {
    pub(super) after: After,
}

/// What ends the secret's time in its frames.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It is freed.
    Free,
    /// Its process ends by itself: the return from main, and all that is done at exit(3).
    Exit,
    /// SIGKILL.
    Kill,
}

impl Attacker for Residue {
    fn name(&self) -> &'static str {
        match self.after {
            After::Free => "residue",
            After::Exit => "residue-exit",
            After::Kill => "residue-kill",
        }
    }

    fn protection(&self) -> Protection {
        Protection::WipedOnFree
    }

    fn about(&self) -> &'static str {
        match self.after {
            After::Free => {
                "after free, the frames that held the secret are read again through the kernel"
            }
            After::Exit => "the same after the victim's own exit, without a free",
            After::Kill => "the same after SIGKILL",
        }
    }

    fn needs_root(&self) -> bool {
        true
    }

    fn reach(&self) -> Reach {
        if self.after == After::Kill {
            Reach::End
        } else {
            Reach::Partner
        }
    }

    // Whoever needs a frame first may get this one.
    fn attempts(&self) -> usize {
        if self.after == After::Free { 1 } else { 5 }
    }

    // A receipt's word is about what is freed; a process that ends frees nothing.
    fn claimable(&self) -> bool {
        self.after == After::Free
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let skipped = |refusal: direct_map::Refusal| Ok(Outcome::Skipped(refusal.to_string()));
        let reader = match Reader::new() {
            Ok(reader) => reader,
            Err(refusal) => return skipped(refusal),
        };
        let places = victim
            .places()
            .map(|(address, secret)| (address, secret.len()));
        let (pooled, others): (Vec<_>, Vec<_>) =
            places.partition(|&(address, _)| pool::holds(victim.pid(), address));
        let mut frames = Vec::new();
        for (address, len) in others {
            match residue::frames(victim.pid(), address as u64, len) {
                Ok(found) => frames.extend(found),
                Err(refusal) => return skipped(refusal),
            }
        }
        victim.prove()?;
        match self.after {
            After::Free if victim.ask("free")? != "freed" => {
                return Err(Broken("the victim did not free".to_owned()));
            }
            After::Free => {}
            After::Exit => {
                victim.send(b"end\n")?;
                let status = victim.ended()?;
                if !status.success() {
                    return Err(Broken(format!("the victim did not end well: {status}")));
                }
            }
            After::Kill => victim.kill()?,
        }
        let secrets = victim.secrets();
        let in_pool = match pooled.is_empty() {
            true => None,
            false => match left_in_pool(&secrets) {
                Ok(outcome) => Some(outcome),
                Err(refusal) => return skipped(refusal),
            },
        };
        if let (Some(outcome), true) = (&in_pool, frames.is_empty()) {
            return Ok(outcome.clone());
        }
        let pages = match residue::reread_with(&reader, &frames) {
            Ok(pages) => pages,
            Err(refusal) => return skipped(refusal),
        };
        let holds = |page: &Vec<u8>| secrets.iter().any(|secret| contains(page, secret));
        let left = pages.iter().flatten().any(holds);
        let mapped = pages.iter().all(Option::is_some);
        let in_frames = match (left, mapped) {
            (true, _) => Outcome::Leaked("still in the frame".to_owned()),
            (false, true) => Outcome::Held("no longer in the frame".to_owned()),
            (false, false) => Outcome::Held("the kernel has the frame not mapped".to_owned()),
        };
        Ok(match in_pool {
            Some(in_pool) => in_pool.and(in_frames),
            None => in_frames,
        })
    }
}

/// Whether the kernel driver's pool, as far as it is free, still holds one of these. That the kernel cannot read it is
/// for [`DirectMap`] to show.
fn left_in_pool(secrets: &[&[u8]]) -> Result<Outcome, direct_map::Refusal> {
    let taken = pool::Taken::all()?;
    let mib = taken.len() >> 20;
    Ok(if taken.has(secrets) {
        Outcome::Leaked("in the pool, for whoever takes the memory next".to_owned())
    } else {
        Outcome::Held(format!(
            "nowhere in the {mib} MiB of the pool that were free, taken and read"
        ))
    })
}
