//! The whole point: `strongroom scan` finds the keys of a plain ssh-agent and gpg-agent, and under
//! `strongroom run` nothing of them in anything that can be read: heap, stacks, static data.
//!
//! What is looked for: every number of the key in both orders, in hexadecimal and in pieces of 16 bytes;
//! every PEM, DER and OpenSSH encoding; shields; every AES key schedule. So "nothing" below is no hit at
//! all, of whatever key. What cannot be looked at from outside: the kernel's own copies, in the buffers
//! of sockets and pipes that a key went through and that were read since.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "support/keys.rs"]
mod keys;
mod support;

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use support::room::WHO;
use support::session::Daemon;
use support::{How, Room, need};

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");

const SSH_AGENT: &str = "/usr/bin/ssh-agent";
const SSH_ADD: &str = "/usr/bin/ssh-add";
const SSH_KEYGEN: &str = "/usr/bin/ssh-keygen";
/// Debian's ssh-agent is setgid, and the loader takes nothing into such programs.
const SSH_PROTECTED: How = How::Run(&["--no-new-privs"]);

/// As root, for these keys: the report and the hits of each.
struct Scanned {
    report: Value,
    status: Option<i32>,
}

fn scan(pid: i32, keys: &[PathBuf]) -> Scanned {
    let mut command = Command::new(STRONGROOM);
    command.args(["scan", "--json", &pid.to_string()]);
    for key in keys {
        command.arg("--key").arg(key);
    }
    let said = command.output().unwrap();
    let report = serde_json::from_slice(&said.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&said.stderr)));
    Scanned {
        report,
        status: said.status.code(),
    }
}

impl Scanned {
    /// The hits of the key that was given with this number.
    fn of_key(&self, number: usize) -> Vec<&Value> {
        let hits = self.report["hits"].as_array().unwrap().iter();
        hits.filter(|hit| hit["subject"] == number).collect()
    }

    fn kinds(&self, number: usize) -> Vec<&str> {
        let hits = self.of_key(number).into_iter();
        hits.map(|hit| hit["kind"].as_str().unwrap()).collect()
    }

    /// No hit, of any kind, in anything that can be read; and there is memory that cannot be.
    #[track_caller]
    fn assert_nothing(&self, what: &str) {
        let report = &self.report;
        assert_eq!(
            report["hits"],
            Value::Array(Vec::new()),
            "{what}: {report:#}"
        );
        assert_eq!(report["complete"], true, "{what}: {report:#}");
        assert_eq!(self.status, Some(0), "{what}");
        let coverage = &report["coverage"];
        assert!(
            coverage["scanned"].as_u64().unwrap() > 1 << 20,
            "{what}: {coverage}"
        );
        assert!(
            coverage["unreadable"].as_u64().unwrap() > 0,
            "{what}: {coverage}"
        );
    }
}

/// An agent of a room's own, which has daemonized, and key files that it has not seen.
struct SshAgent {
    daemon: Daemon,
    room: Room,
}

const SSH_KEYS: [(&str, &[&str]); 3] = [
    ("rsa", &["-t", "rsa", "-b", "3072"]),
    ("ed25519", &["-t", "ed25519"]),
    ("ecdsa", &["-t", "ecdsa"]),
];

impl SshAgent {
    fn new(room: Room) -> Self {
        let socket = room.path().join("socket");
        let room = room.with_env("SSH_AUTH_SOCK", &socket);
        for (name, options) in SSH_KEYS {
            let mut keygen = room.plain(SSH_KEYGEN);
            room.succeed(keygen.args(["-q", "-N", "", "-f", name]).args(options));
        }
        let said = room.succeed(room.command(SSH_AGENT).arg("-s").arg("-a").arg(&socket));
        let pid = said.stdout.lines().find_map(|line| {
            let pid = line.strip_prefix("SSH_AGENT_PID=")?;
            pid.split(';').next()?.parse().ok()
        });
        let daemon = Daemon::of(pid.expect("the agent's process number"));
        Self { daemon, room }
    }

    fn keys(&self) -> Vec<PathBuf> {
        SSH_KEYS
            .map(|(name, _)| self.room.path().join(name))
            .to_vec()
    }

