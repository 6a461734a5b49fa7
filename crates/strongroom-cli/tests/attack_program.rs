//! `strongroom attack -- CMD`: the user's own program, plain and protected.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail the test"
)]

mod support;

use serde_json::Value;
use support::{How, Room, Transcript, Who, need};

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");
const PYTHON: &str = "/usr/bin/python3";
const MARKER: &str = "the-marker-of-this-test";
/// Has the marker in `m`, on the heap, and nowhere spelt out.
const MAKE: &str = "m = bytearray(b'tset-siht-fo-rekram-eht'); m.reverse()\n";
const STAY: &str = "import time; time.sleep(1000)\n";

/// `strongroom attack OPTIONS -- COMMAND` in a room.
fn attack(room: &Room, options: &[&str], command: &[&str]) -> Transcript {
    let copy = room.copy(STRONGROOM.as_ref(), "attacker");
    let mut attack = room.plain(copy);
    attack.arg("attack").args(options);
    if !command.is_empty() && !options.contains(&"--wait") {
        // The machine may have much else to do.
        attack.args(["--wait", "100"]);
    }
    attack.arg("--").args(command);
    let transcript = room.run(&mut attack);
    assert_eq!(left(), Vec::<String>::new(), "{transcript}");
    transcript
}

/// Processes of these tests that run Python and still wait.
fn left() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let own = std::process::id().to_string();
    lines
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.starts_with(PYTHON) && line.contains(&format!("# of {own} ")))
        .filter(|line| line.contains(&thread()))
        .collect()
}

/// Tests run beside one another: each knows its own programs.
fn thread() -> String {
    format!("{:?}", std::thread::current().id())
}

/// A program of Python's.
fn python(code: &str) -> Vec<String> {
    let mark = format!("# of {} {}\n", std::process::id(), thread());
    vec![PYTHON.to_owned(), "-c".to_owned(), format!("{mark}{code}")]
}

fn attack_python(room: &Room, options: &[&str], code: &str) -> Transcript {
    let command = python(code);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    attack(room, options, &command)
}

fn json(transcript: &Transcript) -> Value {
    let report: Value = serde_json::from_str(&transcript.stdout)
        .unwrap_or_else(|error| panic!("{error}: {transcript}"));
    assert_eq!(report["schema"], 1);
    report
}

fn cell<'a>(report: &'a Value, victim: &str, attack: &str) -> &'a Value {
    let victims = report["victims"].as_array().unwrap();
    let victim = victims.iter().find(|v| v["name"] == victim).unwrap();
    let attacks = victim["attacks"].as_array().unwrap();
    attacks.iter().find(|a| a["attack"] == attack).unwrap()
}

#[track_caller]
fn assert_cell(report: &Value, victim: &str, attack: &str, result: &str, claimed: bool) {
    let cell = cell(report, victim, attack);
    assert_eq!(
        (&cell["result"], &cell["claimed"]),
        (&result.into(), &claimed.into()),
        "{victim}: {cell}"
    );
}

