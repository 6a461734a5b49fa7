//! Private keys in DER: PKCS#1 (RFC 8017), PKCS#8 (RFC 5958) and SEC1 (RFC 5915).
//!
//! All are a sequence that starts with a version, which is the mark; the whole of it must parse, to the
//! last byte, and the numbers must fit each other. Random bytes do not.

use super::{Found, Identity, Kind, View};
use crate::scan::key;

/// A key whose version is at this place.
pub(super) fn at_version(view: &View<'_>, place: usize) -> Option<Found> {
    // The sequence's own tag and length come right before, in two to four bytes.
    (2..=4usize).find_map(|head| {
        let start = place.checked_sub(head)?;
        let length = head + sequence(view.bytes.get(start..place)?)?;
        let bytes = view.after(start).get(..length)?;
        let (format, algorithm, fingerprint) = key::identify_der(bytes)?;
        Some(Found {
            kind: Kind::Der,
            what: format!("{format} in DER"),
            address: view.base + start as u64,
            length: length as u64,
            identity: Identity::Found {
                algorithm,
                fingerprint,
            },
        })
    })
}

/// The length that a sequence's head tells, which must be the shortest way to say it.
fn sequence(head: &[u8]) -> Option<usize> {
    match *head {
        [0x30, length] if length < 0x80 => Some(usize::from(length)),
        [0x30, 0x81, length] if length >= 0x80 => Some(usize::from(length)),
        [0x30, 0x82, high, low] if high > 0 => Some(usize::from(high) << 8 | usize::from(low)),
        _ => None,
    }
}

/// Whether `n` can be `p` times `q`, all most significant byte first: by lengths and by the last eight
/// bytes.
pub(in crate::scan) fn multiply_to(n: &[u8], p: &[u8], q: &[u8]) -> bool {
    let low = |number: &[u8]| {
        let (_, last) = number.split_at_checked(number.len().checked_sub(8)?)?;
        Some(u64::from_be_bytes(last.try_into().ok()?))
    };
    let bits = |number: &[u8]| {
        let from = number.iter().position(|&byte| byte != 0)?;
        let first = number.get(from)?;
        Some(8 * (number.len() - from) - first.leading_zeros() as usize)
    };
    let fits = |(n, p, q): (usize, usize, usize)| p + q == n || p + q == n + 1;
    matches!((low(n), low(p), low(q)), (Some(n), Some(p), Some(q)) if p.wrapping_mul(q) == n)
        && matches!((bits(n), bits(p), bits(q)), (Some(n), Some(p), Some(q)) if fits((n, p, q)))
}
