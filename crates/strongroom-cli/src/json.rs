//! What machines read.

use serde::Serialize;
use std::io::{self, Write};

/// Writes it to standard output, with a line's end.
pub(crate) fn print(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}
