//! Bugs in the victim itself: past the end of a block, through a dangling pointer, freed twice.
//!
//! The victim does it on the attacker's word, to itself: a fault that stops it is what a bound is for.

use super::{Attacker, Broken, Captive, Outcome};
use crate::victim::{FILL, LENGTH, hash};
use std::os::unix::process::ExitStatusExt;
use strongroom_core::Protection;

/// A linear read that starts in the neighbouring block.
pub(super) struct OverRead;

impl Attacker for OverRead {
    fn name(&self) -> &'static str {
        "overflow-read"
    }

    fn protection(&self) -> Protection {
        Protection::Bounded
    }

    fn about(&self) -> &'static str {
        "the victim reads on past the nearest other block until it has read the secret"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let place = match neighbour(victim, "over-read")? {
            Ok(place) => place,
            Err(outcome) => return Ok(outcome),
        };
        match loaded(victim)? {
            Ok(bytes) if bytes == victim.secret() => {
                victim.prove()?;
                Ok(Outcome::Leaked(format!("read from a block {place}")))
            }
            Ok(_) => Err(Broken("other bytes than the victim's secret".to_owned())),
            Err(signal) => Ok(Outcome::Held(format!("{signal}, reading from {place}"))),
        }
    }
}

/// A linear write that starts in the neighbouring block.
pub(super) struct OverWrite;

impl Attacker for OverWrite {
    fn name(&self) -> &'static str {
        "overflow-write"
    }

    fn protection(&self) -> Protection {
        Protection::Bounded
    }

    fn about(&self) -> &'static str {
        "the victim writes on past that block and over the secret, and goes on with what it wrote"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let place = match neighbour(victim, "over-write")? {
            Ok(place) => place,
            Err(outcome) => return Ok(outcome),
        };
        let written = victim.line();
        if let Err(broken) = written {
            let signal = stopped(victim, broken)?;
            return Ok(Outcome::Held(format!("{signal}, writing from {place}")));
        }
        let answer = victim.ask("hash")?;
        if answer != format!("hash {:x}", hash([FILL; LENGTH])) {
            return Err(Broken(format!(
                "the victim wrote over its secret, and says: {answer}"
            )));
        }
        Ok(Outcome::Leaked(format!("changed from a block {place}")))
    }
}

/// What a dangling pointer reads after the free.
pub(super) struct Dangling;

impl Attacker for Dangling {
    fn name(&self) -> &'static str {
        "overflow-uaf"
    }

    fn protection(&self) -> Protection {
        Protection::WipedOnFree
    }

    fn about(&self) -> &'static str {
        "use after free: the victim itself loads the secret through a dangling pointer"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        victim.send(b"load\n")?;
        match loaded(victim)? {
            Ok(bytes) if bytes == victim.secret() => {}
            _ => return Err(Broken("the victim cannot load its own secret".to_owned())),
        }
        if victim.ask("free")? != "freed" {
            return Err(Broken("the victim did not free".to_owned()));
        }
        victim.send(b"load\n")?;
        Ok(match loaded(victim)? {
            Ok(bytes) if bytes == victim.secret() => {
                Outcome::Leaked("still there, all of it".to_owned())
            }
            Ok(bytes) => match left(&bytes, victim.secret()) {
                0 => Outcome::Held("nothing of it is there".to_owned()),
                left => Outcome::Leaked(format!("{left} bytes in a row are still there")),
            },
            Err(signal) => Outcome::Held(format!("{signal}: nothing is mapped there")),
        })
    }
}

/// The longest run of a secret's bytes that is where it was, from a length that is no chance.
fn left(bytes: &[u8], secret: &[u8]) -> usize {
    const CHANCE: usize = 4;
    let (mut longest, mut run) = (0, 0);
    for (byte, of_secret) in bytes.iter().zip(secret) {
        run = if byte == of_secret { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    if longest < CHANCE { 0 } else { longest }
}

/// One block freed twice, and given to two owners.
pub(super) struct DoubleFree;

impl Attacker for DoubleFree {
    fn name(&self) -> &'static str {
        "overflow-double"
    }

    fn protection(&self) -> Protection {
        Protection::WipedOnFree
    }

    fn about(&self) -> &'static str {
        "double free: one block is given to two owners, and the second reads the first one's secret"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let secret = victim.secret().to_vec();
        victim.send(b"double-free\n")?;
        match victim.line() {
            Ok(line) if line == "impossible" => Ok(Outcome::Skipped(
                "this memory is not freed by a pointer that could be used twice".to_owned(),
            )),
            Ok(line) if line == "once" => Ok(Outcome::Held("each block has one owner".to_owned())),
            Ok(line) if line == "twice" => {
                victim.send(&secret)?;
                match loaded(victim)? {
                    Ok(bytes) if bytes == secret => Ok(Outcome::Leaked(
                        "the second owner reads the first one's secret".to_owned(),
                    )),
                    Ok(_) => Err(Broken("one block, and other bytes".to_owned())),
                    Err(signal) => Ok(Outcome::Held(signal)),
                }
            }
            Ok(line) => Err(Broken(format!("the victim says: {line}"))),
            Err(broken) => Ok(Outcome::Held(format!(
                "noticed at free ({})",
                stopped(victim, broken)?
            ))),
        }
    }
}

/// Where the neighbour is from which the victim goes on, or what came of it where it has none.
fn neighbour(victim: &mut Captive, command: &str) -> Result<Result<String, Outcome>, Broken> {
    let answer = victim.ask(command)?;
    let words: Vec<&str> = answer.split(' ').collect();
    match words.as_slice() {
        ["neighbour", gap, side] => Ok(Ok(format!("{gap} bytes {side} it"))),
        ["alone", reach] => Ok(Err(Outcome::Held(format!(
            "no other block is within {reach} bytes of it"
        )))),
        _ => Err(Broken(format!("the victim says: {answer}"))),
    }
}

/// The bytes that the victim says it loaded, or what stopped it.
pub(super) fn loaded(victim: &mut Captive) -> Result<Result<Vec<u8>, String>, Broken> {
    let line = match victim.line() {
        Ok(line) => line,
        Err(broken) => return stopped(victim, broken).map(Err),
    };
    let bytes = line.strip_prefix("bytes ").and_then(|text| {
        let digits = text.as_bytes().chunks(2);
        let bytes = digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap_or_default(), 16).ok());
        bytes.collect::<Option<Vec<u8>>>()
    });
    bytes
        .map(Ok)
        .ok_or_else(|| Broken(format!("the victim says: {line}")))
}

/// The signal that ended the victim, where it was one of those that a bound or a check sends.
fn stopped(victim: &mut Captive, broken: Broken) -> Result<String, Broken> {
    let name = match victim.ended()?.signal() {
        Some(libc::SIGSEGV) => "SIGSEGV",
        Some(libc::SIGBUS) => "SIGBUS",
        Some(libc::SIGABRT) => "SIGABRT",
        _ => return Err(broken),
    };
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_equal_bytes_are_chance_and_more_are_a_leak() {
        assert_eq!(left(b"abcdefgh", b"abc-efgX"), 0);
        assert_eq!(left(b"--cdefgh", b"abcdefgh"), 6);
        assert_eq!(left(&[0; 8], b"abcdefgh"), 0);
    }
}
