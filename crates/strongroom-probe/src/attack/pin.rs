//! Pinning the pages, as a device or a pipe does, so that they are read by their frame.

use super::{Attacker, Broken, Captive, Outcome, captive, contains};
use rustix::io::Errno;
use strongroom_core::Protection;

/// The victim's pages spliced into a pipe, which the attacker reads.
pub(super) struct Vmsplice;

impl Attacker for Vmsplice {
    fn name(&self) -> &'static str {
        "pin-vmsplice"
    }

    fn protection(&self) -> Protection {
        Protection::NoPin
    }

    fn about(&self) -> &'static str {
        "the pages themselves go into a pipe (vmsplice) and are read there"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let (bytes, result) = victim.pages("vmsplice")?;
        let outcome = if contains(&bytes, victim.secret()) {
            Outcome::Leaked("read from the pipe".to_owned())
        } else {
            refusal("vmsplice", result)?
        };
        victim.prove()?;
        Ok(outcome)
    }
}

/// An O_DIRECT write, for which the disk's driver reads the pages.
pub(super) struct Direct;

impl Attacker for Direct {
    fn name(&self) -> &'static str {
        "pin-direct"
    }

    fn protection(&self) -> Protection {
        Protection::NoPin
    }

    fn about(&self) -> &'static str {
        "an O_DIRECT write: the disk's driver reads the pages"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        if !captive::is_on_a_device(victim.directory()) {
            return Ok(Outcome::Skipped(
                "neither $TMPDIR nor /var/tmp is on a disk; name one by TMPDIR".to_owned(),
            ));
        }
        let path = victim.directory().join(format!("direct-{}", victim.pid()));
        let answer = victim.ask(&format!("direct {}", path.display()))?;
        let written = std::fs::read(&path).unwrap_or_default();
        let _ = std::fs::remove_file(&path);
        let outcome = if contains(&written, victim.secret()) {
            Outcome::Leaked("read from the file".to_owned())
        } else {
            refusal("write", number(&answer)?)?
        };
        victim.prove()?;
        Ok(outcome)
    }
}

/// An io_uring buffer.
pub(super) struct IoUring;

impl Attacker for IoUring {
    fn name(&self) -> &'static str {
        "pin-io-uring"
    }

    fn protection(&self) -> Protection {
        Protection::NoPin
    }

    fn about(&self) -> &'static str {
        "a registered io_uring buffer pins the pages; a write from there goes into a pipe"
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let (bytes, result) = victim.pages("io-uring")?;
        let outcome = if contains(&bytes, victim.secret()) {
            Outcome::Leaked("pinned, and read from the pipe".to_owned())
        } else {
            refusal("IORING_REGISTER_BUFFERS", result)?
        };
        victim.prove()?;
        Ok(outcome)
    }
}

fn number(answer: &str) -> Result<i64, Broken> {
    answer
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| Broken(format!("the victim says: {answer}")))
}

/// Only one answer means that the pages cannot be pinned: EFAULT.
fn refusal(call: &str, result: i64) -> Result<Outcome, Broken> {
    let error = Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(0));
    match error {
        _ if result >= 0 => Err(Broken(format!(
            "{call} took {result} bytes, and the secret is not in them"
        ))),
        Errno::FAULT => Ok(Outcome::Held(format!("{call}: EFAULT"))),
        Errno::OPNOTSUPP => Ok(Outcome::Skipped(format!(
            "{call}: this kernel or file system has no such thing, or it is switched off"
        ))),
        error => Ok(Outcome::Skipped(format!(
            "{call}: {}",
            crate::thief::name(error)
        ))),
    }
}
