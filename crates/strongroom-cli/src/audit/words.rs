//! Sizes and names, as people and terminals take them.

/// A size in bytes: `132 KiB`, `1.5 GiB`.
pub(super) fn size(bytes: u64) -> String {
    let mut unit = "B";
    let mut amount = bytes as f64;
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    if unit == "B" || amount >= 99.95 || (amount - amount.round()).abs() < 0.05 {
        format!("{amount:.0} {unit}")
    } else {
        format!("{amount:.1} {unit}")
    }
}

/// A name without what would drive a terminal: names of files and programs are anybody's.
pub(super) fn printable(name: &str) -> String {
    let safe = |c: char| {
        // Control characters, and those that turn the direction of writing.
        if c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            '\u{fffd}'
        } else {
            c
        }
    };
    name.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(132 << 10), "132 KiB");
        assert_eq!(size(10 << 30), "10 GiB");
        assert_eq!(size(u64::MAX), "16384 PiB");
    }

    #[test]
    fn names_do_not_drive_terminals() {
        assert_eq!(
            printable("/a b\x1b[31m\u{202e}"),
            "/a b\u{fffd}[31m\u{fffd}"
        );
    }
}
