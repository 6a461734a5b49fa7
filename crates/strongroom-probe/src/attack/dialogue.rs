//! Lines to a victim that takes part, and its answers.

use super::Broken;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::time::Duration;

/// How long a victim may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Dialogue {
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    unread: Vec<u8>,
}

impl Dialogue {
    pub(super) fn new(stdin: ChildStdin, stdout: ChildStdout) -> Self {
        Self {
            stdin: Some(stdin),
            stdout,
            unread: Vec::new(),
        }
    }

    /// Nothing more will be said to it.
    pub(super) fn close(&mut self) {
        self.stdin = None;
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let stdin = self
            .stdin
            .as_mut()
            .ok_or_else(|| Broken("the victim listens no longer".to_owned()))?;
        stdin
            .write_all(bytes)
            .map_err(|error| Broken(format!("the victim does not listen: {error}")))
    }

    /// Sends a command and returns the line that answers it.
    pub(super) fn ask(&mut self, command: &str) -> Result<String, Broken> {
        self.send(format!("{command}\n").as_bytes())?;
        self.line()
    }

    /// Sends a command that is answered by pages, and returns those and the call's result.
    pub(super) fn pages(&mut self, command: &str) -> Result<(Vec<u8>, i64), Broken> {
        const END: &[u8] = b"\nresult ";
        self.ask(command)?;
        loop {
            let end = self.unread.windows(END.len()).rposition(|w| w == END);
            if let (Some(at), Some(b'\n')) = (end, self.unread.last()) {
                let number = self.unread.get(at + END.len()..).unwrap_or_default();
                let number = std::str::from_utf8(number).ok();
                if let Some(result) = number.and_then(|text| text.trim_end().parse().ok()) {
                    let mut bytes = std::mem::take(&mut self.unread);
                    bytes.truncate(at);
                    return Ok((bytes, result));
                }
            }
            self.more()?;
        }
    }

    pub(super) fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<(), Broken> {
        let timeout = Timespec {
            tv_sec: PATIENCE.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut ready = [PollFd::new(&self.stdout, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) => return Err(Broken("the victim does not answer".to_owned())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Broken(format!("poll: {error}"))),
        }
        let mut bytes = [0; 8192];
        match self.stdout.read(&mut bytes) {
            Ok(0) => Err(Broken("the victim has ended".to_owned())),
            Ok(read) => {
                self.unread
                    .extend_from_slice(bytes.get(..read).unwrap_or_default());
                Ok(())
            }
            Err(error) => Err(Broken(format!("the victim cannot be heard: {error}"))),
        }
    }
}
