//! gpg-agent, protected: it generates, signs and decrypts as ever after it has gone
//! into the background, and its passphrases and private keys are nowhere to be seen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::room::{WHO, wait_for_file};
use support::session::Daemon;
use support::{How, Inside, Outside, Room, Transcript, Who, chance, need, outside};

const USER_ID: &str = "Test <test@example.org>";

/// A gpg-agent of its own, which has daemonized, and a gpg that talks to it.
struct Gpg {
    agent: Daemon,
    room: Room,
}

impl Gpg {
    fn new(room: Room) -> Self {
        let home = room.directory("gnupg");
        let room = room.with_env("GNUPGHOME", &home);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/pinentry.sh");
        let pinentry = room.copy(&script, "pinentry");
        room.succeed(
            room.command("/usr/bin/gpg-agent")
                .args([
                    "--daemon",
                    "--quiet",
                    "--disable-scdaemon",
                    "--s2k-count",
                    "65536",
                ])
                .arg("--pinentry-program")
                .arg(pinentry),
        );
        let answer = room.succeed(room.plain("/usr/bin/gpg-connect-agent").args([
            "--no-autostart",
            "GETINFO pid",
            "/bye",
        ]));
        let pid = answer
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("D ")?.parse().ok());
        let agent = Daemon::of(pid.expect("the agent's process number"));
        Self { agent, room }
    }

    fn gpg(&self) -> Command {
        let mut gpg = self.room.command("/usr/bin/gpg");
        gpg.args([
            "--no-autostart",
            "--batch",
            "--quiet",
            "--yes",
            "--trust-model",
            "always",
        ]);
        gpg
    }

    /// What gpg's machine interface says, without what differs from key to key.
    fn words(&self, arguments: &[&str]) -> Vec<String> {
        let transcript = self
            .room
            .succeed(self.gpg().args(["--status-fd", "1"]).args(arguments));
        transcript
            .stdout
            .lines()
            .map(|line| match line.strip_prefix("[GNUPG:] ") {
                Some(status) => status.split(' ').next().unwrap_or_default().to_owned(),
                None => line.to_owned(),
            })
            .collect()
    }

    fn generate(&self, parameters: &str) -> Vec<String> {
        let file = self.room.file("parameters", parameters);
        self.words(&["--gen-key", file.to_str().unwrap()])
    }

    /// The numbers of every private key that lies unprotected in the agent's directory.
    fn private_numbers(&self) -> Vec<(String, Vec<u8>)> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(self.room.path().join("gnupg/private-keys-v1.d")).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path())
                .unwrap()
                .replace("\n ", "");
            for name in ["d", "p", "q", "u"] {
                let Some((_, rest)) = text.split_once(&format!("({name} #")) else {
                    continue;
                };
                let (hex, _) = rest.split_once('#').unwrap();
                let hex: String = hex.split_whitespace().collect();
                let bytes: Vec<u8> = (0..hex.len() / 2)
                    .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
                    .skip_while(|&b| b == 0)
                    .collect();
                numbers.push((format!("{name}, big-endian"), bytes.clone()));
                numbers.push((
                    format!("{name}, little-endian"),
                    bytes.into_iter().rev().collect(),
                ));
                numbers.push((format!("{name}, in hexadecimal"), hex.into_bytes()));
            }
        }
        numbers
    }
}

const RSA: &str = "%no-protection
Key-Type: RSA
Key-Length: 2048
Key-Usage: sign
Subkey-Type: RSA
Subkey-Length: 2048
Subkey-Usage: encrypt
Name-Real: Test
Name-Email: test@example.org
Expire-Date: 0
%commit
";

const CURVE: &str = "%no-protection
Key-Type: EDDSA
Key-Curve: ed25519
Key-Usage: sign
Subkey-Type: ECDH
Subkey-Curve: cv25519
Subkey-Usage: encrypt
Name-Real: Test
Name-Email: test@example.org
Expire-Date: 0
%commit
";

/// Generates, signs, verifies, encrypts, decrypts.
fn a_day_at_work(room: Room, parameters: &str) -> Vec<String> {
    let gpg = Gpg::new(room);
    let message = gpg.room.file("message", "a message\n");
    let message = message.to_str().unwrap();
    let mut said = gpg.generate(parameters);
    said.extend(gpg.words(&["--detach-sign", message]));
    said.extend(gpg.words(&["--verify", &format!("{message}.sig"), message]));
    said.extend(gpg.words(&["--encrypt", "--recipient", "test@example.org", message]));
    said.extend(gpg.words(&["--decrypt", &format!("{message}.gpg")]));
    said
}

#[test]
fn generates_signs_and_decrypts_as_unprotected() {
    for &who in WHO() {
        for (name, parameters) in [("RSA", RSA), ("curve 25519", CURVE)] {
            let plain = a_day_at_work(Room::new(who, How::Plain), parameters);
            assert!(
                plain.iter().any(|w| w == "GOODSIG")
                    && plain.iter().any(|w| w == "DECRYPTION_OKAY")
            );
            for how in [How::HEAP, How::LOCKED] {
                let protected = a_day_at_work(Room::new(who, how), parameters);
                assert_eq!(plain, protected, "{name} as {who:?} with {how:?}");
            }
        }
    }
}