#[test]
fn a_program_leaks_plain_and_holds_protected() {
    need!(root, secretmem);
    let room = Room::new(Who::Root, How::Plain);
    let transcript = attack_python(
        &room,
        &["--json", "--text", MARKER],
        &format!("{MAKE}{STAY}"),
    );
    let report = json(&transcript);
    let victims = report["victims"].as_array().unwrap().iter();
    let names: Vec<_> = victims.map(|victim| &victim["name"]).collect();
    assert_eq!(
        names,
        ["plain", "open-fd", "strongroom-locked", "strongroom-hidden"]
    );
    for attack in [
        "peek",
        "peek-root",
        "directmap",
        "core",
        "residue-kill",
        "inject",
    ] {
        assert_cell(&report, "plain", attack, "leaked", false);
    }
    for attack in ["fd", "fd-root"] {
        assert_cell(&report, "open-fd", attack, "leaked", false);
        assert_cell(&report, "strongroom-hidden", attack, "held", true);
    }
    for attack in ["peek", "peek-root", "directmap", "core"] {
        assert_cell(&report, "strongroom-hidden", attack, "held", true);
    }
    for attack in ["pin-vmsplice", "pin-io-uring"] {
        assert_cell(&report, "plain", attack, "leaked", false);
        assert_cell(&report, "strongroom-locked", attack, "leaked", false);
        assert_cell(&report, "strongroom-hidden", attack, "held", true);
    }
    assert_cell(&report, "strongroom-hidden", "residue-kill", "held", false);
    assert_cell(&report, "strongroom-hidden", "inject-root", "leaked", false);
    for attack in ["peek-root", "directmap", "residue-kill"] {
        assert_cell(&report, "strongroom-locked", attack, "leaked", false);
    }
    let helped = cell(&report, "strongroom-hidden", "overflow-read");
    assert_eq!(helped["result"], "skipped");
    assert_eq!(helped["detail"], "needs a victim that takes part");
    assert_eq!(transcript.status, "exit 0", "{transcript}");
}

/// Of several secrets it is said which were there.
#[test]
fn what_is_proven_is_said() {
    need!(root, secretmem);
    let room = Room::new(Who::Root, How::Plain);
    let options = ["--only", "peek-root", "--level", "hidden"];
    let markers = ["--text", MARKER, "--text", "not in any program"];
    let options = [&options[..], &markers].concat();
    let transcript = attack_python(&room, &options, &format!("{MAKE}{STAY}"));
    let known = "--text 1 at 1 place; --text 2 nowhere: nothing is known of it";
    for victim in ["plain", "strongroom-hidden"] {
        let line = format!("  {victim}: {known}\n");
        assert!(transcript.stdout.contains(&line), "{line}{transcript}");
    }
    assert_eq!(transcript.status, "exit 0", "{transcript}");
}

/// Where the program puts a copy that nothing keeps, that is a leak, and the place is named.
#[test]
fn a_copy_that_is_not_kept_is_a_leak() {
    need!(root, secretmem);
    let room = Room::new(Who::Root, How::Plain);
    let copy = "import mmap; c = mmap.mmap(-1, 4096); c[:len(m)] = m\n";
    let transcript = attack_python(
        &room,
        &[
            "--json", "--level", "hidden", "--only", "peek", "--text", MARKER,
        ],
        &format!("{MAKE}{copy}{STAY}"),
    );
    let report = json(&transcript);
    assert_cell(&report, "strongroom-hidden", "peek-root", "leaked", true);
    let leak = cell(&report, "strongroom-hidden", "peek-root");
    let detail = leak["detail"].as_str().unwrap();
    assert!(detail.contains("1 of 2 places"), "{detail}");
    assert!(detail.contains("in /dev/zero"), "{detail}");
    assert!(!detail.contains("secretmem"), "{detail}");
    assert_eq!(transcript.status, "exit 1", "{transcript}");
}

/// A copy in another process of the program's is a leak, too.
#[test]
fn a_copy_in_another_process_is_a_leak() {
    need!(root, secretmem);
    let room = Room::new(Who::Root, How::Plain);
    // The parent, which is looked at first, has it on the heap only.
    let code = format!(
        "{MAKE}import os, mmap
if os.fork() == 0:
    c = mmap.mmap(-1, 4096)
    c[:len(m)] = m
    open('ready', 'w')
{STAY}"
    );
    let transcript = attack_python(
        &room,
        &[
            "--json",
            "--level",
            "hidden",
            "--only",
            "peek",
            "--text",
            MARKER,
            "--then",
            "test -e ready",
        ],
        &code,
    );
    let report = json(&transcript);
    let leak = cell(&report, "strongroom-hidden", "peek-root");
    let detail = leak["detail"].as_str().unwrap();
    assert_eq!(leak["result"], "leaked", "{detail}");
    assert!(
        detail.contains("process ") && detail.contains("in /dev/zero"),
        "{detail}"
    );
    assert_eq!(transcript.status, "exit 1", "{transcript}");
}

