//! Elliptic curves' numbers.

use super::Part;
use sha2::{Digest, Sha512};
use ssh_key::HashAlg;
use ssh_key::private::Ed25519Keypair;
use ssh_key::public::{EcdsaPublicKey, Ed25519PublicKey, KeyData};
use zeroize::Zeroizing;

/// What is secret of an Ed25519 key (RFC 8032, 5.1.5): the seed, which programs keep, often with the
/// public half after it; and its hash, which signing works with, as it is and clamped.
pub(super) fn edwards(seed: &[u8; 32]) -> Vec<Part> {
    let hash = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(seed)));
    let (lower, prefix) = hash.split_at(32);
    let mut scalar = Zeroizing::new(lower.to_vec());
    if let [first, .., last] = scalar.as_mut_slice() {
        *first &= 0xf8;
        *last = *last & 0x7f | 0x40;
    }
    // The standard's order is the little endian one, and numbers are kept the other way round.
    scalar.reverse();
    vec![
        Part::bytes("Ed25519 seed", seed),
        Part::number("Ed25519 scalar", &scalar),
        Part::bytes("Ed25519 hash of the seed, first half", lower),
        Part::bytes("Ed25519 hash of the seed, second half", prefix),
    ]
}

/// What is secret of an ECDSA key.
pub(super) fn scalar(scalar: &[u8]) -> Vec<Part> {
    vec![Part::number("ECDSA scalar", scalar)]
}

/// The fingerprint of an Ed25519 key, from its seed.
pub(super) fn edwards_fingerprint(seed: &[u8; 32]) -> String {
    let public: Ed25519PublicKey = Ed25519Keypair::from_seed(seed).public;
    let key = KeyData::from(public);
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// The algorithm and the fingerprint of a public point, uncompressed as SEC1 has it.
pub(super) fn point(point: &[u8]) -> Option<(String, String)> {
    let key = KeyData::from(EcdsaPublicKey::from_sec1_bytes(point).ok()?);
    Some((
        key.algorithm().to_string(),
        key.fingerprint(HashAlg::Sha256).to_string(),
    ))
}