    /// Adds all keys, and signs with each.
    fn work(&self) {
        let mut add = self.room.plain(SSH_ADD);
        self.room
            .succeed(add.arg("-q").args(SSH_KEYS.map(|(name, _)| name)));
        self.room.file("message", "a message\n");
        for (name, _) in SSH_KEYS {
            // Only the public halves: the agent signs.
            let public = std::fs::read(self.room.path().join(format!("{name}.pub"))).unwrap();
            self.room.file(&format!("only-{name}.pub"), public);
            let mut sign = self.room.plain(SSH_KEYGEN);
            sign.args(["-q", "-Y", "sign", "-n", "test", "-f"]);
            self.room
                .succeed(sign.arg(format!("only-{name}.pub")).arg("message"));
            std::fs::remove_file(self.room.path().join("message.sig")).unwrap();
        }
    }

    fn scan(&self) -> Scanned {
        scan(self.daemon.pid(), &self.keys())
    }
}

/// At rest: the shield of each key, and what decrypts it, are found in a plain agent, and the schedules
/// of the ciphers that made them.
#[test]
fn ssh_agent_at_rest() {
    need!(root, secretmem);
    for &who in WHO() {
        let plain = SshAgent::new(Room::new(who, How::Plain));
        plain.work();
        let found = plain.scan();
        assert_eq!(found.status, Some(1));
        for (number, (name, _)) in SSH_KEYS.iter().enumerate() {
            assert!(
                found.kinds(number).contains(&"shield"),
                "the control is void: {name} is not found in a plain agent: {:#}",
                found.report
            );
        }
        let kept = SshAgent::new(Room::new(who, SSH_PROTECTED));
        kept.work();
        kept.scan().assert_nothing(&format!("ssh-agent as {who:?}"));
    }
}

/// While the connection is open that a key came by, the key lies in its buffers.
#[test]
fn ssh_agent_while_a_key_comes_in() {
    need!(root, secretmem);
    let look = |how| {
        let agent = SshAgent::new(Room::new(WHO()[0], how));
        // What ssh-add sends is taken down, and sent again by a connection that stays open.
        let recorded = record(&agent);
        let mut open = keys::connect(&agent.room.path().join("socket"));
        open.write_all(&recorded).unwrap();
        let mut answer = [0; 5];
        open.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0, 0, 0, 1, 6], "the agent takes the key");
        let found = agent.scan();
        drop(open);
        found
    };
    let plain = look(How::Plain);
    // The key's own encoding: its numbers are parts of it.
    assert!(plain.kinds(0).contains(&"openssh"), "{:#}", plain.report);
    look(SSH_PROTECTED).assert_nothing("ssh-agent with an open connection");
}

/// The message by which ssh-add adds the RSA key.
fn record(agent: &SshAgent) -> Vec<u8> {
    let path = agent.room.path().join("recorder");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut add = agent.room.plain(SSH_ADD);
    let adding = agent
        .room
        .start(add.env("SSH_AUTH_SOCK", &path).args(["-q", "rsa"]));
    let (mut stream, _) = listener.accept().unwrap();
    // Other requests are refused, the key's is taken.
    loop {
        let message = message(&mut stream);
        let is_key = matches!(message.get(4), Some(17 | 25));
        let answer = if is_key { 6 } else { 5 };
        stream.write_all(&[0, 0, 0, 1, answer]).unwrap();
        if is_key {
            drop(stream);
            assert_eq!(adding.wait().status, "exit 0");
            return message;
        }
    }
}

fn message(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut message = length.to_vec();
    message.resize(4 + u32::from_be_bytes(length) as usize, 0);
    stream.read_exact(&mut message[4..]).unwrap();
    message
}

