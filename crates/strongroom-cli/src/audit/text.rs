//! Sizes, and names that other processes chose.

/// A size in bytes, in at most six characters: `4K`, `1.5M`, `70G`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [char; 5] = ['K', 'M', 'G', 'T', 'P'];
    let mut amount = bytes as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or('K');
    for next in units {
        if amount < 1000.0 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    if bytes == 0 {
        "0".to_owned()
    } else if amount < 10.0 && amount.fract() > 0.05 {
        format!("{amount:.1}{unit}")
    } else {
        format!("{amount:.0}{unit}")
    }
}

/// What may be printed on a terminal: control characters are escaped.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        // Marks that change the direction of writing hide what is there.
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The last `width` characters, with a sign where something was left out.
pub(super) fn tail(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    let kept = text.chars().skip(count + 1 - width);
    std::iter::once('…').chain(kept).collect()
}

/// The first `width` characters, with a sign where something was left out.
pub(super) fn head(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0"),
            (4096, "4K"),
            (1_572_864, "1.5M"),
            (1_048_576, "1M"),
            (1_022_000, "998K"),
            (70 << 30, "70G"),
            (u64::MAX, "16384P"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn names_cannot_write_to_the_terminal() {
        assert_eq!(plain("a\x1b[31mb\nc"), r"a\u{1b}[31mb\nc");
        assert_eq!(plain("gnp\u{202e}exe"), r"gnp\u{202e}exe");
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(tail("/usr/lib/x.so", 8), "…ib/x.so");
        assert_eq!(head("/usr/lib", 5), "/usr…");
        assert_eq!(tail("short", 8), "short");
    }
}
