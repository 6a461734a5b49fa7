//! Private keys as OpenSSH writes them (PROTOCOL.key and PROTOCOL.agent of OpenSSH).

use super::{Found, Identity, Kind, View};
use crate::scan::openssh;
use ssh_key::private::KeypairData;
use ssh_key::public::KeyData;
use ssh_key::{HashAlg, Mpint};

/// The longest key that is parsed, in bytes: RSA of 16,384 bits.
const LONGEST: usize = 12 << 10;

/// A file's contents after the base64: `openssh-key-v1`.
pub(super) fn file_at(view: &View<'_>, place: usize) -> Option<Found> {
    let bytes = view.after(place);
    let (key, length) = openssh::file(bytes.get(..LONGEST).unwrap_or(bytes))?;
    let encrypted = if key.is_encrypted() {
        ", encrypted"
    } else {
        ""
    };
    Some(Found {
        kind: Kind::OpenSsh,
        what: format!("openssh-key-v1{encrypted}"),
        address: view.base + place as u64,
        length: length as u64,
        identity: identity(key.public_key().key_data()),
    })
}

/// A key's numbers, as they go to the agent and lie in a decrypted file.
pub(super) fn blob_at(view: &View<'_>, place: usize) -> Option<Found> {
    let (length, identity) = blob(view.after(place))?;
    Some(Found {
        kind: Kind::OpenSsh,
        what: "OpenSSH private key, as it goes to an agent".to_owned(),
        address: view.base + place as u64,
        length: length as u64,
        identity,
    })
}

/// The length and the owner of a private key's numbers.
pub(super) fn blob(bytes: &[u8]) -> Option<(usize, Identity)> {
    let (pair, length) = openssh::keypair(bytes.get(..LONGEST).unwrap_or(bytes))?;
    if !is_sound(&pair) {
        return None;
    }
    let public = KeyData::try_from(&pair).ok()?;
    Some((length, identity(&public)))
}

/// Ed25519 says its public half twice, and the decoder compares; the others are compared here.
fn is_sound(pair: &KeypairData) -> bool {
    match pair {
        KeypairData::Ed25519(_) => true,
        KeypairData::Rsa(rsa) => {
            let part = |number: &Mpint| number.as_positive_bytes().map(<[u8]>::to_vec);
            let parts = (
                part(&rsa.public.n),
                part(&rsa.private.p),
                part(&rsa.private.q),
            );
            matches!(parts, (Some(n), Some(p), Some(q)) if super::der::multiply_to(&n, &p, &q))
        }
        // A point and a scalar of the right lengths, after a name that says the curve twice.
        KeypairData::Ecdsa(_) => true,
        _ => false,
    }
}

fn identity(public: &KeyData) -> Identity {
    Identity::Found {
        algorithm: public.algorithm().to_string(),
        fingerprint: Some(public.fingerprint(HashAlg::Sha256).to_string()),
    }
}
