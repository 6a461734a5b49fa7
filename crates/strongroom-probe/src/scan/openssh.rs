//! Private keys as OpenSSH writes them (its PROTOCOL.key and PROTOCOL.agent), also where ssh-key does not
//! read them.
//!
//! An ECDSA scalar is written as a number (`mpint` of RFC 4251, section 5): without the zero bytes that it
//! begins with. One key of 256 has such a byte and a second one below 0x80, or on P-521 one of four is shorter
//! than the curve; ssh-key 0.6 wants all of them at full length.

use ssh_encoding::pem::Decoder;
use ssh_encoding::{Decode, Encode};
use ssh_key::private::{KeypairData, PrivateKey};
use ssh_key::public::KeyData;
use zeroize::Zeroizing;

const MAGIC: &[u8] = b"openssh-key-v1\0";
/// What is between the line breaks of OpenSSH's PEM, in characters.
const LINE: usize = 70;

/// A PEM block's contents.
pub(super) fn contents(block: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut decoder = Decoder::new_wrapped(block, LINE).ok()?;
    let mut contents = Zeroizing::new(vec![0; decoder.remaining_len()]);
    decoder.decode(&mut contents).ok()?;
    Some(contents)
}

/// The key at the beginning of the bytes, and its length.
pub(super) fn file(bytes: &[u8]) -> Option<(PrivateKey, usize)> {
    let mut rest = bytes;
    if let Ok(key) = PrivateKey::decode(&mut rest) {
        return Some((key, bytes.len() - rest.len()));
    }
    let mut rest = bytes.strip_prefix(MAGIC)?;
    for name in [b"none", b"none", &b""[..]] {
        if string(&mut rest)? != name {
            return None;
        }
    }
    if u32::decode(&mut rest).ok()? != 1 {
        return None;
    }
    let public = KeyData::decode(&mut string(&mut rest)?).ok()?;
    let key = private(string(&mut rest)?, &public)?;
    Some((key, bytes.len() - rest.len()))
}

/// An encrypted file's key.
pub(super) fn decrypt(key: &PrivateKey, file: &[u8], passphrase: &str) -> Option<PrivateKey> {
    if let Ok(open) = key.decrypt(passphrase) {
        return Some(open);
    }
    let cipher = key.cipher();
    let (secret, iv) = key.kdf().derive_key_and_iv(cipher, passphrase).ok()?;
    let tag = match cipher.has_tag() {
        true => Some(*file.last_chunk()?),
        false => None,
    };
    let mut open = Zeroizing::new(key.key_data().encrypted()?.to_vec());
    cipher.decrypt(&secret, &iv, &mut open, tag).ok()?;
    private(&open, key.public_key().key_data())
}

/// The part of a file that may be encrypted: two numbers that are the same, the key, a comment, padding.
fn private(section: &[u8], public: &KeyData) -> Option<PrivateKey> {
    let mut rest = section;
    if u32::decode(&mut rest).ok()? != u32::decode(&mut rest).ok()? {
        return None;
    }
    let (pair, length) = keypair(rest)?;
    let mut rest = rest.get(length..)?;
    let comment = String::decode(&mut rest).ok()?;
    let is_padding = rest.iter().zip(1..).all(|(&byte, number)| byte == number);
    let same = KeyData::try_from(&pair).ok()? == *public;
    (is_padding && same).then(|| PrivateKey::new(pair, comment).ok())?
}

/// The numbers of a key at the beginning of the bytes, and their length.
pub(super) fn keypair(bytes: &[u8]) -> Option<(KeypairData, usize)> {
    let mut rest = bytes;
    if let Ok(pair) = KeypairData::decode(&mut rest) {
        return Some((pair, bytes.len() - rest.len()));
    }
    let mut rest = bytes;
    let head = [(); 3].map(|()| string(&mut rest));
    let [Some(_), Some(curve), Some(_)] = head else {
        return None;
    };
    let width = match curve {
        b"nistp256" => 32,
        b"nistp384" => 48,
        b"nistp521" => 66,
        _ => return None,
    };
    let before = bytes.len() - rest.len();
    let scalar = string(&mut rest)?;
    // A number that is not negative, and not zero, has no zero byte before it that it does not need.
    let missing = width - scalar.len().min(width);
    if missing == 0 || !matches!(scalar, [1..0x80, ..] | [0, 0x80..=0xff, ..]) {
        return None;
    }
    let mut wide = Zeroizing::new(bytes.get(..before)?.to_vec());
    let padded = Zeroizing::new([vec![0; missing].as_slice(), scalar].concat());
    padded.as_slice().encode(&mut *wide).ok()?;
    let pair = KeypairData::decode(&mut wide.as_slice()).ok()?;
    Some((pair, bytes.len() - rest.len()))
}

/// A length of four bytes, and as many bytes.
fn string<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::decode(rest).ok()?;
    let (string, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(string)
}
