//! What a victim hears and says: lines, without allocating.

use std::fmt::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use strongroom_sys::Errno;

pub(super) fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

pub(super) fn stdout() -> BorrowedFd<'static> {
    rustix::stdio::stdout()
}

/// What a system call returned, as one number.
pub(super) fn code(result: Result<usize, Errno>) -> i64 {
    match result {
        Ok(value) => i64::try_from(value).unwrap_or(i64::MAX),
        Err(error) => -i64::from(error.raw_os_error()),
    }
}

/// A line on standard output, by one write and without allocating.
pub(super) fn say(text: fmt::Arguments<'_>) -> Result<(), Errno> {
    let mut line = Line::default();
    // A line that is too long is cut; none is.
    let _ = line.write_fmt(text);
    let _ = line.write_char('\n');
    say_all(line.bytes.get(..line.len).unwrap_or_default())
}

/// Bytes on standard output, as they are.
pub(super) fn say_all(mut rest: &[u8]) -> Result<(), Errno> {
    while !rest.is_empty() {
        match rustix::io::write(stdout().as_fd(), rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Bytes as a line can show them.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(super) struct Line {
    bytes: [u8; 600],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 600],
            len: 0,
        }
    }
}

impl Line {
    /// One line of standard input, byte by byte: nothing is read ahead.
    pub(super) fn read(&mut self) -> Result<(), Errno> {
        self.len = 0;
        while let Some(place) = self.bytes.get_mut(self.len..=self.len) {
            match rustix::io::read(stdin(), &mut *place) {
                Ok(0) => return Err(Errno::PIPE),
                Ok(_) if *place == *b"\n" => return Ok(()),
                Ok(_) => self.len += 1,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::TOOBIG)
    }

    pub(super) fn words(&self) -> (&str, &str) {
        let text = self.bytes.get(..self.len).unwrap_or_default();
        let text = std::str::from_utf8(text).unwrap_or_default();
        text.split_once(' ').unwrap_or((text, ""))
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
