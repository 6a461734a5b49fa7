//! JSON that can stand inside a script element.

use std::io::{self, Write};

/// Passes JSON on with `<`, `>`, `&`, U+2028 and U+2029 as `\u…`: the HTML parser then sees no tag, no
/// comment and no character reference, whatever a path says. In JSON they stand in strings only, where
/// the escape means the same.
pub(super) struct ScriptSafe<W>(pub(super) W);

impl<W: Write> Write for ScriptSafe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        // serde_json writes whole characters, and these two begin with the same two bytes.
        let mut rest = bytes;
        while let Some(at) = rest
            .iter()
            .position(|b| matches!(b, b'<' | b'>' | b'&' | 0xe2))
        {
            let (before, special) = rest.split_at(at);
            self.0.write_all(before)?;
            let (escape, length): (&[u8], usize) = match special {
                [b'<', ..] => (b"\\u003c", 1),
                [b'>', ..] => (b"\\u003e", 1),
                [b'&', ..] => (b"\\u0026", 1),
                [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
                [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
                _ => (b"\xe2", 1),
            };
            self.0.write_all(escape)?;
            rest = special.get(length..).unwrap_or_default();
        }
        self.0.write_all(rest)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_html_could_read_is_escaped_and_it_means_the_same() {
        let text = "</script><!-- & \u{2028}\u{2029} \u{2026} ∀ \"quoted\" \\u003c";
        let mut safe = Vec::new();
        serde_json::to_writer(ScriptSafe(&mut safe), text).unwrap();
        let safe = String::from_utf8(safe).unwrap();
        assert!(
            !safe.contains(['<', '>', '&', '\u{2028}', '\u{2029}']),
            "{safe}"
        );
        assert!(safe.contains('\u{2026}') && safe.contains('∀'));
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
    }
}
