//! A victim that takes part: it says where its secret is, and does what it is told.

use super::dialogue::Dialogue;
use super::program::Place;
use super::{Broken, Owner, captive};
use crate::victim::{LENGTH, hash, secret_of};
use std::fs::File;
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};

/// The victim's process, which ends with this value.
#[derive(Debug)]
pub(super) struct Partner {
    child: Child,
    pub(super) dialogue: Dialogue,
}

impl Partner {
    /// Starts it and gives it a secret; a guest, what it makes its secret from.
    pub(super) fn start(mut command: Command, owner: Owner) -> Result<(Self, Place), Broken> {
        let broken = |error: io::Error| Broken(format!("the victim cannot be started: {error}"));
        let mut given = [0; LENGTH];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut given))
            .map_err(broken)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Broken("the victim has no pipes".to_owned()));
        };
        let mut partner = Self {
            child,
            dialogue: Dialogue::new(stdin, stdout),
        };
        let line = match partner.dialogue.line() {
            Ok(line) => line,
            Err(broken) => return Err(partner.complaint().unwrap_or(broken)),
        };
        let words: Vec<&str> = line.split(' ').collect();
        let &["ready", pid, address, _] = words.as_slice() else {
            let Some(refusal) = line.strip_prefix("refused ") else {
                return Err(Broken(format!("the victim says: {line}")));
            };
            return Err(Broken(refusal.parse().map_or_else(
                |_| refusal.to_owned(),
                |errno| {
                    let why = crate::thief::name(rustix::io::Errno::from_raw_os_error(errno));
                    format!("the victim could not get its memory: {why}")
                },
            )));
        };
        if pid.parse() != Ok(partner.pid()) {
            return Err(Broken("the victim has another process id".to_owned()));
        }
        let address = address.parse().unwrap_or(0);
        partner.dialogue.send(&given)?;
        let secret = match owner {
            Owner::Process => given.to_vec(),
            Owner::Guest => secret_of(&given).to_vec(),
        };
        let place = Place {
            address,
            secret,
            needle: 0,
            mapping: String::new(),
        };
        Ok((partner, place))
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether the secret is where the victim says that it is.
    pub(super) fn shows(&mut self, place: &Place) -> Result<bool, Broken> {
        let answer = self.dialogue.ask("hash")?;
        Ok(answer == format!("hash {:x}", hash(place.secret.iter().copied())))
    }

    pub(super) fn kill(&mut self) -> Result<(), Broken> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed
            .map(|_| ())
            .map_err(|error| Broken(format!("the victim cannot be killed: {error}")))
    }

    /// Waits until it has ended by itself.
    pub(super) fn ended(&mut self) -> Result<ExitStatus, Broken> {
        self.dialogue.close();
        captive::wait(&mut self.child)
    }

    /// What it, or `run`, wrote to standard error before it ended.
    fn complaint(&mut self) -> Option<Broken> {
        let _ = self.child.kill();
        let mut text = String::new();
        let _ = self.child.stderr.take()?.read_to_string(&mut text);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then_some(Broken(text))
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
