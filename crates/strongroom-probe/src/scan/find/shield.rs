//! OpenSSH's shield: a key at rest in ssh-agent (and sshd) is there encrypted, and what decrypts it lies
//! beside it.
//!
//! From sshkey.c of OpenSSH (sshkey_shield_private, since 8.1): AES-256-CTR, its key and counter the
//! first 32 and the next 16 bytes of the SHA-512 of 16 KiB of random bytes, the prekey. The end of
//! `struct sshkey` points to both: `u_char *shielded_private; size_t shielded_len; u_char
//! *shield_prekey; size_t shield_prekey_len`. Whoever reads all of it has the key; this finder does
//! what they would do, and says so where what comes out is a private key.

use super::{Found, Kind, View, openssh};
use sha2::{Digest, Sha512};
use ssh_key::Cipher;
use zeroize::Zeroizing;

/// SSHKEY_SHIELD_PREKEY_LEN.
const PREKEY: usize = 16 << 10;
/// What may be shielded, in bytes: an RSA key of 16,384 bits.
const MOST: u64 = 12 << 10;

/// A key's structure whose last field is at this place.
pub(super) fn at(view: &View<'_>, place: usize) -> Option<Found> {
    let start = place.checked_sub(24)?;
    if !(view.base + start as u64).is_multiple_of(8) {
        return None;
    }
    let word = |index: usize| -> Option<u64> {
        let bytes = view.after(start).get(8 * index..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let (encrypted, length, prekey) = (word(0)?, word(1)?, word(2)?);
    // AES's blocks.
    if !(16..=MOST).contains(&length) || !length.is_multiple_of(16) || encrypted == 0 {
        return None;
    }
    let mut bytes = Zeroizing::new(vec![0; PREKEY]);
    if !view.memory.read(prekey, &mut bytes) {
        return None;
    }
    let hash = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(&bytes)));
    let mut private = Zeroizing::new(vec![0; usize::try_from(length).ok()?]);
    if !view.memory.read(encrypted, &mut private) {
        return None;
    }
    let (key, rest) = hash.split_at_checked(32)?;
    let (counter, _) = rest.split_at_checked(16)?;
    Cipher::Aes256Ctr
        .decrypt(key, counter, &mut private, None)
        .ok()?;
    let (_, identity) = openssh::blob(&private)?;
    Some(Found {
        kind: Kind::Shield,
        what: format!(
            "shielded private key: {length} bytes at {encrypted:#x}, decrypted by the prekey at {prekey:#x}"
        ),
        address: view.base + start as u64,
        length: 32,
        identity,
    })
}
