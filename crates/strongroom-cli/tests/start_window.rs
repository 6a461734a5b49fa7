//! Between exec and the first instruction of ours every process is dumpable. Another process of the
//! same user opens /proc/PID/mem in that time, keeps the descriptor, and reads locked memory by it
//! later. Yama's ptrace_scope decides whether it can: the test holds in both worlds what is said of each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail the test"
)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use support::{How, Room, Who, need};

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");
/// Set for the watcher: whom it watches, and the program that it waits for.
const WATCHED: &str = "STRONGROOM_TEST_WATCHED";
/// How many starts are watched under Yama.
const GUARDED: usize = 40;
/// How many at most without. On an idle machine the first one or two are enough, on a busy one a dozen.
const UNGUARDED: usize = 200;
const LENGTH: usize = 64;

/// The other process: opens the file again and again until its standard input says where the secret
/// is. It says how often it had the new program's memory open, and what it read there.
#[test]
fn the_watcher_itself() {
    let Ok(watched) = std::env::var(WATCHED) else {
        return;
    };
    let (pid, program) = watched.split_once(' ').unwrap();
    let (mem, exe) = (format!("/proc/{pid}/mem"), format!("/proc/{pid}/exe"));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        let _ = tell.send(line);
    });
    println!("#watching");
    let mut kept: Vec<File> = Vec::new();
    let line = loop {
        if let Ok(line) = told.try_recv() {
            break line;
        }
        // Open first and look then: what is open may still be the program's before, so some are kept.
        if let Ok(file) = File::open(&mem)
            && kept.len() < 500
            && std::fs::read_link(&exe).is_ok_and(|path| path == Path::new(program))
        {
            kept.push(file);
        }
    };
    let address: u64 = line.trim().parse().unwrap();
    let mut bytes = [0; LENGTH];
    let read = kept
        .iter()
        .any(|file| file.read_exact_at(&mut bytes, address).is_ok() && bytes != [0; LENGTH]);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("#{} {}", kept.len(), if read { &hex } else { "nothing" });
}

/// One start under a watcher's eyes; whether it read the secret, and the receipt.
fn start(room: &Room) -> (bool, serde_json::Value) {
    let program = room.path().join("victim");
    let receipts = room.path().join("receipts");
    let _ = std::fs::remove_file(&receipts);
    let mut victim = room
        .plain("sh")
        // Its number is known before it becomes the program.
        .args(["-c", "read -r go; exec \"$@\"", "sh"])
        .arg(room.path().join("strongroom"))
        .args(["run", "--level", "locked", "--receipt"])
        .arg(&receipts)
        .arg("--")
        .arg(&program)
        .args(["victim", "plain"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut watcher = room
        .plain(room.path().join("watcher"))
        .args(["--exact", "the_watcher_itself", "--nocapture"])
        .env(WATCHED, format!("{} {}", victim.id(), program.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(watcher.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        // After the test harness's own words, on the same line.
        .filter_map(|line| line.split_once('#').map(|(_, said)| said.to_owned()));
    assert_eq!(said.next().unwrap(), "watching");

    let mut orders = victim.stdin.take().unwrap();
    orders.write_all(b"go\n").unwrap();
    let mut answers = BufReader::new(victim.stdout.take().unwrap());
    let mut ready = String::new();
    answers.read_line(&mut ready).unwrap();
    let address = ready.split(' ').nth(2).expect(&ready).to_owned();
    let mut secret = [0; LENGTH];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut secret)
        .unwrap();
    orders.write_all(&secret).unwrap();
    orders.write_all(b"hash\n").unwrap();
    // The secret is in place once it answers.
    answers.read_line(&mut ready).unwrap();
    writeln!(watcher.stdin.take().unwrap(), "{address}").unwrap();
    let loot = said.next().unwrap();
    assert!(watcher.wait().unwrap().success());
    orders.write_all(b"end\n").unwrap();
    assert!(victim.wait().unwrap().success());

    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = std::fs::read_to_string(&receipts).unwrap();
    let receipt = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    (loot.ends_with(&hex), receipt)
}

#[test]
fn only_where_yama_guards_it_the_start_cannot_be_watched() {
    need!(secretmem);
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let guarded = scope.is_ok_and(|scope| scope.trim() != "0");
    let room = Room::new(Who::User, How::Plain);
    room.copy(STRONGROOM.as_ref(), "strongroom");
    room.copy(STRONGROOM.as_ref(), "victim");
    room.copy(&std::env::current_exe().unwrap(), "watcher");
    let claims = |receipt: &serde_json::Value| {
        let held = receipt["held"].as_array().unwrap();
        held.iter().any(|protection| protection == "NoInject")
    };
    let mut stolen = 0;
    let starts = if guarded { GUARDED } else { UNGUARDED };
    for _ in 0..starts {
        let (stole, receipt) = start(&room);
        assert_eq!(claims(&receipt), guarded, "{receipt}");
        stolen += usize::from(stole);
        if !guarded && stole {
            break;
        }
    }
    println!("guarded: {guarded}; secrets read: {stolen}");
    if guarded {
        assert_eq!(stolen, 0, "with Yama's ptrace_scope on");
    } else {
        assert_ne!(
            stolen, 0,
            "nothing was read in {starts} starts: then what holds under Yama proves nothing"
        );
    }
}
