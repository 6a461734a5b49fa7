//! What the command says when it cannot do what it was asked.

use anstyle::{AnsiColor, Style};
use std::borrow::Cow;
use std::fmt;

/// The exit status of strongroom's own failures, as of env(1) and its kin.
pub(crate) const STATUS: u8 = 125;

/// A cause, a fix and an exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    cause: Cow<'static, str>,
    fix: Cow<'static, str>,
}

impl Failure {
    /// A failure with the usual status. An empty `fix` is one that nobody knows.
    pub(crate) fn new(
        cause: impl Into<Cow<'static, str>>,
        fix: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status: STATUS,
            cause: cause.into(),
            fix: fix.into(),
        }
    }

    /// The same with another exit status.
    pub(crate) fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }

    /// Cause and fix on standard error.
    pub(crate) fn print(&self) {
        let style = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        anstream::eprintln!("{style}strongroom:{style:#} {self}");
    }

    /// The same in one line, where the user said to go on.
    pub(crate) fn print_as_warning(&self) {
        let fix = if self.fix.is_empty() {
            String::new()
        } else {
            format!(" (fix: {})", self.fix)
        };
        warn(&format!("going on all the same: {}{fix}", self.cause));
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        if self.fix.is_empty() {
            Ok(())
        } else {
            write!(f, "\n  fix: {}", self.fix)
        }
    }
}

/// One line on standard error that ends nothing.
pub(crate) fn warn(text: &str) {
    let style = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    anstream::eprintln!("{style}strongroom:{style:#} {text}");
}