/// Signs with a key and at a time that are given, so that every byte of the signature is.
fn signature(room: Room, key: &str) -> Transcript {
    let gpg = Gpg::new(room);
    let key = gpg.room.file("key", key);
    gpg.room.succeed(gpg.gpg().arg("--import").arg(key));
    let message = gpg.room.file("message", "a message\n");
    gpg.room.succeed(
        gpg.gpg()
            .args([
                "--faked-system-time",
                "20400101T000000!",
                "--armor",
                "--output",
                "-",
                "--detach-sign",
            ])
            .arg(message),
    )
}

#[test]
fn signatures_are_the_same_to_the_byte() {
    for parameters in [RSA, CURVE] {
        let maker = Gpg::new(Room::new(Who::User, How::Plain));
        maker.generate(parameters);
        let key = maker
            .room
            .succeed(maker.gpg().args(["--armor", "--export-secret-keys"]))
            .stdout;
        for &who in WHO() {
            let plain = signature(Room::new(who, How::Plain), &key);
            assert!(
                plain.stdout.starts_with("-----BEGIN PGP SIGNATURE-----"),
                "{plain}"
            );
            for how in [How::HEAP, How::LOCKED] {
                assert_eq!(
                    plain,
                    signature(Room::new(who, how), &key),
                    "as {who:?} with {how:?}"
                );
            }
        }
    }
}

/// Lets `look` see an agent that has been told a passphrase once and has just asked for
/// it again: it holds the first answer in the memory that libgcrypt locks.
fn while_it_holds_a_passphrase(room: Room, look: impl Fn(i32, &[u8])) {
    let gpg = Gpg::new(room);
    let passphrase = chance::letters::<32>();
    gpg.room.file("passphrase", &passphrase);
    let generation =
        gpg.room.start(
            gpg.gpg()
                .args(["--quick-gen-key", USER_ID, "ed25519", "sign", "never"]),
        );
    wait_for_file(&gpg.room.path().join("reached"));
    look(gpg.agent.pid(), passphrase.as_bytes());
    gpg.room.file("go", "");
    let end = generation.wait();
    assert_eq!(end.status, "exit 0", "{end}");
    // The agent is as good as ever: it signs with that passphrase, asked or cached.
    let message = gpg.room.file("message", "a message\n");
    assert!(
        gpg.words(&["--detach-sign", message.to_str().unwrap()])
            .iter()
            .any(|w| w == "SIG_CREATED")
    );
}

#[test]
fn a_passphrase_is_kept() {
    need!(root, secretmem);
    for &who in WHO() {
        while_it_holds_a_passphrase(Room::new(who, How::Plain), |pid, passphrase| {
            support::assert_leaks(pid, "the passphrase", passphrase);
        });
        while_it_holds_a_passphrase(Room::new(who, How::HEAP), |pid, passphrase| {
            support::assert_kept(pid, "the passphrase", passphrase);
        });
    }
}

/// The scope is what libgcrypt locks. libassuan's line buffer, which the passphrase
/// came through, is not locked, and what stays of it there is not claimed.
#[test]
fn a_passphrase_in_locked_memory_is_kept_by_the_locked_scope() {
    need!(root, secretmem);
    for &who in WHO() {
        while_it_holds_a_passphrase(Room::new(who, How::LOCKED), |pid, passphrase| {
            let inside = Inside::of(pid).secret_memory();
            let places: Vec<u64> = inside
                .iter()
                .flat_map(|(mapping, bytes)| {
                    outside::positions(bytes, passphrase).map(|at| mapping.start + at as u64)
                })
                .collect();
            assert!(!places.is_empty(), "the passphrase is not in secret memory");
            for address in places {
                let error = Outside::of(pid)
                    .peek(address)
                    .expect_err("unreadable memory");
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
            }
            assert!(Outside::of(pid).by_stolen_fds(passphrase).is_empty());
        });
    }
}

/// An agent that has signed and decrypted leaves the private numbers in its freed memory
/// many times over. Wiped on free, they are gone; and what is not yet freed is secret.
#[test]
fn private_keys_leave_no_trace() {
    need!(root, secretmem);
    for &who in WHO() {
        for (how, is_protected) in [(How::Plain, false), (How::HEAP, true)] {
            let gpg = Gpg::new(Room::new(who, how));
            gpg.generate(RSA);
            let message = gpg.room.file("message", "a message\n");
            let message: PathBuf = message;
            gpg.words(&["--detach-sign", message.to_str().unwrap()]);
            gpg.words(&[
                "--encrypt",
                "--recipient",
                "test@example.org",
                message.to_str().unwrap(),
            ]);
            gpg.words(&["--decrypt", &format!("{}.gpg", message.to_str().unwrap())]);
            let numbers = gpg.private_numbers();
            assert_eq!(
                numbers.len(),
                2 * 4 * 3,
                "two keys with four private numbers each"
            );
            let needles: Vec<_> = numbers.iter().map(|(_, number)| number.clone()).collect();
            let found = Outside::of(gpg.agent.pid()).which_by_mem(&needles);
            let leaked: Vec<_> = numbers
                .iter()
                .zip(found)
                .filter_map(|(number, found)| found.then_some(number))
                .collect();
            if is_protected {
                let names: Vec<_> = leaked.iter().map(|(name, _)| name).collect();
                assert!(leaked.is_empty(), "leaked as {who:?}: {names:?}");
                for (name, number) in &numbers {
                    support::assert_hidden(gpg.agent.pid(), name, number);
                }
            } else {
                assert!(
                    leaked.len() >= 8,
                    "the control is void: only {} numbers leaked",
                    leaked.len()
                );
            }
        }
    }
}
