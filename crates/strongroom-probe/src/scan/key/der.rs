//! Keys in DER and in PEM of DER: PKCS#1, PKCS#8, SEC1.

use super::{Ask, Key, Part, Unusable, curve, rsa};
use crate::scan::find::multiply_to;
use pkcs1::RsaPrivateKey;
use pkcs8::der::{Decode, asn1::ObjectIdentifier};
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo, SecretDocument};
use sec1::EcPrivateKey;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Kinds of keys that PKCS#8 carries as octets of a known length, which are looked for as they are.
const OCTETS: [(ObjectIdentifier, &str, usize); 3] = [
    (ObjectIdentifier::new_unwrap("1.3.101.110"), "X25519", 32),
    (ObjectIdentifier::new_unwrap("1.3.101.111"), "X448", 56),
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "Ed448", 57),
];

/// Others that are recognized, and whose numbers are not known.
const OTHERS: [(ObjectIdentifier, &str); 3] = [
    (ObjectIdentifier::new_unwrap("1.2.840.10040.4.1"), "DSA"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.3.1"), "DH"),
    (
        ObjectIdentifier::new_unwrap("1.2.840.10046.2.1"),
        "X9.42 DH",
    ),
];

/// A PEM block.
pub(super) fn parse_pem(block: &[u8], ask: Ask<'_>) -> Result<Key, Unusable> {
    let text = std::str::from_utf8(block).map_err(|_| Unusable::NotAKey)?;
    let (_, document) = SecretDocument::from_pem(text).map_err(|_| Unusable::NotAKey)?;
    parse(document.as_bytes(), ask)
}

/// Any of the formats.
pub(super) fn parse(bytes: &[u8], ask: Ask<'_>) -> Result<Key, Unusable> {
    if let Ok(locked) = EncryptedPrivateKeyInfo::from_der(bytes) {
        let passphrase = ask().map_err(Unusable::NoPassphrase)?;
        let open = locked
            .decrypt(passphrase.as_bytes())
            .map_err(|_| Unusable::Passphrase)?;
        return plain(open.as_bytes());
    }
    plain(bytes)
}

fn plain(bytes: &[u8]) -> Result<Key, Unusable> {
    if let Ok(info) = PrivateKeyInfo::from_der(bytes) {
        return pkcs8(&info);
    }
    pkcs1(bytes)
        .or_else(|| sec1(bytes))
        .ok_or(Unusable::NotAKey)
}

/// The format, the algorithm and the fingerprint of a key that takes all of the bytes. Only what fits
/// together counts: this is asked of whatever lies in memory.
pub(in crate::scan) fn identify(bytes: &[u8]) -> Option<(&'static str, String, Option<String>)> {
    let named = |format, key: Key| Some((format, key.algorithm.clone(), key.fingerprint.clone()));
    if let Ok(info) = PrivateKeyInfo::from_der(bytes) {
        return match pkcs8(&info) {
            Ok(key) => named("PKCS#8 private key", key),
            Err(Unusable::Algorithm(name)) if OTHERS.iter().any(|(_, other)| *other == name) => {
                Some(("PKCS#8 private key", name, None))
            }
            Err(_) => None,
        };
    }
    if let Some(key) = pkcs1(bytes) {
        return named("PKCS#1 private key", key);
    }
    named("SEC1 private key", sec1(bytes)?)
}

fn pkcs8(info: &PrivateKeyInfo<'_>) -> Result<Key, Unusable> {
    let oid = info.algorithm.oid;
    if oid == RSA || oid == RSA_PSS {
        return pkcs1(info.private_key).ok_or(Unusable::NotAKey);
    }
    if oid == CURVE {
        return sec1(info.private_key).ok_or(Unusable::NotAKey);
    }
    if oid == ED25519 {
        let seed = octets(info.private_key, 32).ok_or(Unusable::NotAKey)?;
        let seed: &[u8; 32] = seed.try_into().map_err(|_| Unusable::NotAKey)?;
        let fingerprint = Some(curve::edwards_fingerprint(seed));
        let algorithm = "ssh-ed25519".to_owned();
        return Ok(Key::new(algorithm, fingerprint, curve::edwards(seed)));
    }
    if let Some(&(_, name, length)) = OCTETS.iter().find(|(known, ..)| *known == oid) {
        let octets = octets(info.private_key, length).ok_or(Unusable::NotAKey)?;
        let part = Part::bytes("private key", octets);
        return Ok(Key::new(name.to_owned(), None, vec![part]));
    }
    let known = OTHERS.iter().find(|(known, _)| *known == oid);
    let name = known.map_or_else(|| oid.to_string(), |(_, name)| (*name).to_owned());
    Err(Unusable::Algorithm(name))
}

/// The contents of an octet string of this length (RFC 8410, 7).
fn octets(bytes: &[u8], length: usize) -> Option<&[u8]> {
    match bytes {
        [4, said, octets @ ..] if usize::from(*said) == length && octets.len() == length => {
            Some(octets)
        }
        _ => None,
    }
}

fn pkcs1(bytes: &[u8]) -> Option<Key> {
    let key = RsaPrivateKey::from_der(bytes).ok()?;
    let (n, p, q) = (
        key.modulus.as_bytes(),
        key.prime1.as_bytes(),
        key.prime2.as_bytes(),
    );
    if key.other_prime_infos.is_some() || !multiply_to(n, p, q) {
        return None;
    }
    let fingerprint = rsa::fingerprint(n, key.public_exponent.as_bytes());
    let (d, inverse) = (key.private_exponent.as_bytes(), key.coefficient.as_bytes());
    let parts = rsa::parts(d, p, q, inverse);
    Some(Key::new("ssh-rsa".to_owned(), fingerprint, parts))
}

/// The lengths of the usual curves' scalars.
const SCALARS: [usize; 5] = [24, 28, 32, 48, 66];

fn sec1(bytes: &[u8]) -> Option<Key> {
    let key = EcPrivateKey::from_der(bytes).ok()?;
    if !SCALARS.contains(&key.private_key.len()) {
        return None;
    }
    let named = key.public_key.and_then(curve::point);
    let (algorithm, fingerprint) = match named {
        Some((algorithm, fingerprint)) => (algorithm, Some(fingerprint)),
        // A point that is there has coordinates as long as the scalar.
        None => match key.public_key {
            Some([4, point @ ..]) if point.len() == 2 * key.private_key.len() => {
                ("elliptic curve".to_owned(), None)
            }
            Some([2 | 3, point @ ..]) if point.len() == key.private_key.len() => {
                ("elliptic curve".to_owned(), None)
            }
            Some(_) => return None,
            None => ("elliptic curve".to_owned(), None),
        },
    };
    Some(Key::new(
        algorithm,
        fingerprint,
        curve::scalar(key.private_key),
    ))
}
