//! Between two uses: whether the program itself can read the secret then, and whether the
//! processor's caches still have it.

use super::bounds::loaded;
use super::{Attacker, Broken, Captive, Outcome};
use strongroom_core::Protection;

/// A bug that reads at any address, in a program that has no use for its secret at the time.
pub(super) struct Idle;

impl Attacker for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn protection(&self) -> Protection {
        Protection::ClosedWhenIdle
    }

    fn about(&self) -> &'static str {
        "the victim loads the secret by its address alone, between uses, as a bug in it could"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        victim.send(b"load\n")?;
        match loaded(victim)? {
            Ok(bytes) if bytes == victim.secret() => {
                victim.prove()?;
                Ok(Outcome::Leaked("open between uses".to_owned()))
            }
            Ok(_) => {
                victim.prove()?;
                Ok(Outcome::Held("other bytes between uses".to_owned()))
            }
            Err(signal) => Ok(Outcome::Held(format!("{signal} between uses"))),
        }
    }
}

/// Timing of a load after the use.
pub(super) struct Cache;

impl Attacker for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn protection(&self) -> Protection {
        Protection::Uncached
    }

    fn about(&self) -> &'static str {
        "after a use, the time that a load of the secret takes says whether the caches have it"
    }

    // Whatever else the processor does meanwhile takes time and lines of its caches.
    fn attempts(&self) -> usize {
        3
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let answer = victim.ask("reload")?;
        let numbers: Vec<u32> = answer
            .split(' ')
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect();
        let &[secret, cached, flushed] = numbers.as_slice() else {
            return Err(Broken(format!("the victim says: {answer}")));
        };
        victim.prove()?;
        Ok(judge(secret, cached, flushed))
    }
}

/// In ticks of the time stamp counter: the secret's line, one that is cached, one that is not.
fn judge(secret: u32, cached: u32, flushed: u32) -> Outcome {
    let figures = format!("{secret} ticks; cached {cached}, flushed {flushed}");
    // A memory access takes several times what a hit takes, the look at the counter included.
    if flushed < cached.saturating_mul(3) / 2 {
        return Outcome::Skipped(format!(
            "the clock does not tell a cached line from a flushed one here ({figures})"
        ));
    }
    if secret < cached.midpoint(flushed) {
        Outcome::Leaked(format!("in the caches after the use ({figures})"))
    } else {
        Outcome::Held(format!("not in the caches after the use ({figures})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_tell_only_where_they_differ() {
        assert!(matches!(judge(60, 50, 300), Outcome::Leaked(_)));
        assert!(matches!(judge(290, 50, 300), Outcome::Held(_)));
        assert!(matches!(judge(60, 50, 60), Outcome::Skipped(_)));
    }
}
