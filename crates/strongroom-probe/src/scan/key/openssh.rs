//! Keys of OpenSSH's own format.

use super::{Ask, Key, Unusable, curve, rsa};
use crate::scan::openssh;
use ssh_key::HashAlg;
use ssh_key::private::{KeypairData, PrivateKey};

pub(super) fn parse(block: &[u8], ask: Ask<'_>) -> Result<Key, Unusable> {
    let contents = openssh::contents(block).ok_or(Unusable::NotAKey)?;
    let mut key = whole(&contents).ok_or(Unusable::NotAKey)?;
    if key.is_encrypted() {
        let passphrase = ask().map_err(Unusable::NoPassphrase)?;
        key = openssh::decrypt(&key, &contents, &passphrase).ok_or(Unusable::Passphrase)?;
    }
    let parts = match key.key_data() {
        KeypairData::Rsa(pair) => {
            let bytes = |number: &ssh_key::Mpint| -> Result<zeroize::Zeroizing<Vec<u8>>, Unusable> {
                let bytes = number.as_positive_bytes().ok_or(Unusable::NotAKey)?;
                Ok(zeroize::Zeroizing::new(bytes.to_vec()))
            };
            let private = &pair.private;
            let (d, p, q) = (bytes(&private.d)?, bytes(&private.p)?, bytes(&private.q)?);
            rsa::parts(&d, &p, &q, &bytes(&private.iqmp)?)
        }
        KeypairData::Ed25519(pair) => {
            curve::edwards(&zeroize::Zeroizing::new(pair.private.to_bytes()))
        }
        KeypairData::Ecdsa(pair) => curve::scalar(pair.private_key_bytes()),
        _ => return Err(Unusable::Algorithm(key.algorithm().to_string())),
    };
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    Ok(Key::new(
        key.algorithm().to_string(),
        Some(fingerprint),
        parts,
    ))
}

/// The public half is in the clear, also where the key is encrypted.
pub(super) fn identify(block: &[u8]) -> Option<(String, Option<String>)> {
    let key = whole(&openssh::contents(block)?)?;
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    Some((key.public_key().algorithm().to_string(), Some(fingerprint)))
}

/// The key that takes all of the bytes.
fn whole(contents: &[u8]) -> Option<PrivateKey> {
    let (key, length) = openssh::file(contents)?;
    (length == contents.len()).then_some(key)
}
