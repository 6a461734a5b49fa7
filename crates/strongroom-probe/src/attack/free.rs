//! What is left of a secret once its memory is freed.

use super::{Attacker, Broken, Captive, Outcome, contains};
use std::fs::File;
use std::os::unix::fs::FileExt;
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
        let secret = *victim.secret();
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
        Ok(match elsewhere(victim.pid(), &secret) {
            Some(Some(place)) => Outcome::Leaked(format!("still at {place:#x}")),
            Some(None) => Outcome::Held(format!("{here}, and nowhere else from outside")),
            None => Outcome::Held(here.to_owned()),
        })
    }
}

/// Where else /proc/PID/mem shows it; the outer `None` where it may not be read.
fn elsewhere(pid: i32, secret: &[u8]) -> Option<Option<u64>> {
    const STEP: u64 = 1 << 20;
    let mem = File::open(format!("/proc/{pid}/mem")).ok()?;
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mut bytes = vec![0; STEP as usize + secret.len()];
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        let range = first.split_once('-').and_then(|(start, end)| {
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(start)?, number(end)?))
        });
        if range.is_some() {
            current = range;
        }
        // Only what has pages: a reservation has none, in any number of gigabytes.
        let (Some((start, end)), "Rss:") = (current, first) else {
            continue;
        };
        if second == Some("0") {
            continue;
        }
        let mut at = start;
        while at < end {
            let want = (end - at).min(bytes.len() as u64) as usize;
            let place = bytes.get_mut(..want).unwrap_or_default();
            let got = mem.read_at(place, at).unwrap_or(0);
            let read = bytes.get(..got).unwrap_or_default();
            let hit = read
                .windows(secret.len())
                .position(|window| window == secret);
            if let Some(found) = hit {
                return Some(Some(at + found as u64));
            }
            at += if got == 0 { 4096 } else { STEP };
        }
    }
    Some(None)
}
