//! git, protected: many short processes that start each other, with the same objects and
//! the same words as ever; and the passwords that its credential daemon holds are nowhere
//! to be seen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "support/keys.rs"]
mod keys;
mod support;

use std::fmt::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use support::room::WHO;
use support::session::Daemon;
use support::{How, Outside, Process, Room, Who, chance, need};

/// Debian's, whatever comes first in the PATH of those who run the tests.
const GIT: &str = "/usr/bin/git";

/// A room where git does the same at any time.
fn room(who: Who, how: How) -> Room {
    Room::new(who, how)
        .with_env("GIT_CONFIG_NOSYSTEM", "1")
        .with_env("GIT_AUTHOR_NAME", "An Author")
        .with_env("GIT_AUTHOR_EMAIL", "author@example.org")
        .with_env("GIT_AUTHOR_DATE", "2001-02-03T04:05:06Z")
        .with_env("GIT_COMMITTER_NAME", "A Committer")
        .with_env("GIT_COMMITTER_EMAIL", "committer@example.org")
        .with_env("GIT_COMMITTER_DATE", "2007-08-09T10:11:12Z")
}

fn git(room: &Room, arguments: &[&str]) -> Command {
    let mut command = room.command(GIT);
    command
        .args(["-c", "init.defaultBranch=trunk"])
        .args(arguments);
    command
}

/// Text that no two seeds share, of some kilobytes.
fn text(seed: u32) -> String {
    let mut state = seed;
    let mut text = String::new();
    for line in 0..200 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let _ = writeln!(text, "{line}: {state:08x} of {seed}");
    }
    text
}

/// Two lines of history, merged, packed, cloned and checked: what every command said.
fn a_day_at_work(room: &Room) -> Vec<String> {
    let mut said = Vec::new();
    let mut git = |arguments: &[&str]| {
        let transcript = room.succeed(&mut git(room, arguments));
        let asked = arguments
            .join(" ")
            .replace(room.path().to_str().unwrap(), "@");
        said.push(format!("git {asked}\n{transcript}"));
    };
    git(&["init", "work"]);
    git(&["-C", "work", "config", "gc.auto", "0"]);
    // More threads than there is work for: git's own threads are to be seen too.
    git(&["-C", "work", "config", "pack.threads", "4"]);
    git(&["-C", "work", "config", "index.threads", "4"]);
    for commit in 0..3 {
        for file in 0..10 {
            let contents = text(file) + &text(100 * commit + file);
            room.file(&format!("work/{file}"), contents);
        }
        git(&["-C", "work", "add", "--verbose", "."]);
        git(&["-C", "work", "commit", "-m", &format!("commit {commit}")]);
    }
    git(&["-C", "work", "switch", "-c", "side", "HEAD~1"]);
    room.file("work/side", text(7));
    git(&["-C", "work", "add", "side"]);
    git(&["-C", "work", "commit", "-m", "aside"]);
    git(&["-C", "work", "rebase", "--no-ff", "trunk~2"]);
    git(&["-C", "work", "switch", "trunk"]);
    git(&["-C", "work", "merge", "--no-edit", "side"]);
    git(&["-C", "work", "tag", "-a", "-m", "a tag", "v1"]);
    git(&["-C", "work", "log", "--graph", "--stat", "--format=fuller"]);
    git(&["-C", "work", "diff", "HEAD~1", "HEAD~2"]);
    git(&["-C", "work", "blame", "3"]);
    git(&["-C", "work", "grep", "--threads", "4", "-c", "3: "]);
    git(&["-C", "work", "gc", "--prune=now"]);
    git(&["-C", "work", "fsck", "--full", "--strict"]);
    // What is left, wherever it is packed: how, is up to the threads that packed it.
    git(&[
        "-C",
        "work",
        "cat-file",
        "--batch-check",
        "--batch-all-objects",
    ]);
    git(&["clone", "work", "links"]);
    // By way of upload-pack and index-pack.
    let url = format!("file://{}/work", room.path().display());
    git(&["clone", "--bare", &url, "sent"]);
    for copy in ["links", "sent"] {
        git(&["-C", copy, "fsck", "--full", "--strict"]);
        git(&["-C", copy, "rev-list", "--objects", "--all"]);
        git(&["-C", copy, "repack", "-a", "-d", "-f", "-q"]);
        git(&["-C", copy, "show-ref"]);
    }
    git(&["-C", "links", "status"]);
    room.file("links/3", text(1234));
    git(&["-C", "links", "commit", "-a", "-m", "one more"]);
    git(&["-C", "links", "push", "origin", "HEAD:refs/heads/new"]);
    git(&["-C", "work", "rev-parse", "new", "new^{tree}"]);
    git(&[
        "-C",
        "work",
        "archive",
        "--format=tar",
        "-o",
        "../tar",
        "new",
    ]);
    git(&["hash-object", "tar"]);
    said
}

#[test]
fn the_same_objects_and_words() {
    for &who in WHO() {
        let plain = a_day_at_work(&room(who, How::Plain));
        for how in [How::HEAP, How::LOCKED] {
            let protected = a_day_at_work(&room(who, how));
            for (plain, protected) in plain.iter().zip(&protected) {
                assert_eq!(plain, protected, "as {who:?} with {how:?}");
            }
            assert_eq!(plain.len(), protected.len());
        }
    }
}

