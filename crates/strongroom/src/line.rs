//! One line of text on the stack, for places where nothing may allocate.

use core::fmt;
use strongroom_core::Reason;
use strongroom_sys::process;

/// A line of at most 1024 bytes; what is over is cut off.
pub struct Line {
    text: [u8; 1024],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            text: [0; 1024],
            len: 0,
        }
    }
}

impl Line {
    /// The bytes written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }

    /// Ends the line and writes it to standard error in one call.
    pub fn complain(mut self) {
        self.len = self.len.min(self.text.len() - 1);
        self.text[self.len] = b'\n';
        process::complain(&self.text[..=self.len]);
    }
}

/// Writes `strongroom: what; fix` to standard error, in one call.
pub fn complain(what: fmt::Arguments<'_>, fix: &str) {
    use fmt::Write;
    let mut line = Line::default();
    let _ = write!(line, "strongroom: {what}");
    if !fix.is_empty() {
        let _ = write!(line, "; {fix}");
    }
    line.complain();
}

/// Writes `strongroom: what: reason; fix` to standard error.
pub fn complain_of(what: fmt::Arguments<'_>, reason: Reason) {
    complain(format_args!("{what}: {reason}"), reason.fix());
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.len..];
        let fits = text.len().min(room.len());
        room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}
