//! Victims for tests: this test program once more, with a marker in a memory of some kind.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use rustix::mm::{MapFlags, ProtFlags};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use strongroom_sys::memory::Place;
use strongroom_sys::{PAGE, secret_memory};

/// How much memory holds the marker, in bytes.
pub(crate) const LEN: usize = 16 * PAGE;

/// What the victim ends with when it was let go.
pub(crate) const STATUS: i32 = 37;

/// An ordinary user.
pub(crate) const NOBODY: u32 = 65534;

const VICTIM: &str = "STRONGROOM_TEST_VICTIM";
const MARKER: &str = "STRONGROOM_TEST_MARKER";

/// What the victim keeps its marker in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anonymous memory.
    Plain,
    /// memfd_secret, its descriptor closed.
    Secret,
    /// Anonymous memory of a process that is not dumpable.
    Undumpable,
}

/// A running victim; killed on drop.
pub(crate) struct Victim {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) address: u64,
    /// All its marked memory.
    pub(crate) contents: Vec<u8>,
}

impl Victim {
    /// Starts one, as `uid` where given.
    pub(crate) fn start(kind: Kind, uid: Option<u32>) -> Self {
        let marker = RandomState::new().hash_one(0);
        let mut command = itself("the_victim_itself", uid);
        command
            .env(VICTIM, format!("{kind:?}"))
            .env(MARKER, marker.to_string())
            .stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let address = said(child.stdout.take().unwrap(), "VICTIM ");
        Self {
            child,
            stdin,
            address: u64::from_str_radix(&address, 16).unwrap(),
            contents: contents(marker),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it end by itself.
    pub(crate) fn let_go(mut self) -> ExitStatus {
        self.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of the test `the_victim_itself`: nothing, unless this process is a victim.
pub(crate) fn be_victim() {
    let (Ok(kind), Ok(marker)) = (std::env::var(VICTIM), std::env::var(MARKER)) else {
        return;
    };
    let memory = if kind == "Secret" {
        let file = secret_memory::create().unwrap();
        secret_memory::set_length(&file, LEN).unwrap();
        // SAFETY: a new mapping replaces nothing.
        unsafe { secret_memory::map(&file, Place::Anywhere, LEN) }.unwrap()
    } else {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping replaces nothing.
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), LEN, access, MapFlags::PRIVATE) }
            .unwrap()
            .cast()
    };
    let contents = contents(marker.parse().unwrap());
    // SAFETY: `memory` was just mapped, LEN bytes long, and is used nowhere else.
    unsafe { std::ptr::copy_nonoverlapping(contents.as_ptr(), memory, LEN) };
    // Yama, where it is, lets only parents trace otherwise.
    // SAFETY: neither prctl takes a pointer.
    unsafe {
        libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
        if kind == "Undumpable" {
            libc::prctl(libc::PR_SET_DUMPABLE, 0);
        }
    }
    println!("VICTIM {:x}", memory as usize);
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).unwrap();
    std::process::exit(if read == 1 { STATUS } else { 1 });
}

/// A victim with memfd_secret memory, where the kernel has that.
pub(crate) fn secret() -> Option<Victim> {
    match secret_memory::create() {
        Ok(_) => Some(Victim::start(Kind::Secret, None)),
        Err(why) => {
            skip(format!("memfd_secret: {why}"));
            None
        }
    }
}

/// This test program, to run one test of it, as `uid` where given.
pub(crate) fn itself(test: &str, uid: Option<u32>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .stdout(Stdio::piped());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command
}

/// The rest of the first line that has `start`, behind whatever the test harness wrote there.
pub(crate) fn said(output: impl Read, start: &str) -> String {
    BufReader::new(output)
        .lines()
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once(start)?.1.trim().to_owned()))
        .unwrap_or_else(|| panic!("the child never said {start:?}"))
}

/// Ends a test that cannot be made here; a failure where none may be skipped.
pub(crate) fn skip(why: impl std::fmt::Display) {
    assert!(
        std::env::var_os("STRONGROOM_NO_SKIP").is_none(),
        "skipped: {why}"
    );
    println!("skipped: {why}");
}

/// Whether this is root; says that the test is skipped otherwise.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("not root");
    }
    root
}

fn contents(marker: u64) -> Vec<u8> {
    marker.to_ne_bytes().repeat(LEN / size_of::<u64>())
}