#[test]
fn the_same_refusals() {
    for &who in WHO() {
        for (arguments, status) in [
            (&["no-such-command"][..], "exit 1"),
            (&["log"], "exit 128"),
            (&["clone", "nowhere", "here"], "exit 128"),
            (&["init", "--no-such-option"], "exit 129"),
            (&["diff", "--no-index", "a", "b"], "exit 1"),
        ] {
            let run = |how| {
                let room = room(who, how);
                room.file("a", "a\n");
                room.file("b", "b\n");
                room.run(&mut git(&room, arguments))
            };
            let plain = run(How::Plain);
            assert_eq!(plain.status, status, "{arguments:?} {plain}");
            for how in [How::HEAP, How::LOCKED] {
                assert_eq!(plain, run(how), "{arguments:?} as {who:?} with {how:?}");
            }
        }
    }
}

/// git's own secrets: `git credential-cache` has a daemon that keeps passwords in memory.
/// It is started by a git that was started by a git, and goes into the background.
fn with_a_password(room: &Room, look: impl Fn(i32, &[u8])) -> Vec<String> {
    let directory = room.directory("cache");
    let socket = directory.join("socket");
    let password = chance::letters::<32>();
    let what = room.file(
        "what",
        format!("protocol=https\nhost=example.org\nusername=me\npassword={password}\n"),
    );
    let question = room.file("question", "protocol=https\nhost=example.org\n");
    let helper = format!(
        "credential.helper=cache --timeout 3600 --socket {}",
        socket.display()
    );
    let credential = |action, input| {
        let input = std::fs::File::open(input).unwrap();
        let arguments = ["-c", &helper, "credential", action];
        room.start(git(room, &arguments).stdin(input)).wait()
    };
    let stored = credential("approve", &what);
    let daemon = Daemon::of(peer(&keys::connect(&socket)));
    look(daemon.pid(), password.as_bytes());
    let filled = credential("fill", &question);
    assert!(
        filled.stdout.contains(&format!("password={password}\n")),
        "{filled}"
    );
    look(daemon.pid(), password.as_bytes());
    let ended = room.run(
        git(room, &["credential-cache", "--socket"])
            .arg(&socket)
            .arg("exit"),
    );
    daemon.wait();
    [stored, filled, ended]
        .iter()
        .map(|said| {
            said.to_string()
                .replace(&password, "PASSWORD")
                .replace(room.path().to_str().unwrap(), "@")
        })
        .collect()
}

/// The process that listens at the other end of a connection.
fn peer(connection: &UnixStream) -> i32 {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = std::mem::size_of_val(&credentials) as libc::socklen_t;
    // SAFETY: `credentials` is a place of `length` bytes for the answer.
    let result = unsafe {
        libc::getsockopt(
            connection.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut credentials).cast(),
            &mut length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    credentials.pid
}

#[test]
fn passwords_in_the_credential_daemon_are_kept() {
    for &who in WHO() {
        let plain = with_a_password(&room(who, How::Plain), |pid, password| {
            if keys::can_look() {
                support::assert_leaks(pid, "the password", password);
            }
        });
        let heap = with_a_password(&room(who, How::HEAP), |pid, password| {
            if keys::can_look() {
                support::assert_kept(pid, "the password", password);
            }
        });
        assert_eq!(plain, heap, "as {who:?}");
        // git locks nothing: the locked scope has nothing to hide here.
        let locked = with_a_password(&room(who, How::LOCKED), |_, _| ());
        assert_eq!(plain, locked, "as {who:?}");
    }
    need!(root, secretmem);
}

/// A git that reads objects for others and waits for the next question: what it read is
/// left in the memory that it freed, unless that is wiped. The object is a commit: the
/// contents of files would pass through a buffer on git's stack, which is not promised.
fn while_it_serves_objects(room: &Room, look: impl Fn(&Process, &[u8])) {
    let secret = chance::letters::<64>();
    room.succeed(&mut git(room, &["init", "-q", "work"]));
    // By a file: what is in a command line is everybody's.
    room.file("message", format!("The secret is {secret}\n"));
    room.succeed(&mut git(
        room,
        &[
            "-C",
            "work",
            "commit",
            "-q",
            "--allow-empty",
            "-F",
            "../message",
        ],
    ));
    let id = "HEAD";
    let (input, mut questions) = std::io::pipe().unwrap();
    let server = room.start(git(room, &["-C", "work", "cat-file", "--batch"]).stdin(input));
    let ask = |questions: &mut std::io::PipeWriter, times: usize| {
        std::io::Write::write_all(questions, format!("{id}\n").as_bytes()).unwrap();
        keys::until(
            "an answer of git cat-file",
            || (server.so_far().stdout.matches(&secret).count() == times).then_some(()),
            || server.so_far().to_string(),
        );
    };
    ask(&mut questions, 1);
    look(&server, secret.as_bytes());
    ask(&mut questions, 2);
    drop(questions);
    let end = server.wait();
    assert_eq!(
        (end.status.as_str(), end.stderr.as_str()),
        ("exit 0", ""),
        "{end}"
    );
}

#[test]
fn objects_leave_no_trace() {
    need!(root, secretmem);
    for &who in WHO() {
        while_it_serves_objects(&room(who, How::Plain), |server, secret| {
            support::assert_leaks(server.pid(), "an object", secret);
        });
        while_it_serves_objects(&room(who, How::HEAP), |server, secret| {
            let outside = Outside::of(server.pid());
            let mut hits = outside.by_mem(secret);
            hits.extend(outside.by_vm_readv(secret));
            hits.extend(outside.by_stolen_fds(secret));
            // The answers themselves are no secret of the process any more.
            hits.retain(|hit| hit.place != "descriptor 1");
            assert!(hits.is_empty(), "an object leaked as {who:?}: {hits:x?}");
        });
    }
}
