//! Receipts as text, in a buffer of the caller's.

use core::ffi::c_char;
use core::fmt;
use serde::{Serialize, Serializer};
use std::io;
use strongroom::Receipt;

/// A receipt with what only its owner knows; sizes in bytes. The fields are those of the receipts of
/// `strongroom run`.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    pub(crate) schema: u32,
    pub(crate) keeper: &'static str,
    /// How much each keeper keeps: one may have stood in for another.
    #[serde(serialize_with = "by_keeper")]
    pub(crate) kept: &'a [(&'static str, usize)],
    #[serde(flatten)]
    pub(crate) receipt: Receipt,
    pub(crate) bytes: usize,
    pub(crate) chunks: usize,
}

fn by_keeper<S: Serializer>(kept: &&[(&'static str, usize)], s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(kept.iter().filter(|(_, bytes)| *bytes > 0).copied())
}

impl Document<'_> {
    /// Writes it as one line of JSON. Returns the length of all of it.
    pub(crate) fn write(&self, mut text: Text) -> usize {
        // The text takes all there is, and nothing here can fail to be JSON.
        let _ = serde_json::to_writer(&mut text, self);
        text.finish()
    }
}

/// Text for a caller's buffer, as snprintf(3) has it: cut off where the buffer ends, with a zero after it,
/// and its whole length told.
pub(crate) struct Text {
    at: *mut u8,
    /// How much of the buffer is left for text.
    room: usize,
    /// Whether there is a buffer, so that there is room for the zero.
    zero: bool,
    len: usize,
}

impl Text {
    /// # Safety
    /// `len` bytes from `buffer` must be writable and the caller's until the text is finished, unless
    /// `buffer` is null.
    pub(crate) unsafe fn new(buffer: *mut c_char, len: usize) -> Self {
        let zero = !buffer.is_null() && len > 0;
        Self {
            at: buffer.cast(),
            room: if zero { len.saturating_sub(1) } else { 0 },
            zero,
            len: 0,
        }
    }

    fn push(&mut self, part: &[u8]) {
        let fits = part.len().min(self.room);
        // SAFETY: `room` bytes from `at` are the buffer's, and one more; the part is elsewhere.
        unsafe {
            core::ptr::copy_nonoverlapping(part.as_ptr(), self.at, fits);
            self.at = self.at.add(fits);
        }
        self.room = self.room.saturating_sub(fits);
        self.len = self.len.saturating_add(part.len());
    }

    /// Ends the text. Returns its length, without the zero, as if the buffer had held all.
    pub(crate) fn finish(self) -> usize {
        if self.zero {
            // SAFETY: one byte is left for it.
            unsafe { self.at.write(0) };
        }
        self.len
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.push(part.as_bytes());
        Ok(())
    }
}

impl io::Write for Text {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.push(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
