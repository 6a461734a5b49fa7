//! Private keys: reading them from files, and what of them may lie in memory.
//!
//! * [`openssh`], [`der`], [`gnupg`]: the formats.
//! * [`rsa`], [`curve`]: the numbers that programs keep.

mod curve;
mod der;
mod gnupg;
mod openssh;
mod rsa;

pub(super) use der::identify as identify_der;

use super::find::{Identity, Kind, Needle};
use memchr::memmem;
use zeroize::Zeroizing;

/// A private key that is looked for.
pub struct Key {
    /// Where it came from.
    pub(super) name: String,
    /// As `ssh-rsa`, `ssh-ed25519`, `ecdsa-sha2-nistp256` …
    pub(super) algorithm: String,
    /// `SHA256:…` of the public half, as `ssh-keygen -l` has it.
    pub(super) fingerprint: Option<String>,
    parts: Vec<Part>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("name", &self.name)
            .field("algorithm", &self.algorithm)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// Something secret of a key.
struct Part {
    name: &'static str,
    bytes: Zeroizing<Vec<u8>>,
    /// Whether it is a number, most significant byte first: it may lie in either order.
    is_number: bool,
}

impl Part {
    fn number(name: &'static str, bytes: &[u8]) -> Self {
        let from = bytes.iter().position(|&byte| byte != 0);
        let bytes = bytes.get(from.unwrap_or(bytes.len())..).unwrap_or_default();
        Self {
            name,
            bytes: Zeroizing::new(bytes.to_vec()),
            is_number: true,
        }
    }

    fn bytes(name: &'static str, bytes: &[u8]) -> Self {
        Self {
            name,
            bytes: Zeroizing::new(bytes.to_vec()),
            is_number: false,
        }
    }
}

impl Part {
    /// As it may lie in memory: a number in both byte orders.
    fn forms(&self) -> Vec<(String, Zeroizing<Vec<u8>>)> {
        let name = self.name;
        if !self.is_number {
            return vec![(name.to_owned(), self.bytes.clone())];
        }
        let mut reversed = self.bytes.clone();
        reversed.reverse();
        vec![
            (format!("{name}, big endian"), self.bytes.clone()),
            (format!("{name}, little endian"), reversed),
        ]
    }
}

/// Why a key cannot be looked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No private key of a known format.
    #[error(
        "it holds no private key in a format that is known: OpenSSH, PEM or DER (PKCS#1, PKCS#8, SEC1), GnuPG's private-keys-v1.d"
    )]
    NotAKey,
    /// A public key or a certificate.
    #[error("it holds no private key, but a public one")]
    Public,
    /// Encrypted as OpenSSL did before PKCS#8.
    #[error("it is encrypted in OpenSSL's old way (`DEK-Info`), which is not read")]
    OldEncryption,
    /// The passphrase is wrong, or the encryption is not known.
    #[error("it is encrypted, and the passphrase does not open it")]
    Passphrase,
    /// There is no passphrase.
    #[error("it is encrypted, and {0}")]
    NoPassphrase(String),
    /// GnuPG's own encryption.
    #[error("it is encrypted by GnuPG, which is not read")]
    GnupgEncryption,
    /// A smartcard's.
    #[error("it is only a reference to a card")]
    OnACard,
    /// A kind of key whose numbers are not known.
    #[error("keys of the kind {0} are not looked for")]
    Algorithm(String),
}

/// Asks for the passphrase; the error says why there is none.
pub type Ask<'a> = &'a mut dyn FnMut() -> Result<Zeroizing<String>, String>;

impl Key {
    /// Reads a key file's contents; `name` is how the key is called in reports.
    ///
    /// # Errors
    /// Where it holds no private key that can be looked for.
    pub fn parse(name: &str, contents: &[u8], ask: Ask<'_>) -> Result<Self, Unusable> {
        let mut key = parse(contents, ask)?;
        name.clone_into(&mut key.name);
        Ok(key)
    }

