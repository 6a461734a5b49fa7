//! `strongroom scan`: what it says, what it never says, and its status.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use serde_json::Value;
use std::path::Path;
use support::room::WHO;
use support::{How, Room, Transcript, Who, chance, need, outside};

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");
const SSH_KEYGEN: &str = "/usr/bin/ssh-keygen";

/// `strongroom scan` in a room, whose user can run the command.
fn scan(room: &Room, arguments: &[&str]) -> Transcript {
    let copy = room.path().join("scanner");
    if !copy.exists() {
        room.copy(STRONGROOM.as_ref(), "scanner");
    }
    room.run(room.plain(copy).arg("scan").args(arguments))
}

fn json(said: &Transcript) -> Value {
    let report: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(report["schema"], 1);
    report
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn generate(room: &Room, name: &str, passphrase: &str) {
    let mut keygen = room.plain(SSH_KEYGEN);
    keygen.args(["-q", "-t", "ed25519", "-N", passphrase, "-f", name]);
    room.succeed(&mut keygen);
}

/// Found, by whoever may look; without its bytes, and with them where asked.
#[test]
fn a_pattern_in_a_process() {
    for &who in WHO() {
        let room = Room::new(who, How::Plain);
        let secret = chance::bytes::<64>();
        let file = room.file("secret", secret);
        let program = room.program("victim.c", &[]);
        let mut session = room.session(room.command(program).arg("plain").arg(file));
        let ready = session.stage("ready");
        let pid = ready.pid.to_string();
        let digits = hexadecimal(&secret);
        let arguments = [pid.as_str(), "--pattern", &digits];

        let said = scan(&room, &arguments);
        assert_eq!(
            (said.status.as_str(), said.stderr.as_str()),
            ("exit 1", ""),
            "{said}"
        );
        let address = format!("{:#014x}", ready.address);
        for word in [
            "FOUND",
            "--pattern 1",
            "reached by",
            "same-user",
            &address,
            "1 hit.",
        ] {
            assert!(said.stdout.contains(word), "{word}: {said}");
        }
        assert!(!said.stdout.contains(&digits[..16]), "{said}");

        let shown = scan(&room, &[&arguments[..], &["--show"]].concat());
        assert!(shown.stdout.contains(&digits[..64]), "{shown}");

        let report = json(&scan(&room, &[&arguments[..], &["--json"]].concat()));
        assert_eq!(report["complete"], true);
        assert_eq!(report["target"]["pid"], ready.pid);
        let [hit] = report["hits"].as_array().unwrap().as_slice() else {
            panic!("{report:#}");
        };
        assert_eq!(hit["address"], format!("{:#x}", ready.address));
        assert_eq!(
            (&hit["kind"], &hit["length"]),
            (&"pattern".into(), &64.into())
        );
        assert!(hit.get("bytes").is_none(), "{hit}");
        let place = &report["places"][hit["place"].as_u64().unwrap() as usize];
        assert_eq!(
            place["exposure"]["same-user"]["reach"], "reachable",
            "{place}"
        );
        let shown = json(&scan(
            &room,
            &[&arguments[..], &["--json", "--show"]].concat(),
        ));
        assert_eq!(shown["hits"][0]["bytes"], digits);

        // Another one is not there.
        let other = hexadecimal(&chance::bytes::<32>());
        let said = scan(&room, &[&pid, "--pattern", &other]);
        assert_eq!(said.status, "exit 0", "{said}");
        assert!(
            said.stdout
                .contains("Nothing was found in anything that can be read."),
            "{said}"
        );
    }
}

#[test]
fn hidden_memory_is_counted_and_not_read() {
    if let Err(reason) = outside::secret_memory_works() {
        return support::skip(&reason);
    }
    let room = Room::new(WHO()[0], How::Plain);
    let secret = chance::bytes::<64>();
    let file = room.file("secret", secret);
    let program = room.program("victim.c", &[]);
    let mut session = room.session(room.command(program).arg("hidden").arg(file));
    let pid = session.stage("ready").pid.to_string();
    let said = scan(&room, &[&pid, "--pattern", &hexadecimal(&secret)]);
    assert_eq!(said.status, "exit 0", "{said}");
    assert!(
        said.stdout.contains("not readable: 4 KiB in 1 mappings"),
        "{said}"
    );
}

#[test]
fn another_users_process_may_not_be_read() {
    need!(root);
    let owner = Room::new(Who::Root, How::Plain);
    let process = owner.start(owner.plain("/usr/bin/sleep").arg("1000"));
    let room = Room::new(Who::User, How::Plain);
    let said = scan(&room, &[&process.pid().to_string()]);
    assert_eq!(
        (said.status.as_str(), said.stdout.as_str()),
        ("exit 125", ""),
        "{said}"
    );
    assert!(
        said.stderr.contains("may not be read") && said.stderr.contains("as root"),
        "{said}"
    );
}

/// Digits are a process, and with a slash a file.
#[test]
fn numbers_and_files() {
    let room = Room::new(WHO()[0], How::Plain);
    // Above the kernel's largest process number.
    generate(&room, "99999999", "");
    let said = scan(&room, &["99999999"]);
    assert_eq!(said.status, "exit 125", "{said}");
    assert!(said.stderr.contains("no process 99999999"), "{said}");
    assert!(
        said.stderr.contains("`strongroom scan ./99999999`"),
        "{said}"
    );
    let said = scan(&room, &["./99999999"]);
    assert_eq!(said.status, "exit 1", "{said}");
    assert!(
        said.stdout.contains("PEM block OPENSSH PRIVATE KEY"),
        "{said}"
    );
    let said = scan(&room, &["no-such-file"]);
    assert_eq!(said.status, "exit 125", "{said}");
    assert!(
        said.stderr.contains("no-such-file") && said.stderr.contains("fix:"),
        "{said}"
    );
}

/// The key in the file is told by its fingerprint and by the name that it was given.
#[test]
fn keys_have_names_and_passphrases() {
    let room = Room::new(WHO()[0], How::Plain);
    generate(&room, "key", "a passphrase");
    room.file("right", "a passphrase\n");
    room.file("wrong", "another\n");
    let fingerprint = room
        .succeed(room.plain(SSH_KEYGEN).args(["-l", "-f", "key.pub"]))
        .stdout;
    let fingerprint = fingerprint.split(' ').nth(1).unwrap();

    let said = scan(
        &room,
        &["./key", "--key", "key", "--passphrase-file", "right"],
    );
    assert_eq!(said.status, "exit 1", "{said}");
    let line = format!("FOUND key (ssh-ed25519) {fingerprint}");
    assert!(
        said.stdout.contains(&line) && said.stdout.contains("encrypted"),
        "{said}"
    );

    for (arguments, words) in [
        (vec!["--key", "key"], "no terminal"),
        (
            vec!["--key", "key", "--passphrase-file", "wrong"],
            "does not open it",
        ),
        (vec!["--key", "key.pub"], "a public one"),
        (vec!["--key", "right"], "no private key"),
        (vec!["--key", "absent"], "absent"),
        (vec!["--pattern", "0"], "pairs of hexadecimal digits"),
        (vec!["--pattern", "00ff"], "4 to 4096 bytes"),
        (vec!["--only", "given"], "nothing is given"),
        (
            vec!["--only", "schedules", "--pattern", "00112233"],
            "add `given`",
        ),
    ] {
        let said = scan(&room, &[&["./key"], arguments.as_slice()].concat());
        assert_eq!(
            (said.status.as_str(), said.stdout.as_str()),
            ("exit 125", ""),
            "{said}"
        );
        assert!(said.stderr.contains(words), "{words}: {said}");
    }
}

/// A debugger's dump of a program has the secret where the program had it; cut, it is a part.
#[test]
fn a_core_has_what_the_process_had() {
    let gcore = Path::new("/usr/bin/gcore");
    if !gcore.exists() {
        return support::skip("gcore is not installed (Debian: gdb)");
    }
    let room = Room::new(WHO()[0], How::Plain);
    let secret = chance::bytes::<64>();
    let file = room.file("secret", secret);
    let program = room.program("victim.c", &[]);
    let mut session = room.session(room.command(program).arg("plain").arg(file));
    let ready = session.stage("ready");
    let pid = ready.pid.to_string();
    room.succeed(room.plain(gcore).args(["-o", "core", &pid]));
    let core = format!("./core.{pid}");
    let digits = hexadecimal(&secret);
    let arguments = [core.as_str(), "--json", "--pattern", &digits];
    let said = scan(&room, &arguments);
    assert_eq!(said.status, "exit 1", "{said}");
    let report = json(&said);
    assert_eq!(report["target"]["kind"], "core");
    let hits = report["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 1, "{report:#}");
    assert_eq!(hits[0]["address"], format!("{:#x}", ready.address));

    // Its heads alone.
    let path = room.path().join(format!("core.{pid}"));
    let whole = std::fs::read(&path).unwrap();
    room.file("short", &whole[..whole.len() / 50]);
    let said = scan(&room, &["./short", "--pattern", &digits]);
    assert_eq!(said.status, "exit 2", "{said}");
    assert!(
        said.stdout.contains("partial") && said.stdout.contains("not all could be seen"),
        "{said}"
    );
}

#[test]
fn the_help_teaches() {
    let room = Room::new(WHO()[0], How::Plain);
    let said = scan(&room, &["--help"]);
    for word in [
        "Examples:",
        "What the words mean:",
        "Exit status:",
        "--passphrase-file",
    ] {
        assert!(said.stdout.contains(word), "{word}: {said}");
    }
}
