//! openssl, protected: handshakes, figures and the secure heap are as ever, and private
//! keys and session secrets are nowhere to be seen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "support/keys.rs"]
mod keys;
mod support;

use keys::{Kind, Pair, until};
use std::io::Write;
use std::process::Stdio;
use support::room::WHO;
use support::{How, Process, Room, Transcript, Who, chance, need};

const OPENSSL: &str = "/usr/bin/openssl";

/// A server and a client that have shaken hands and said hello.
struct Connection<'a> {
    server: &'a Process,
    client: &'a Process,
    /// The session's secrets, as the server logs them, under their names.
    session: Vec<(String, Vec<u8>)>,
}

/// Lets `s_server` and `s_client` talk, lets `look` see both while they are connected,
/// and returns all that they said.
fn talk(
    room: &Room,
    pair: &Pair,
    version: &str,
    look: impl FnOnce(&Connection),
) -> (Transcript, Transcript) {
    let (key, certificate) = pair.put(room);
    let server = room.start(
        room.command(OPENSSL)
            .args(["s_server", "-accept", "127.0.0.1:0", "-naccept", "1"])
            .args(["-rev", version, "-keylogfile", "session", "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&certificate),
    );
    let port = until(
        "a port that s_server listens at",
        || {
            let said = server.so_far().stdout;
            let (port, _) = said.split_once("ACCEPT 127.0.0.1:")?.1.split_once('\n')?;
            Some(port.to_owned())
        },
        || server.so_far().to_string(),
    );
    let (input, mut words) = std::io::pipe().expect("a pipe");
    let client = room.start(
        room.command(OPENSSL)
            .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
            .args([
                "-servername",
                "localhost",
                "-verify_hostname",
                "localhost",
                "-verify_return_error",
            ])
            .args(["-brief", "-ign_eof", version, "-CAfile"])
            .arg(&certificate)
            .stdin(Stdio::from(input)),
    );
    words.write_all(b"hello\n").expect("s_client's input");
    until(
        "an answer",
        || client.so_far().stdout.contains("olleh\n").then_some(()),
        || {
            format!(
                "=== server\n{}\n=== client\n{}",
                server.so_far(),
                client.so_far()
            )
        },
    );
    let log = std::fs::read_to_string(room.path().join("session")).expect("the key log");
    let session = log
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut fields = line.split(' ');
            let name = fields.next().expect("a name").to_owned();
            (name, keys::unhex(fields.nth(1).expect("a secret")))
        })
        .collect();
    look(&Connection {
        server: &server,
        client: &client,
        session,
    });
    words.write_all(b"CLOSE\n").expect("s_client's input");
    drop(words);
    let (client, mut server) = (client.wait(), server.wait());
    server.stdout = server
        .stdout
        .replace(&format!("127.0.0.1:{port}\n"), "127.0.0.1:PORT\n");
    (server, client)
}

/// The private key in the server, and the session's secrets in both.
fn secrets<'a>(
    pair: &'a Pair,
    version: &str,
    connection: &'a Connection,
    can_look: bool,
) -> Vec<(i32, String, &'a [u8])> {
    if !can_look {
        return Vec::new();
    }
    let mut secrets: Vec<_> = pair
        .numbers
        .iter()
        .map(|number| {
            let name = format!("{} of s_server", number.name);
            (connection.server.pid(), name, number.limbs.as_slice())
        })
        .collect();
    // The others are for the handshake only: both programs wipe them.
    let lasting: &[&str] = match version {
        "-tls1_3" => &["CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"],
        _ => &["CLIENT_RANDOM"],
    };
    for name in lasting {
        let (_, secret) = connection
            .session
            .iter()
            .find(|(logged, _)| logged == name)
            .unwrap_or_else(|| panic!("no {name} in the key log"));
        for (program, process) in [
            ("s_server", connection.server),
            ("s_client", connection.client),
        ] {
            secrets.push((process.pid(), format!("{name} of {program}"), secret));
        }
    }
    secrets
}