    /// As `ssh-rsa`, `ssh-ed25519`, `ecdsa-sha2-nistp256` …
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// `SHA256:…` of the public half, as `ssh-keygen -l` has it.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    fn new(algorithm: String, fingerprint: Option<String>, parts: Vec<Part>) -> Self {
        Self {
            name: String::new(),
            algorithm,
            fingerprint,
            parts,
        }
    }

    /// The key's secret parts as programs keep them: a number in both byte orders. With what to call
    /// each.
    pub fn secrets(&self) -> impl Iterator<Item = (String, Zeroizing<Vec<u8>>)> + '_ {
        self.long_parts().flat_map(Part::forms)
    }

    /// Shorter ones (an RSA exponent that someone chose) are met by chance.
    fn long_parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.bytes.len() >= 16)
    }

    /// Everything to look for, for the key of this number.
    pub(super) fn needles(&self, number: usize) -> Vec<Needle> {
        let mut needles = Vec::new();
        let mut add = |what: String, bytes: Zeroizing<Vec<u8>>, in_fragments| {
            needles.push(Needle {
                bytes,
                kind: Kind::Component,
                what,
                identity: Identity::Given(number),
                in_fragments,
            });
        };
        for part in self.long_parts() {
            for (what, bytes) in part.forms() {
                add(what, bytes, true);
            }
            for digits in [b"0123456789abcdef", b"0123456789ABCDEF"] {
                add(
                    format!("{}, in hexadecimal", part.name),
                    hexadecimal(&part.bytes, digits),
                    false,
                );
            }
        }
        needles
    }
}

fn hexadecimal(bytes: &[u8], digits: &[u8; 16]) -> Zeroizing<Vec<u8>> {
    let digit = |value: u8| digits.get(usize::from(value)).copied().unwrap_or_default();
    let mut text = Zeroizing::new(Vec::with_capacity(2 * bytes.len()));
    for byte in bytes {
        text.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    text
}

fn parse(contents: &[u8], ask: Ask<'_>) -> Result<Key, Unusable> {
    if let Some((block, label)) = pem_block(contents) {
        return match label {
            "OPENSSH PRIVATE KEY" => openssh::parse(block, ask),
            _ if memmem::find(block, b"Proc-Type: 4,ENCRYPTED").is_some() => {
                Err(Unusable::OldEncryption)
            }
            _ => der::parse_pem(block, ask),
        };
    }
    if memmem::find(contents, b"private-key").is_some() && contents.contains(&b'(') {
        return gnupg::parse(contents);
    }
    let public = contents.starts_with(b"ssh-")
        || contents.starts_with(b"ecdsa-")
        || memmem::find(contents, b"-----BEGIN ").is_some();
    if public {
        return Err(Unusable::Public);
    }
    der::parse(contents, ask)
}

/// The first block with a private key, from its first dash to its last, and its label.
fn pem_block(contents: &[u8]) -> Option<(&[u8], &str)> {
    memmem::find_iter(contents, b"-----BEGIN ").find_map(|at| {
        let block = contents.get(at..)?;
        let label = block.get(11..)?;
        let label = label.get(..memmem::find(label, b"-----")?)?;
        let label = std::str::from_utf8(label).ok()?;
        if !label.ends_with("PRIVATE KEY") {
            return None;
        }
        let closing = format!("-----END {label}-----");
        let end = memmem::find(block, closing.as_bytes())? + closing.len();
        Some((block.get(..end)?, label))
    })
}

/// Nobody is asked about what lies in memory.
fn unasked() -> Result<Zeroizing<String>, String> {
    Err("nobody is asked".to_owned())
}

/// Whether a whole PEM block is of a key that is encrypted.
pub(super) fn is_encrypted(block: &[u8]) -> bool {
    matches!(
        parse(block, &mut unasked),
        Err(Unusable::NoPassphrase(_) | Unusable::OldEncryption)
    )
}

/// The algorithm and the fingerprint of a whole PEM block's key.
pub(super) fn identify(block: &[u8]) -> Option<(String, Option<String>)> {
    if let Some((block, "OPENSSH PRIVATE KEY")) = pem_block(block) {
        return openssh::identify(block);
    }
    let key = parse(block, &mut unasked).ok()?;
    Some((key.algorithm.clone(), key.fingerprint.clone()))
}
