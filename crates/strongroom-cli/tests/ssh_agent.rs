//! ssh-agent, ssh-add and ssh-keygen, protected: they sign as ever, and the agent's keys
//! cannot be put together again from what others see of it.
//!
//! ssh-agent shields its keys: at rest a private key is there only encrypted (AES-256-CTR),
//! under a key that is the hash of 16 KiB of random bytes, the prekey. Scans of a plain
//! agent found in the clear:
//!
//! * for good: the public key, the comment, **the prekey and the encrypted key**. The
//!   shield keeps from those who see a little of the memory (Spectre, Rowhammer), not from
//!   those who can read all of it: they decrypt the key, and so does this test, of the
//!   plain agent. The prekey is what all depends on: it is the secret searched for.
//! * as long as the connection lasts that a key came by: **the private numbers
//!   themselves**, in the buffers of that connection. ssh-add closes it and then it is a
//!   race; this test adds a key by a connection of its own, which it keeps open.
//!
//! An agent that has just signed has nothing more: it wipes what it decrypted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "support/keys.rs"]
mod keys;
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use support::room::WHO;
use support::session::Daemon;
use support::{How, Inside, Outside, Room, Transcript, Who, need};

/// See `debians_agent_is_refused_with_its_privileges`.
const HEAP: How = How::Run(&["--scope", "heap", "--no-new-privs"]);
const LOCKED: How = How::Run(&["--scope", "locked", "--no-new-privs"]);

const SSH_AGENT: &str = "/usr/bin/ssh-agent";
const SSH_ADD: &str = "/usr/bin/ssh-add";
const SSH_KEYGEN: &str = "/usr/bin/ssh-keygen";
const OPENSSL: &str = "/usr/bin/openssl";

const KINDS: [Kind; 2] = [Kind::Ed25519, Kind::Rsa];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Ed25519,
    Rsa,
}

impl Kind {
    fn options(self) -> &'static [&'static str] {
        match self {
            Kind::Ed25519 => &["-t", "ed25519"],
            Kind::Rsa => &["-t", "rsa", "-b", "3072"],
        }
    }
}

/// A key pair.
struct Key {
    private: String,
    public: String,
    /// The private key as it goes over the agent's socket: its kind, numbers and comment.
    blob: Vec<u8>,
    /// What of that is secret, under its name.
    secrets: Vec<(&'static str, Vec<u8>)>,
}

impl Key {
    /// A new one, by a plain ssh-keygen.
    fn new(kind: Kind) -> Self {
        let room = Room::new(WHO()[0], How::Plain);
        generate(&room, kind);
        let text = |name| std::fs::read_to_string(room.path().join(name)).unwrap();
        let private = text("key");
        let (blob, secrets) = parse(kind, &private);
        Self {
            private,
            public: text("key.pub"),
            blob,
            secrets,
        }
    }

