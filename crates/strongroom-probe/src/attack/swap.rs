//! Pushing the memory out to swap.

use super::{Attacker, Broken, Captive, Outcome};
use std::fs::File;
use std::os::unix::fs::FileExt;
use strongroom_core::Protection;
use strongroom_sys::PAGE;

/// MADV_PAGEOUT, and a look at where the page is then.
pub(super) struct Swap;

impl Attacker for Swap {
    fn name(&self) -> &'static str {
        "swap"
    }

    fn protection(&self) -> Protection {
        Protection::NoSwap
    }

    fn about(&self) -> &'static str {
        "the page is pushed out (MADV_PAGEOUT), and pagemap says whether it is in the swap then"
    }

    fn needs_root(&self) -> bool {
        true
    }

    // The kernel may be busy with the page.
    fn attempts(&self) -> usize {
        3
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        if swaps.lines().count() < 2 {
            return Ok(Outcome::Skipped("no swap is on here (swapon)".to_owned()));
        }
        let answer = victim.ask("page-out")?;
        let outcome = match place(victim).map_err(|error| Broken(format!("pagemap: {error}")))? {
            Place::Swapped => Outcome::Leaked("it is in the swap".to_owned()),
            Place::Present => Outcome::Held(format!("it stays in memory ({answer})")),
            Place::Nowhere => return Err(Broken("the page is nowhere".to_owned())),
        };
        victim.prove()?;
        Ok(outcome)
    }
}

enum Place {
    Present,
    Swapped,
    Nowhere,
}

fn place(victim: &Captive) -> std::io::Result<Place> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    let mut entry = [0; 8];
    let at = (victim.page() / PAGE * 8) as u64;
    File::open(format!("/proc/{}/pagemap", victim.pid()))?.read_exact_at(&mut entry, at)?;
    let entry = u64::from_ne_bytes(entry);
    Ok(match (entry & SWAPPED != 0, entry & PRESENT != 0) {
        (true, _) => Place::Swapped,
        (false, true) => Place::Present,
        (false, false) => Place::Nowhere,
    })
}
