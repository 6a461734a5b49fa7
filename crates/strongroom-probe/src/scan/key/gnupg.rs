//! Keys of gpg-agent's private-keys-v1.d, where they are not encrypted: an s-expression by itself, in
//! canonical form, or under `Key:` in a file of names and values, in advanced form (agent/keyformat.txt
//! of GnuPG).

use super::{Key, Part, Unusable, curve, rsa};
use memchr::memmem;
use zeroize::Zeroizing;

pub(super) fn parse(contents: &[u8]) -> Result<Key, Unusable> {
    for (mark, why) in [
        (
            b"protected-private-key".as_slice(),
            Unusable::GnupgEncryption,
        ),
        (b"shadowed-private-key", Unusable::OnACard),
    ] {
        if memmem::find(contents, mark).is_some() {
            return Err(why);
        }
    }
    let start = contents.iter().position(|&byte| byte == b'(');
    let atoms = atoms(start.and_then(|at| contents.get(at..)).unwrap_or_default());
    let value = |name: &str| -> Option<&[u8]> {
        let at = atoms.iter().position(|atom| **atom == name.as_bytes())?;
        atoms.get(at + 1).map(|atom| atom.as_slice())
    };
    let has = |name: &str| atoms.iter().any(|atom| **atom == name.as_bytes());
    if has("rsa") {
        let numbers = [
            value("n"),
            value("e"),
            value("d"),
            value("p"),
            value("q"),
            value("u"),
        ];
        let [Some(n), Some(e), Some(d), Some(p), Some(q), Some(u)] = numbers else {
            return Err(Unusable::NotAKey);
        };
        let parts = rsa::parts(d, p, q, u);
        return Ok(Key::new(
            "ssh-rsa".to_owned(),
            rsa::fingerprint(n, e),
            parts,
        ));
    }
    let (Some(curve), Some(d)) = (value("curve"), value("d")) else {
        let kinds = ["dsa", "elg", "ecc"];
        let kind = kinds.into_iter().find(|kind| has(kind));
        return Err(kind.map_or(Unusable::NotAKey, |kind| {
            Unusable::Algorithm(kind.to_owned())
        }));
    };
    if curve.eq_ignore_ascii_case(b"Ed25519") {
        // Leading zeros may be left out.
        let mut seed = Zeroizing::new([0; 32]);
        let from = d.len().saturating_sub(32);
        let d = d.get(from..).unwrap_or_default();
        if let Some(place) = seed.get_mut(32 - d.len()..) {
            place.copy_from_slice(d);
        }
        let fingerprint = Some(curve::edwards_fingerprint(&seed));
        let algorithm = "ssh-ed25519".to_owned();
        return Ok(Key::new(algorithm, fingerprint, curve::edwards(&seed)));
    }
    let named = value("q").and_then(curve::point);
    let curve = String::from_utf8_lossy(curve).into_owned();
    let (algorithm, fingerprint) = named.map_or((curve, None), |(name, print)| (name, Some(print)));
    // Curve25519 and 448 have scalars, too.
    Ok(Key::new(
        algorithm,
        fingerprint,
        vec![Part::number("scalar", d)],
    ))
}

/// The atoms of an s-expression, without its parentheses: words, `#hexadecimal#`, `"text"` and
/// `length:bytes`.
fn atoms(text: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut atoms = Vec::new();
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let (atom, after) = match first {
            b'#' => {
                let end = tail.iter().position(|&byte| byte == b'#');
                let (digits, after) = tail.split_at(end.unwrap_or(tail.len()));
                (Some(unhex(digits)), after.get(1..).unwrap_or_default())
            }
            b'"' => {
                let end = tail.iter().position(|&byte| byte == b'"');
                let (inside, after) = tail.split_at(end.unwrap_or(tail.len()));
                let atom = Zeroizing::new(inside.to_vec());
                (Some(atom), after.get(1..).unwrap_or_default())
            }
            b'0'..=b'9' => counted(rest),
            byte if byte.is_ascii_alphabetic() => {
                let is_word =
                    |byte: &u8| byte.is_ascii_alphanumeric() || b"-./_:*+=".contains(byte);
                let end = rest.iter().position(|byte| !is_word(byte));
                let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
                (Some(Zeroizing::new(word.to_vec())), after)
            }
            _ => (None, tail),
        };
        atoms.extend(atom);
        rest = after;
    }
    atoms
}

/// `length:bytes`; digits that are not that are passed over.
fn counted(text: &[u8]) -> (Option<Zeroizing<Vec<u8>>>, &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    let (digits, after) = text.split_at(end.unwrap_or(text.len()));
    let length = std::str::from_utf8(digits)
        .ok()
        .and_then(|d| d.parse().ok());
    let bytes = after.strip_prefix(b":").zip(length);
    match bytes.and_then(|(bytes, length)| bytes.split_at_checked(length)) {
        Some((bytes, after)) => (Some(Zeroizing::new(bytes.to_vec())), after),
        None => (None, after),
    }
}

/// Pairs of digits, with blanks and line ends between.
fn unhex(digits: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    let mut high = None;
    for digit in digits.iter().filter_map(|&c| char::from(c).to_digit(16)) {
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push(u8::try_from(high << 4 | digit).unwrap_or_default()),
        }
    }
    bytes
}