    fn put(&self, room: &Room) -> PathBuf {
        room.file("key.pub", &self.public);
        room.file("key", &self.private)
    }
}

fn generate(room: &Room, kind: Kind) -> Transcript {
    room.succeed(room.command(SSH_KEYGEN).args(kind.options()).args([
        "-q",
        "-N",
        "",
        "-C",
        "a comment",
        "-f",
        "key",
    ]))
}

/// Takes apart a file of openssh-key-v1 that is not encrypted (PROTOCOL.key of OpenSSH).
fn parse(kind: Kind, pem: &str) -> (Vec<u8>, Vec<(&'static str, Vec<u8>)>) {
    let base64: Vec<&str> = pem.lines().filter(|l| !l.starts_with('-')).collect();
    let file = from_base64(&base64.concat());
    let mut rest = file.strip_prefix(b"openssh-key-v1\0").expect("a key file");
    for none in ["none", "none", ""] {
        assert_eq!(string(&mut rest), none.as_bytes(), "a cipher");
    }
    let one_key;
    (one_key, rest) = rest.split_at(4);
    assert_eq!(one_key, [0, 0, 0, 1]);
    let _public = string(&mut rest);
    // After two check numbers.
    let blob = &string(&mut rest)[8..];
    let mut fields = blob;
    let _kind = string(&mut fields);
    let number = |fields: &mut &[u8]| -> Vec<u8> {
        let number = string(fields).to_vec();
        number.into_iter().skip_while(|&b| b == 0).collect()
    };
    let secrets = match kind {
        Kind::Ed25519 => {
            let _public = string(&mut fields);
            // The seed, and the public key once more.
            vec![("the seed", string(&mut fields)[..32].to_vec())]
        }
        Kind::Rsa => {
            let (_n, _e) = (number(&mut fields), number(&mut fields));
            ["d", "the inverse of q", "p", "q"]
                .into_iter()
                .map(|name| (name, number(&mut fields)))
                .collect()
        }
    };
    assert_eq!(string(&mut fields), b"a comment");
    let padding = fields.len();
    (blob[..blob.len() - padding].to_vec(), secrets)
}

/// A string as SSH writes it: four bytes of length and so many bytes.
fn string<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (length, after) = rest.split_at(4);
    let length = u32::from_be_bytes(length.try_into().unwrap());
    let (string, after) = after.split_at(length as usize);
    *rest = after;
    string
}

fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.bytes().filter(|&c| c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("not base64: {c}"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// An agent of a room's own, which has daemonized.
struct Agent {
    daemon: Daemon,
    room: Room,
}

impl Agent {
    fn new(room: Room) -> Self {
        let socket = room.path().join("socket");
        let room = room.with_env("SSH_AUTH_SOCK", &socket);
        let said = room.succeed(room.command(SSH_AGENT).arg("-s").arg("-a").arg(&socket));
        let pid = said.stdout.lines().find_map(|line| {
            let pid = line.strip_prefix("SSH_AGENT_PID=")?;
            pid.split(';').next()?.parse().ok()
        });
        let daemon = Daemon::of(pid.expect("the agent's process number"));
        assert_eq!(said.stderr, "", "{said}");
        Self { daemon, room }
    }

    fn pid(&self) -> i32 {
        self.daemon.pid()
    }

    fn connect(&self) -> UnixStream {
        keys::connect(&self.room.path().join("socket"))
    }

    /// What the agent says it has.
    fn list(&self) -> Transcript {
        self.room.succeed(self.command(SSH_ADD).arg("-l"))
    }

    fn command(&self, program: &str) -> Command {
        self.room.command(program)
    }

    /// Signs a message by the agent, verifies that, and returns the signature's text.
    fn sign(&self, number: usize) -> String {
        let name = format!("message-{number}");
        let message = self.room.file(&name, format!("message {number}\n"));
        // Only the public key: the private one is the agent's.
        self.room.succeed(
            self.command(SSH_KEYGEN)
                .args(["-q", "-Y", "sign", "-n", "test", "-f", "key.pub"])
                .arg(&message),
        );
        let public = std::fs::read_to_string(self.room.path().join("key.pub")).unwrap();
        let signers = self
            .room
            .file(&format!("signers-{number}"), format!("someone {public}"));
        let signature = format!("{name}.sig");
        let verified = self.room.succeed(
            self.command(SSH_KEYGEN)
                .args(["-Y", "verify", "-n", "test", "-I", "someone", "-s"])
                .arg(&signature)
                .arg("-f")
                .arg(signers)
                .stdin(std::fs::File::open(message).unwrap()),
        );
        assert!(
            verified
                .stdout
                .starts_with("Good \"test\" signature for someone"),
            "{verified}"
        );
        std::fs::read_to_string(self.room.path().join(signature)).unwrap()
    }
}

/// Debian's ssh-agent is setgid, so that others of the same user cannot trace it. The
/// loader ignores LD_PRELOAD for such programs: `run` says so and names the fix, which is
/// what all of these tests do.
#[test]
fn debians_agent_is_refused_with_its_privileges() {
    let room = Room::new(WHO()[0], How::HEAP);
    let said = room.run(room.command(SSH_AGENT).args(["/bin/echo", "never"]));
    assert_eq!(
        (said.status.as_str(), said.stdout.as_str()),
        ("exit 125", "")
    );
    assert!(
        said.stderr.contains("it is setgid") && said.stderr.contains("--no-new-privs"),
        "{said}"
    );
}

/// Adds, lists, signs, removes. (ssh-agent locks no memory: in the locked scope there is
/// nothing to hide, and only what it says is compared.)
fn a_day_at_work(room: Room, key: &Key) -> Vec<String> {
    let agent = Agent::new(room);
    let file = key.put(&agent.room);
    let added = agent.room.succeed(agent.command(SSH_ADD).arg(&file));
    std::fs::remove_file(&file).unwrap();
    let mut said = vec![added.to_string(), agent.list().to_string()];
    said.extend((0..3).map(|number| agent.sign(number)));
    let removed = agent.room.succeed(agent.command(SSH_ADD).arg("-D"));
    said.push(removed.to_string());
    let empty = agent.room.run(agent.command(SSH_ADD).arg("-l"));
    assert_eq!(empty.status, "exit 1", "{empty}");
    said.push(empty.to_string());
    said
}

/// Both kinds of signatures are determined by key and message, to the byte.
#[test]
fn signs_as_unprotected() {
    for kind in KINDS {
        let key = Key::new(kind);
        for &who in WHO() {
            let plain = a_day_at_work(Room::new(who, How::Plain), &key);
            assert!(
                plain[2].starts_with("-----BEGIN SSH SIGNATURE-----"),
                "{plain:?}"
            );
            for how in [HEAP, LOCKED] {
                let protected = a_day_at_work(Room::new(who, how), &key);
                assert_eq!(plain, protected, "{kind:?} as {who:?} with {how:?}");
            }
        }
    }
}

/// As the parent of a command, the agent stays in the background of what it starts.
#[test]
fn runs_a_command() {
    for kind in KINDS {
        let key = Key::new(kind);
        for &who in WHO() {
            let run = |how| {
                let room = Room::new(who, how);
                key.put(&room);
                let script = "ssh-add key && ssh-add -l && echo message | \
                    ssh-keygen -q -Y sign -n test -f key.pub && kill $SSH_AGENT_PID && exit 3";
                room.run(room.command(SSH_AGENT).args(["/bin/sh", "-c", script]))
            };
            let plain = run(How::Plain);
            assert_eq!(plain.status, "exit 3", "{plain}");
            for how in [HEAP, LOCKED] {
                assert_eq!(plain, run(how), "{kind:?} as {who:?} with {how:?}");
            }
        }
    }
}

/// Keys that protected programs made are good.
#[test]
fn generates() {
    for kind in KINDS {
        for &who in WHO() {
            for how in [HEAP, LOCKED] {
                let room = Room::new(who, how);
                let said = generate(&room, kind);
                assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""));
                // By a program that is not protected.
                let public = room.succeed(room.plain(SSH_KEYGEN).args(["-y", "-f", "key"]));
                let expected = std::fs::read_to_string(room.path().join("key.pub")).unwrap();
                assert_eq!(public.stdout, expected, "{kind:?} as {who:?} with {how:?}");
            }
        }
    }
}

/// Lets `look` see an agent that a key was just added to, while that connection is open.
fn while_a_connection_is_open(room: Room, key: &Key, look: impl Fn(i32)) {
    const ADD_IDENTITY: u8 = 17;
    const SUCCESS: u8 = 6;
    let agent = Agent::new(room);
    let mut connection = agent.connect();
    let length = u32::try_from(key.blob.len() + 1).unwrap();
    let mut message = length.to_be_bytes().to_vec();
    message.push(ADD_IDENTITY);
    message.extend(&key.blob);
    connection.write_all(&message).unwrap();
    let mut answer = [0; 5];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0, 0, 0, 1, SUCCESS]);
    look(agent.pid());
    drop(connection);
    agent.room.file("key.pub", &key.public);
    agent.sign(0);
}