/// A gpg-agent that has made keys and has signed and decrypted with them.
fn gpg_agent(room: Room) -> (Daemon, Room, Vec<PathBuf>) {
    let home = room.directory("gnupg");
    let room = room.with_env("GNUPGHOME", &home);
    let mut agent = room.command("/usr/bin/gpg-agent");
    room.succeed(agent.args(["--daemon", "--quiet", "--disable-scdaemon"]));
    let mut ask = room.plain("/usr/bin/gpg-connect-agent");
    let answer = room.succeed(ask.args(["--no-autostart", "GETINFO pid", "/bye"]));
    let pid = answer
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("D ")?.parse().ok());
    let daemon = Daemon::of(pid.expect("the agent's process number"));
    let gpg = |arguments: &[&str]| {
        let mut gpg = room.plain("/usr/bin/gpg");
        gpg.args([
            "--no-autostart",
            "--batch",
            "--quiet",
            "--yes",
            "--trust-model",
            "always",
        ]);
        room.succeed(gpg.args(arguments));
    };
    room.file("message", "a message\n");
    for (name, kind) in [
        (
            "rsa",
            "Key-Type: RSA\nKey-Length: 2048\nKey-Usage: sign\nSubkey-Type: RSA\nSubkey-Length: 2048\nSubkey-Usage: encrypt\n",
        ),
        (
            "curve",
            "Key-Type: EDDSA\nKey-Curve: ed25519\nKey-Usage: sign\nSubkey-Type: ECDH\nSubkey-Curve: cv25519\nSubkey-Usage: encrypt\n",
        ),
    ] {
        let parameters =
            format!("%no-protection\n{kind}Name-Real: {name}\nExpire-Date: 0\n%commit\n");
        room.file("parameters", parameters);
        gpg(&["--gen-key", "parameters"]);
        gpg(&["--local-user", name, "--detach-sign", "message"]);
        gpg(&["--recipient", name, "--encrypt", "message"]);
        gpg(&["--output", "decrypted", "--decrypt", "message.gpg"]);
    }
    let files = std::fs::read_dir(home.join("private-keys-v1.d")).unwrap();
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 4);
    (daemon, room, files)
}

#[test]
fn gpg_agent_after_its_work() {
    need!(root, secretmem);
    for &who in WHO() {
        let (agent, _room, keys) = gpg_agent(Room::new(who, How::Plain));
        let found = scan(agent.pid(), &keys);
        assert_eq!(found.status, Some(1));
        for (number, key) in keys.iter().enumerate() {
            assert!(
                found.kinds(number).contains(&"component"),
                "the control is void: {} is not found in a plain agent: {:#}",
                key.display(),
                found.report["subjects"]
            );
        }
        let (agent, _room, keys) = gpg_agent(Room::new(who, How::HEAP));
        scan(agent.pid(), &keys).assert_nothing(&format!("gpg-agent as {who:?}"));
    }
}

/// With a connection by an RSA key. The program has keys of its own, those of `openssl speed`, which
/// are no secrets: what is asked for is the server's, and the connection's schedules.
#[test]
fn openssl_server_with_a_connection() {
    need!(root, secretmem);
    let pair = keys::Pair::new(keys::Kind::Rsa);
    let look = |how| {
        let room = Room::new(WHO()[0], how);
        let (key, certificate) = pair.put(&room);
        let mut serve = room.command("/usr/bin/openssl");
        serve.args(["s_server", "-rev", "-accept", "127.0.0.1:0"]);
        serve.arg("-key").arg(&key).arg("-cert").arg(certificate);
        let server = room.start(&mut serve);
        let listens = || {
            let said = server.so_far().stdout;
            let (port, _) = said.split_once("ACCEPT 127.0.0.1:")?.1.split_once('\n')?;
            Some(format!("127.0.0.1:{port}"))
        };
        let address = keys::until("a listener", listens, || server.so_far().to_string());
        let (input, mut words) = std::io::pipe().unwrap();
        let mut connect = room.plain("/usr/bin/openssl");
        connect.args(["s_client", "-brief", "-ign_eof", "-connect"]);
        let client = room.start(connect.arg(&address).stdin(input));
        words.write_all(b"hello\n").unwrap();
        let answered = || client.so_far().stdout.contains("olleh\n").then_some(());
        keys::until("an answer", answered, || {
            format!("{}\n{}", server.so_far(), client.so_far())
        });
        let found = scan(server.pid(), &[key]);
        drop(client);
        drop(server);
        found
    };
    let is_schedule = |hit: &&Value| hit["kind"] == "aes-schedule";
    let schedules = |found: &Scanned| {
        found.report["hits"]
            .as_array()
            .unwrap()
            .iter()
            .filter(is_schedule)
            .count()
    };
    let plain = look(How::Plain);
    assert!(
        plain.kinds(0).contains(&"component"),
        "the control is void: {:#}",
        plain.report
    );
    assert!(
        schedules(&plain) > 0,
        "the control is void: {:#}",
        plain.report
    );
    let kept = look(How::HEAP);
    assert_eq!(kept.of_key(0), Vec::<&Value>::new(), "{:#}", kept.report);
    assert_eq!(schedules(&kept), 0, "{:#}", kept.report);
    assert_eq!(kept.report["complete"], true);
}
