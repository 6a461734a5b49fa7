//! Private keys in PEM files, with their numbers as programs keep them in memory, and
//! waits that end.
//!
//! Included by path: `#[path = "support/keys.rs"] mod keys;`.

#![allow(dead_code, reason = "every test file uses its own part")]

use super::support::Room;
use std::path::{Path, PathBuf};
use std::time::Duration;

const OPENSSL: &str = "/usr/bin/openssl";

/// What a key pair is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Rsa,
    Curve,
}

/// A private number under its name.
pub(crate) struct Number {
    pub(crate) name: String,
    /// In the order of the limbs that OpenSSL's BIGNUM keeps: least significant byte first.
    pub(crate) limbs: Vec<u8>,
}

/// A key pair with a certificate of its own for `localhost`, as texts.
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) certificate: String,
    pub(crate) numbers: Vec<Number>,
}

impl Pair {
    /// A new pair, made by a plain openssl.
    pub(crate) fn new(kind: Kind) -> Self {
        let room = Room::new(super::support::WHO()[0], super::support::How::Plain);
        let options: &[&str] = match kind {
            Kind::Rsa => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            Kind::Curve => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        };
        // A number whose top bytes happen to be zero is as secret, but its length is
        // not what the checks below expect; one key in 256 is thrown away for that.
        for _ in 0..20 {
            room.succeed(
                room.plain(OPENSSL)
                    .args(["genpkey", "-out", "key.pem"])
                    .args(options),
            );
            let numbers = numbers(&room);
            let lengths: Vec<_> = numbers.iter().map(|n| n.limbs.len()).collect();
            let expected: &[usize] = match kind {
                Kind::Rsa => &[256, 128, 128],
                Kind::Curve => &[32],
            };
            if lengths != expected {
                continue;
            }
            room.succeed(room.plain(OPENSSL).args([
                "req",
                "-x509",
                "-new",
                "-key",
                "key.pem",
                "-out",
                "certificate.pem",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
                "-days",
                "3650",
            ]));
            let text = |name| std::fs::read_to_string(room.path().join(name)).expect("a file");
            return Self {
                key: text("key.pem"),
                certificate: text("certificate.pem"),
                numbers,
            };
        }
        panic!("openssl makes no keys of the usual length");
    }

    /// Puts both files into a room.
    pub(crate) fn put(&self, room: &Room) -> (PathBuf, PathBuf) {
        (
            room.file("key.pem", &self.key),
            room.file("certificate.pem", &self.certificate),
        )
    }
}

/// The private exponent and the primes, or the scalar, as `openssl pkey -text` has them.
fn numbers(room: &Room) -> Vec<Number> {
    let text = room
        .succeed(
            room.plain(OPENSSL)
                .args(["pkey", "-in", "key.pem", "-noout", "-text"]),
        )
        .stdout;
    ["privateExponent", "prime1", "prime2", "priv"]
        .into_iter()
        .filter_map(|name| {
            let (_, rest) = text.split_once(&format!("\n{name}:\n"))?;
            let digits: String = rest
                .lines()
                .take_while(|line| line.starts_with(' '))
                .flat_map(|line| line.chars().filter(char::is_ascii_hexdigit))
                .collect();
            let mut limbs: Vec<u8> = unhex(&digits).into_iter().skip_while(|&b| b == 0).collect();
            limbs.reverse();
            Some(Number {
                name: name.to_owned(),
                limbs,
            })
        })
        .collect()
}

/// Bytes of pairs of hexadecimal digits.
pub(crate) fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "half a byte: {digits}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// Whether a test can look into other processes, and for secret memory. Where it cannot,
/// it still compares what programs say, and then skips by `need!`.
pub(crate) fn can_look() -> bool {
    super::support::is_root() && super::support::outside::secret_memory_works().is_ok()
}

/// Waits until `look` sees something; fails where it never does, with what `so_far` says.
#[track_caller]
pub(crate) fn until<T>(
    what: &str,
    mut look: impl FnMut() -> Option<T>,
    so_far: impl Fn() -> String,
) -> T {
    // As for every program of these tests: far beyond what any takes.
    for _ in 0..18_000 {
        if let Some(seen) = look() {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} does not come to pass\n{}", so_far());
}

/// Waits until somebody listens at a Unix socket.
#[track_caller]
pub(crate) fn connect(path: &Path) -> std::os::unix::net::UnixStream {
    let stream = until(
        &format!("a listener at {}", path.display()),
        || std::os::unix::net::UnixStream::connect(path).ok(),
        String::new,
    );
    for set in [
        std::os::unix::net::UnixStream::set_read_timeout,
        std::os::unix::net::UnixStream::set_write_timeout,
    ] {
        set(&stream, Some(Duration::from_secs(180))).expect("a deadline");
    }
    stream
}