#[test]
fn private_keys_on_their_way_in_are_kept() {
    need!(root, secretmem);
    for kind in KINDS {
        let key = Key::new(kind);
        for &who in WHO() {
            while_a_connection_is_open(Room::new(who, How::Plain), &key, |pid| {
                for (name, secret) in &key.secrets {
                    support::assert_leaks(pid, name, secret);
                }
            });
            while_a_connection_is_open(Room::new(who, HEAP), &key, |pid| {
                for (name, secret) in &key.secrets {
                    support::assert_kept(pid, name, secret);
                }
            });
        }
    }
}

/// Pieces of a process's memory.
#[derive(Default)]
struct Memory {
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Memory {
    /// All that root sees.
    fn from_outside(pid: i32) -> Self {
        let mut memory = Self::default();
        Outside::of(pid).visit_by_mem(|start, mapping, bytes| {
            if mapping.permissions.starts_with("rw") {
                memory.add(start, bytes);
            }
        });
        memory
    }

    /// The secret memory, which the process itself hands over.
    fn from_inside(pid: i32) -> Self {
        let mut memory = Self::default();
        for (mapping, bytes) in Inside::of(pid).secret_memory() {
            memory.add(mapping.start, &bytes);
        }
        memory
    }

    /// Pieces come in order, and may overlap the one before.
    fn add(&mut self, start: u64, bytes: &[u8]) {
        if let Some((first, piece)) = self.pieces.last_mut() {
            let end = *first + piece.len() as u64;
            if (*first..=end).contains(&start) {
                piece.truncate((start - *first) as usize);
                piece.extend(bytes);
                return;
            }
        }
        self.pieces.push((start, bytes.to_vec()));
    }

    fn get(&self, address: u64, length: usize) -> Option<&[u8]> {
        self.pieces.iter().find_map(|(start, bytes)| {
            let at = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(at..at.checked_add(length)?)
        })
    }

    /// What may be the shield of a key: prekeys and what they encrypt. The end of OpenSSH's
    /// `struct sshkey` points to them: `u_char *shielded_private; size_t shielded_len;
    /// u_char *shield_prekey; size_t shield_prekey_len`.
    fn shields(&self) -> Vec<(&[u8], &[u8])> {
        const PREKEY: usize = 16 * 1024;
        let mut shields = Vec::new();
        for (_, bytes) in &self.pieces {
            for at in (0..bytes.len().saturating_sub(31)).step_by(8) {
                let word = |i: usize| {
                    let from = at + 8 * i;
                    u64::from_ne_bytes(bytes[from..from + 8].try_into().unwrap())
                };
                if word(3) != PREKEY as u64 || !(16..8192).contains(&word(1)) {
                    continue;
                }
                let prekey = self.get(word(2), PREKEY);
                let encrypted = self.get(word(0), word(1) as usize);
                shields.extend(prekey.zip(encrypted));
            }
        }
        shields
    }
}

/// Takes off the shield as the agent itself does when it signs.
fn unshield(prekey: &[u8], encrypted: &[u8]) -> Vec<u8> {
    let room = Room::new(Who::Root, How::Plain);
    room.file("prekey", prekey);
    room.file("encrypted", encrypted);
    let hash = room
        .succeed(
            room.plain(OPENSSL)
                .args(["dgst", "-sha512", "-r", "prekey"]),
        )
        .stdout;
    room.succeed(
        room.plain(OPENSSL)
            .args(["enc", "-d", "-aes-256-ctr", "-in", "encrypted", "-out"])
            .args(["private", "-K", &hash[..64], "-iv", &hash[64..96]]),
    );
    std::fs::read(room.path().join("private")).unwrap()
}

/// The prekey with which this memory gives away all of a key's secrets.
fn prekey_in(memory: &Memory, key: &Key) -> Option<Vec<u8>> {
    memory
        .shields()
        .into_iter()
        .find_map(|(prekey, encrypted)| {
            let private = unshield(prekey, encrypted);
            let has_all = key
                .secrets
                .iter()
                .all(|(_, secret)| support::outside::count(&private, secret) > 0);
            has_all.then(|| prekey.to_vec())
        })
}

#[test]
fn shielded_keys_cannot_be_put_together() {
    need!(root, secretmem);
    for kind in KINDS {
        let key = Key::new(kind);
        for &who in WHO() {
            for how in [How::Plain, HEAP] {
                let agent = Agent::new(Room::new(who, how));
                let file = key.put(&agent.room);
                agent.room.succeed(agent.command(SSH_ADD).arg(&file));
                std::fs::remove_file(file).unwrap();
                agent.sign(0);
                let pid = agent.pid();
                let from_outside = prekey_in(&Memory::from_outside(pid), &key);
                if how.is_protected() {
                    assert!(
                        from_outside.is_none(),
                        "the {kind:?} key was stolen from process {pid} ({who:?})"
                    );
                    let prekey = prekey_in(&Memory::from_inside(pid), &key);
                    let prekey = prekey.expect("the shield is in secret memory");
                    // The hash needs all of it; every piece must be hidden all the same.
                    for (number, piece) in prekey.chunks(1024).enumerate() {
                        let name = format!("part {number} of the prekey");
                        support::assert_hidden(pid, &name, piece);
                    }
                } else {
                    let prekey = from_outside.unwrap_or_else(|| {
                        panic!("the control is void: no {kind:?} key in the plain agent {pid}")
                    });
                    support::assert_leaks(pid, "the prekey", &prekey[..1024]);
                }
                // By the connections that are closed by now, or by signing: nothing else.
                if how.is_protected() {
                    for (name, secret) in &key.secrets {
                        support::assert_hidden(pid, name, secret);
                    }
                }
                agent.sign(1);
            }
        }
    }
}