fn handshakes(kind: Kind, version: &str) {
    let can_look = keys::can_look();
    let pair = Pair::new(kind);
    for &who in WHO() {
        let plain = talk(&Room::new(who, How::Plain), &pair, version, |connection| {
            for (pid, name, secret) in secrets(&pair, version, connection, can_look) {
                support::assert_leaks(pid, &name, secret);
            }
        });
        for transcript in [&plain.0, &plain.1] {
            assert_eq!(transcript.status, "exit 0", "{transcript}");
        }
        assert!(plain.1.stderr.contains("Verification: OK"), "{}", plain.1);
        let heap = talk(&Room::new(who, How::HEAP), &pair, version, |connection| {
            for (pid, name, secret) in secrets(&pair, version, connection, can_look) {
                support::assert_kept(pid, &name, secret);
            }
        });
        assert_eq!(plain, heap, "{kind:?} {version} as {who:?}");
        // Neither program locks anything, so there is nothing to look for in that scope.
        let locked = talk(&Room::new(who, How::LOCKED), &pair, version, |_| ());
        assert_eq!(plain, locked, "{kind:?} {version} as {who:?}, locked scope");
    }
}

#[test]
fn handshakes_with_an_rsa_key() {
    handshakes(Kind::Rsa, "-tls1_3");
}

#[test]
fn handshakes_with_a_key_on_a_curve() {
    handshakes(Kind::Curve, "-tls1_3");
}

#[test]
fn older_handshakes() {
    handshakes(Kind::Rsa, "-tls1_2");
}

/// Keys are made, and used for signatures that verify, all by protected programs.
#[test]
fn keys_and_signatures() {
    for &who in WHO() {
        for how in [How::HEAP, How::LOCKED] {
            for options in [
                &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"][..],
                &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            ] {
                let room = Room::new(who, how);
                let message = room.file("message", "a message\n");
                let openssl = |arguments: &[&str]| {
                    room.succeed(room.command(OPENSSL).args(arguments).arg(&message))
                };
                room.succeed(
                    room.command(OPENSSL)
                        .args(["genpkey", "-out", "key"])
                        .args(options),
                );
                room.succeed(
                    room.command(OPENSSL)
                        .args(["pkey", "-in", "key", "-pubout", "-out", "public"]),
                );
                openssl(&["dgst", "-sha256", "-sign", "key", "-out", "signature"]);
                let verified = openssl(&[
                    "dgst",
                    "-sha256",
                    "-verify",
                    "public",
                    "-signature",
                    "signature",
                ]);
                assert_eq!(verified.stdout, "Verified OK\n", "{verified}");
            }
        }
    }
}

/// The figures of a benchmark differ from run to run; the words around them do not.
fn without_figures(mut transcript: Transcript) -> Transcript {
    for text in [&mut transcript.stdout, &mut transcript.stderr] {
        let mut last = ' ';
        text.retain(|c| {
            let is_figure = c.is_ascii_digit() || c == '.';
            let is_gap = c.is_whitespace() && last.is_whitespace();
            let is_kept = !(is_figure || is_gap);
            if is_kept {
                last = c;
            }
            is_kept
        });
    }
    transcript
}

#[test]
fn speed() {
    for &who in WHO() {
        for arguments in [
            &["speed", "-seconds", "1", "-bytes", "1024", "sha256"][..],
            // Forks, and collects what its children say.
            &[
                "speed", "-seconds", "1", "-bytes", "1024", "-multi", "2", "sha256",
            ],
        ] {
            let run = |how| {
                let room = Room::new(who, how);
                without_figures(room.run(room.command(OPENSSL).args(arguments)))
            };
            let plain = run(How::Plain);
            assert_eq!(plain.status, "exit 0", "{plain}");
            assert_eq!(plain, run(How::HEAP), "as {who:?}: {arguments:?}");
        }
    }
}

/// `CRYPTO_secure_malloc`: OpenSSL locks that heap by mlock2 through syscall().
fn secure_heap(who: Who, how: How) -> Transcript {
    let room = Room::new(who, how);
    let secret = chance::bytes::<64>();
    let file = room.file("secret", secret);
    let program = room.program("secure_heap.c", &["-lcrypto"]);
    let mut session = room.session(room.command(program).arg(file));
    for name in ["secret", "child", "full"] {
        let stage = session.stage(name);
        if !keys::can_look() {
            session.go();
            continue;
        }
        let what = format!("the secret at stage {name} as {who:?} with {how:?}");
        if how.is_protected() {
            support::assert_kept(stage.pid, &what, &secret);
        } else {
            support::assert_leaks(stage.pid, &what, &secret);
        }
        session.go();
    }
    session.finish()
}

#[test]
fn the_secure_heap() {
    for &who in WHO() {
        let plain = secure_heap(who, How::Plain);
        assert_eq!(plain.status, "exit 9", "{plain}");
        assert!(plain.stdout.starts_with("init 1\n"), "{plain}");
        for how in [How::LOCKED, How::HEAP] {
            assert_eq!(plain, secure_heap(who, how), "as {who:?} with {how:?}");
        }
    }
    need!(root, secretmem);
}
