//! Pinning the pages, as a device or a pipe does, so that they are read by their frame.

use super::{Attacker, Broken, Captive, Outcome, Reach, contains, pinned, setup};
use rustix::io::Errno;
use strongroom_core::Protection;
use strongroom_sys::{PAGE, page_ceil};

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

    fn reach(&self) -> Reach {
        Reach::Place
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let (bytes, result) = match pages(victim) {
            Whose::Partners => victim.pages("vmsplice")?,
            Whose::Programs { start, len } => pinned::vmsplice(victim.pid(), start, len)?,
            Whose::Nobodys(why) => return Ok(Outcome::Skipped(why)),
        };
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

    fn reach(&self) -> Reach {
        Reach::Place
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        if !setup::is_on_a_device(victim.directory()) {
            return Ok(Outcome::Skipped(setup::NO_DEVICE.to_owned()));
        }
        let path = victim.directory().join(format!("direct-{}", victim.pid()));
        let (written, result) = match pages(victim) {
            Whose::Partners => {
                let answer = victim.ask(&format!("direct {}", path.display()))?;
                let written = std::fs::read(&path).unwrap_or_default();
                let _ = std::fs::remove_file(&path);
                (written, number(&answer)?)
            }
            Whose::Programs { start, len } => pinned::direct(victim.pid(), start, len, &path)?,
            Whose::Nobodys(why) => return Ok(Outcome::Skipped(why)),
        };
        let outcome = if contains(&written, victim.secret()) {
            Outcome::Leaked("read from the file".to_owned())
        } else {
            refusal("write", result)?
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

    fn reach(&self) -> Reach {
        Reach::Place
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let (bytes, result) = match pages(victim) {
            Whose::Partners => victim.pages("io-uring")?,
            Whose::Programs { start, len } => pinned::io_uring(victim.pid(), start, len)?,
            Whose::Nobodys(why) => return Ok(Outcome::Skipped(why)),
        };
        let outcome = if contains(&bytes, victim.secret()) {
            Outcome::Leaked("pinned, and read from the pipe".to_owned())
        } else {
            refusal("IORING_REGISTER_BUFFERS", result)?
        };
        victim.prove()?;
        Ok(outcome)
    }
}

/// Who makes the call that pins.
enum Whose {
    /// The victim, when it is told.
    Partners,
    /// The program, which is made to: its pages, in bytes.
    Programs { start: u64, len: u64 },
    /// Nobody can, for this reason.
    Nobodys(String),
}

fn pages(victim: &Captive) -> Whose {
    // What a pipe takes at once.
    const MOST: usize = 16 * PAGE;
    if !victim.is_program() {
        return Whose::Partners;
    }
    if !victim.is_attacked_by_root() {
        return Whose::Nobodys("only root has a program make the call".to_owned());
    }
    let end = page_ceil(victim.address() + victim.secret().len());
    let len = end.map_or(usize::MAX, |end| end - victim.page());
    if len > MOST {
        return Whose::Nobodys(format!("the secret is longer than {MOST} bytes"));
    }
    Whose::Programs {
        start: victim.page() as u64,
        len: len as u64,
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
