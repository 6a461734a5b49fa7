//! PEM blocks with private keys (RFC 7468), as text or inside JSON and environment variables, where a
//! line's end is a backslash and a letter.

use super::{Found, Identity, Kind, View};
use crate::scan::key;
use memchr::memmem;

const BEGIN: &[u8] = b"-----BEGIN ";
const DASHES: &[u8] = b"-----";
/// The longest block that is followed to its end, in bytes: an RSA key of 16,384 bits.
const LONGEST: usize = 14 << 10;
/// Fewer characters of base64 hold no key.
const LEAST: usize = 48;

/// A block that begins at this place.
pub(super) fn at(view: &View<'_>, place: usize) -> Option<Found> {
    let text = view.after(place);
    let text = text.get(..LONGEST).unwrap_or(text);
    let label = text.strip_prefix(BEGIN)?;
    let end = memmem::find(label.get(..64).unwrap_or(label), DASHES)?;
    let label = std::str::from_utf8(label.get(..end)?).ok()?;
    let sound = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ';
    if !label.ends_with("PRIVATE KEY") || !label.chars().all(sound) {
        return None;
    }
    let head = BEGIN.len() + label.len() + DASHES.len();
    let body = text.get(head..)?;
    let closing = format!("-----END {label}-----");
    let close = memmem::find(body, closing.as_bytes());
    let inside = body.get(..close.unwrap_or(body.len()))?;
    let (digits, length) = base64(inside);
    let complete = close == Some(length);
    // A constant of a program that writes PEM has nothing behind it.
    if digits < LEAST {
        return None;
    }
    let length = head + length + if complete { closing.len() } else { 0 };
    let block = text.get(..length)?;
    let locked = label.starts_with("ENCRYPTED")
        || memmem::find(inside, b"Proc-Type: 4,ENCRYPTED").is_some()
        || (complete && key::is_encrypted(block));
    let state = match (complete, locked) {
        (true, false) => "",
        (true, true) => ", encrypted",
        (false, false) => ", without its end",
        (false, true) => ", encrypted, without its end",
    };
    let (algorithm, fingerprint) = complete
        .then(|| key::identify(block))
        .flatten()
        .unwrap_or_default();
    Some(Found {
        kind: Kind::Pem,
        what: format!("PEM block {label}{state}"),
        address: view.base + place as u64,
        length: length as u64,
        identity: Identity::Found {
            algorithm,
            fingerprint,
        },
    })
}

/// How many characters of base64 there are, between headers and line ends of any kind, and how far
/// they go.
fn base64(body: &[u8]) -> (usize, usize) {
    let (mut digits, mut at) = (0, 0);
    while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
        let step = match rest {
            [b'\\', b'n' | b'r', ..] => 2,
            [b'\n' | b'\r' | b' ' | b'\t', ..] => 1,
            [
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'=',
                ..,
            ] => {
                // `Proc-Type: …`, `DEK-Info: …`: a header ends with its line.
                let line = rest
                    .iter()
                    .position(|&b| b == b'\n' || b == b'\\')
                    .and_then(|end| rest.get(..end));
                match line.filter(|line| digits == 0 && line.contains(&b':')) {
                    Some(header) => header.len(),
                    None => {
                        digits += 1;
                        1
                    }
                }
            }
            _ => break,
        };
        at += step;
    }
    (digits, at)
}
