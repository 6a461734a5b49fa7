//! The settings of a protected program, as they travel in its environment.
//!
//! The text is `key` or `key=value` fields between semicolons, the receipt's path
//! last because a path may hold a semicolon:
//!
//! `scope=heap;level=hidden;fork=copy;dumpable;best-effort;receipt-fd=900:dev:ino;receipt-path=/tmp/r`
//!
//! Reading allocates nothing: it happens inside the first `malloc` of a program.

use crate::fork::ForkPolicy;
use core::fmt;
use strongroom_core::Level;

/// The environment variable that carries the settings.
pub const VARIABLE: &str = "STRONGROOM";

/// Which memory of the program becomes secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What the program itself locks.
    Locked,
    /// All that it allocates, and what it locks.
    Heap,
}

impl Scope {
    /// The scope's name as the command line writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Scope::Locked => "locked",
            Scope::Heap => "heap",
        }
    }
}

/// An open descriptor for receipts that every protected process inherits.
///
/// Device and inode tell whether the number still means the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptDescriptor {
    /// The descriptor's number.
    pub fd: i32,
    /// `st_dev` of the file.
    pub device: u64,
    /// `st_ino` of the file.
    pub inode: u64,
}

/// The settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config<'a> {
    /// Which memory becomes secret.
    pub scope: Scope,
    /// The level that the user named and that is therefore required; without one
    /// the best the machine has is taken, at least [`Level::Locked`].
    pub level: Option<Level>,
    /// What a forked child sees.
    pub fork: ForkPolicy,
    /// Whether the process stays dumpable.
    pub dumpable: bool,
    /// Whether to go on with less than what is required.
    pub best_effort: bool,
    /// Where receipts go, first choice.
    pub receipt_fd: Option<ReceiptDescriptor>,
    /// Where receipts go when the descriptor is gone: a file to append to.
    pub receipt_path: Option<&'a [u8]>,
}

impl Default for Config<'_> {
    fn default() -> Self {
        Self {
            scope: Scope::Heap,
            level: None,
            fork: ForkPolicy::Copy,
            dumpable: false,
            best_effort: false,
            receipt_fd: None,
            receipt_path: None,
        }
    }
}

/// The text is not one that [`Config`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadConfig;

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the environment variable {VARIABLE} is not one that `strongroom run` wrote"
        )
    }
}

impl core::error::Error for BadConfig {}

impl<'a> Config<'a> {
    /// Reads the settings; allocates nothing.
    ///
    /// # Errors
    /// An unknown key or value: protection must not be guessed.
    pub fn parse(text: &'a [u8]) -> Result<Self, BadConfig> {
        let mut config = Config::default();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(path) = rest.strip_prefix(b"receipt-path=") {
                config.receipt_path = Some(path);
                break;
            }
            let end = rest.iter().position(|&b| b == b';').unwrap_or(rest.len());
            let field = core::str::from_utf8(&rest[..end]).map_err(|_| BadConfig)?;
            rest = rest.get(end + 1..).unwrap_or_default();
            match field.split_once('=').unwrap_or((field, "")) {
                ("scope", "heap") => config.scope = Scope::Heap,
                ("scope", "locked") => config.scope = Scope::Locked,
                ("level", name) => config.level = Some(name.parse().map_err(|_| BadConfig)?),
                ("fork", name) => config.fork = ForkPolicy::from_name(name).ok_or(BadConfig)?,
                ("dumpable", "") => config.dumpable = true,
                ("best-effort", "") => config.best_effort = true,
                ("receipt-fd", value) => config.receipt_fd = Some(receipt_descriptor(value)?),
                _ => return Err(BadConfig),
            }
        }
        Ok(config)
    }
}

fn receipt_descriptor(value: &str) -> Result<ReceiptDescriptor, BadConfig> {
    let mut parts = value.split(':');
    let mut next = || parts.next().ok_or(BadConfig);
    let descriptor = ReceiptDescriptor {
        fd: next()?.parse().map_err(|_| BadConfig)?,
        device: next()?.parse().map_err(|_| BadConfig)?,
        inode: next()?.parse().map_err(|_| BadConfig)?,
    };
    match parts.next() {
        None => Ok(descriptor),
        Some(_) => Err(BadConfig),
    }
}

/// Writes the settings as [`Config::parse`] reads them, without the receipt's path:
/// that is bytes, not text, and the writer appends it after [`Config::PATH_KEY`].
impl fmt::Display for Config<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scope={};fork={}", self.scope.name(), self.fork.name())?;
        if let Some(level) = self.level {
            write!(f, ";level={level}")?;
        }
        if self.dumpable {
            f.write_str(";dumpable")?;
        }
        if self.best_effort {
            f.write_str(";best-effort")?;
        }
        if let Some(ReceiptDescriptor { fd, device, inode }) = self.receipt_fd {
            write!(f, ";receipt-fd={fd}:{device}:{inode}")?;
        }
        Ok(())
    }
}

impl Config<'_> {
    /// The key that the receipt's path follows at the end of the text.
    pub const PATH_KEY: &'static [u8] = b";receipt-path=";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let config = Config {
            scope: Scope::Locked,
            level: Some(Level::Hidden),
            fork: ForkPolicy::Deny,
            dumpable: true,
            best_effort: true,
            receipt_fd: Some(ReceiptDescriptor {
                fd: 900,
                device: 7,
                inode: 1 << 40,
            }),
            receipt_path: Some(b"/tmp/a;b=\xff"),
        };
        let mut text = config.to_string().into_bytes();
        text.extend_from_slice(Config::PATH_KEY);
        text.extend_from_slice(b"/tmp/a;b=\xff");
        assert_eq!(Config::parse(&text), Ok(config));
        assert_eq!(Config::parse(b""), Ok(Config::default()));
    }

    #[test]
    fn nothing_is_guessed() {
        for text in [
            &b"scope=all"[..],
            b"level=",
            b"fork=maybe",
            b"x",
            b"scope=heap;;",
            b"receipt-fd=1:2",
            b"\xff",
        ] {
            assert_eq!(Config::parse(text), Err(BadConfig), "{text:?}");
        }
    }
}