/// A secret that another command brings in, to a program that goes into the background.
#[test]
fn then_brings_the_secret_in() {
    need!(root, secretmem);
    let room = Room::new(Who::Root, How::Plain);
    let secret = room.file("secret", MARKER);
    let code = format!(
        "import os
if os.fork(): os._exit(0)
os.setsid()
os.mkfifo('way-in')
with open('way-in', 'rb', buffering=0) as way: m = way.read(1000)
{STAY}"
    );
    let transcript = attack_python(
        &room,
        &[
            "--json",
            "--only",
            "peek,directmap",
            "--text-file",
            secret.to_str().unwrap(),
            "--then",
            "test -d /proc/$STRONGROOM_VICTIM_PID && cd $STRONGROOM_VICTIM_DIR && test -p way-in \
             && printf the-marker-of-this-test > way-in",
        ],
        &code,
    );
    let report = json(&transcript);
    for attack in ["peek", "peek-root", "directmap"] {
        assert_cell(&report, "plain", attack, "leaked", false);
        assert_cell(&report, "strongroom-hidden", attack, "held", true);
    }
    assert_eq!(transcript.status, "exit 0", "{transcript}");
}

/// The numbers of a key, in a server that nobody wrote for this.
#[test]
fn a_servers_key() {
    need!(root, secretmem);
    const OPENSSL: &str = "/usr/bin/openssl";
    // As the programs' user, who has to read the files.
    let room = Room::new(Who::User, How::Plain);
    let openssl = |line: &str| room.succeed(room.plain(OPENSSL).args(line.split(' ')));
    openssl("genpkey -algorithm ed25519 -out key.pem");
    openssl("req -x509 -key key.pem -subj /CN=x -days 2 -out certificate.pem");
    let path = |name: &str| room.path().join(name).to_str().unwrap().to_owned();
    let attacker = Room::new(Who::Root, How::Plain);
    let transcript = attack(
        &attacker,
        &[
            "--json",
            "--only",
            "peek,directmap,core",
            "--key",
            &path("key.pem"),
        ],
        &[
            OPENSSL,
            "s_server",
            "-quiet",
            "-unix",
            "socket",
            "-key",
            &path("key.pem"),
            "-cert",
            &path("certificate.pem"),
        ],
    );
    let report = json(&transcript);
    for attack in ["peek", "peek-root", "directmap", "core"] {
        assert_cell(&report, "plain", attack, "leaked", false);
        assert_cell(&report, "strongroom-hidden", attack, "held", true);
    }
    assert_eq!(transcript.status, "exit 0", "{transcript}");
}

