//! A secret in other words, byte by byte inverted: what looks through its own memory must not find its
//! own question there.

/// The other words.
pub(crate) fn of(secret: &[u8]) -> Vec<u8> {
    secret.iter().map(|byte| !byte).collect()
}

/// Where what `masked` stands for is. It is never spelt out: a copy of the question, in the memory
/// that is searched, would be taken for the answer.
pub(crate) fn position(bytes: &[u8], masked: &[u8]) -> Option<usize> {
    let first = !masked.first()?;
    memchr::memchr_iter(first, bytes).find(|&at| {
        let there = bytes.get(at..at + masked.len()).unwrap_or_default();
        there.len() == masked.len() && there.iter().zip(masked).all(|(is, not)| *is == !*not)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_needle_is_found_by_what_it_stands_for() {
        let masked = of(b"ab");
        assert_eq!(position(b"aab", &masked), Some(1));
        assert_eq!(position(b"aa", &masked), None);
        assert_eq!(position(&masked, &masked), None);
    }
}