/// Whoever ends the attack ends the program, too.
#[test]
fn a_killed_attack_leaves_no_program() {
    let room = Room::new(Who::User, How::Plain);
    let copy = room.copy(STRONGROOM.as_ref(), "attacker");
    let mut command = room.plain(copy);
    let directory = room.directory("files");
    command
        .args(["attack", "--wait", "60", "--text", MARKER, "--"])
        .args(python(STAY))
        .env("TMPDIR", directory);
    let mut attack = command.spawn().unwrap();
    let wait_until = |there: bool| {
        for _ in 0..3000 {
            // The attack has the program's arguments among its own, behind other words.
            if left().is_empty() != there {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the program is there: {}", !there);
    };
    wait_until(true);
    attack.kill().unwrap();
    attack.wait().unwrap();
    wait_until(false);
}

/// What is not proven to be there is not held.
#[test]
fn without_the_secret_under_run_nothing_is_held() {
    need!(root, secretmem);
    let room = Room::new(Who::Root, How::Plain);
    let transcript = attack_python(
        &room,
        &[
            "--only", "peek", "--wait", "2", "--level", "hidden", "--text", MARKER,
        ],
        &format!("if 'strongroom' not in open('/proc/self/maps').read():\n {MAKE}{STAY}"),
    );
    let mut rows = transcript.stdout.lines();
    let row = rows.find(|line| line.starts_with("peek-root"));
    let row = row.unwrap_or_default();
    assert!(row.contains("leaked *") && row.contains("skipped"), "{row}");
    assert!(!row.contains("held"), "{row}");
    assert!(
        transcript.stdout.contains("not proven to be there"),
        "{transcript}"
    );
    let words = transcript.stdout.replace('\n', " ");
    assert!(words.contains("nothing is known"), "{transcript}");
    assert_eq!(transcript.status, "exit 3", "{transcript}");
}

/// Only root can make a protected program show that it has its secret.
#[test]
fn an_ordinary_user_proves_nothing_about_a_protected_program() {
    need!(secretmem);
    let room = Room::new(Who::User, How::Plain);
    let transcript = attack_python(
        &room,
        &["--json", "--only", "peek", "--wait", "2", "--text", MARKER],
        &format!("{MAKE}{STAY}"),
    );
    let report = json(&transcript);
    assert_cell(&report, "plain", "peek", "leaked", false);
    let kept = cell(&report, "strongroom-hidden", "peek");
    assert_eq!(kept["result"], "skipped");
    assert!(
        kept["detail"].as_str().unwrap().contains("only root"),
        "{kept}"
    );
    assert_eq!(transcript.status, "exit 3", "{transcript}");
}

#[test]
fn what_the_plain_program_does_not_show_cannot_be_attacked() {
    let room = Room::new(Who::User, How::Plain);
    let options = ["--wait", "1", "--text", MARKER];
    let without = attack_python(&room, &options, STAY);
    assert_eq!(without.status, "exit 3", "{without}");
    assert!(without.stdout.is_empty(), "{without}");
    assert!(without.stderr.contains("within 1 s"), "{without}");
    let over = attack_python(&room, &options, "raise SystemExit('a word of mine')");
    assert_eq!(over.status, "exit 3", "{over}");
    assert!(over.stderr.contains("a word of mine"), "{over}");
    let stubborn = attack_python(
        &room,
        &[&options[..], &["--then", "echo it does not listen; false"]].concat(),
        &format!("{MAKE}{STAY}"),
    );
    assert_eq!(stubborn.status, "exit 3", "{stubborn}");
    assert!(stubborn.stderr.contains("it does not listen"), "{stubborn}");
}

#[test]
fn programs_that_cannot_be_run() {
    let room = Room::new(Who::User, How::Plain);
    let text = room.file("text", "not a program");
    let missing = attack(&room, &["--text", MARKER], &["no-such-program"]);
    assert_eq!(missing.status, "exit 127", "{missing}");
    let missing = attack(&room, &["--text", MARKER], &["./no-such-program"]);
    assert_eq!(missing.status, "exit 127", "{missing}");
    let closed = attack(&room, &["--text", MARKER], &[text.to_str().unwrap()]);
    assert_eq!(closed.status, "exit 126", "{closed}");
}

#[test]
fn needles_that_prove_nothing_are_refused() {
    let room = Room::new(Who::User, How::Plain).with_env("SOME_VARIABLE", MARKER);
    let refused = |options: &[&str], command: &[&str], why: &str| {
        let transcript = attack(&room, options, command);
        assert_eq!(transcript.status, "exit 125", "{transcript}");
        assert!(transcript.stdout.is_empty(), "{transcript}");
        assert!(transcript.stderr.contains(why), "{why}: {transcript}");
    };
    refused(&["--text", "7 bytes"], &["sleep", "9"], "7 bytes");
    refused(&["--pattern", "00112233"], &["sleep", "9"], "4 bytes");
    refused(&["--pattern", "0x1122"], &["sleep", "9"], "hexadecimal");
    refused(
        &["--text", "and that"],
        &["echo", "this and that"],
        "arguments",
    );
    refused(&["--text", MARKER], &["sleep", "9"], "SOME_VARIABLE");
    refused(&["--text-file", "/none"], &["sleep", "9"], "/none");
    refused(&[], &["sleep", "9"], "--text");
    refused(&["--text", MARKER], &[], "CMD");
}
