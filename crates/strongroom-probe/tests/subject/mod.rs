//! A process with a mapping of every kind, each with a marker of its own, that does to them what it is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use super::marked;
use rustix::fs::MemfdFlags;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use strongroom_sys::memory::Place;
use strongroom_sys::{PAGE, peek, secret_memory};

const SEED: &str = "STRONGROOM_TEST_SEED";
const CORE: &str = "STRONGROOM_TEST_CORE";
const DUMPABLE: &str = "STRONGROOM_TEST_DUMPABLE";

/// How long a marker is, in bytes.
pub(crate) const LEN: usize = 64;

/// What the mappings are.
pub(crate) const KINDS: [&str; 15] = [
    "plain",
    "no-dump",
    "no-fork",
    "wiped",
    "locked",
    "no-access",
    "read-only",
    "shared-anonymous",
    "memfd",
    "file-clean",
    "file-changed",
    "file-shared",
    "secret",
    "secret-open",
    "secret-no-access",
];

/// The marker of a kind, made byte by byte so that no copy of it is anywhere.
fn byte(seed: u64, kind: usize, at: usize) -> u8 {
    let mut x = seed ^ ((kind as u64) << 32 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 56) as u8
}

/// A running subject, ended on drop, with a directory of its own.
pub(crate) struct Subject {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub(crate) directory: PathBuf,
    pub(crate) addresses: Vec<u64>,
    seed: u64,
}

/// How a subject is to be.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) dumpable: bool,
    /// Soft and hard limit on core dumps: `0:0`, `0:inf`, `inf:inf`.
    pub(crate) core: &'static str,
}

impl Subject {
    /// Starts one as an ordinary user.
    pub(crate) fn start(name: &str, how: How) -> Self {
        let seed: u64 = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let directory =
            std::env::temp_dir().join(format!("strongroom-subject-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        let clean: Vec<u8> = (0..PAGE).map(|at| byte(seed, 9, at)).collect();
        fs::write(directory.join("file-clean"), clean).unwrap();
        for file in ["file-changed", "file-shared"] {
            fs::write(directory.join(file), [0; PAGE]).unwrap();
            chown(directory.join(file), Some(marked::NOBODY), None).unwrap();
        }
        chown(&directory, Some(marked::NOBODY), Some(marked::NOBODY)).unwrap();
        let mut child = marked::itself("the_subject_itself", Some(marked::NOBODY))
            .current_dir(&directory)
            .env(SEED, seed.to_string())
            .env(CORE, how.core)
            .env(DUMPABLE, how.dumpable.to_string())
            .env("AUDITED_API_TOKEN", "x")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut subject = Self {
            stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            directory,
            addresses: Vec::new(),
            seed,
        };
        let line = subject.answer();
        let addresses = line.split_whitespace();
        subject.addresses = addresses.map(|word| word.parse().unwrap()).collect();
        assert_eq!(subject.addresses.len(), KINDS.len());
        subject
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(
                self.stdout.read_line(&mut line).unwrap() > 0,
                "the subject ended"
            );
            if let Some((_, answer)) = line.split_once("SUBJECT ") {
                return answer.trim().to_owned();
            }
        }
    }

    /// Has it do something to each of its mappings; whether the marker came through, for each kind.
    pub(crate) fn ask(&mut self, what: &str) -> Vec<bool> {
        writeln!(self.stdin, "{what}").unwrap();
        let answer = self.answer();
        answer
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    }

    /// Waits for its end, which somebody brings about.
    pub(crate) fn ended(&mut self) {
        self.child.wait().unwrap();
    }

    /// Lets it abort, and waits.
    pub(crate) fn abort(&mut self) {
        writeln!(self.stdin, "abort").unwrap();
        self.child.wait().unwrap();
    }

    /// Which markers are in its core dump; none where there is no dump.
    pub(crate) fn dumped(&self) -> Option<Vec<bool>> {
        let entry = fs::read_dir(&self.directory)
            .unwrap()
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with("core"))?;
        let core = fs::read(entry.path()).unwrap();
        let found = |kind| {
            let marker = self.marker(kind);
            core.windows(LEN).any(|window| window == marker)
        };
        Some((0..KINDS.len()).map(found).collect())
    }

    pub(crate) fn marker(&self, kind: usize) -> Vec<u8> {
        (0..LEN).map(|at| byte(self.seed, kind, at)).collect()
    }

    /// What a program of its user reads of each kind, by /proc/PID/mem and process_vm_readv.
    pub(crate) fn read_by_its_user(&self) -> Vec<bool> {
        let addresses: Vec<_> = self.addresses.iter().map(u64::to_string).collect();
        let output = marked::itself("the_reader_itself", Some(marked::NOBODY))
            .env(SEED, self.seed.to_string())
            .env("STRONGROOM_TEST_READ", self.pid().to_string())
            .env("STRONGROOM_TEST_ADDRESSES", addresses.join(" "))
            .output()
            .unwrap();
        marked::said(output.stdout.as_slice(), "READER ")
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    }

    /// What this process reads of each kind.
    pub(crate) fn read_from_here(&self) -> Vec<bool> {
        read(self.pid(), &self.addresses, self.seed)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// By /proc/PID/mem, process_vm_readv and every descriptor that can be taken.
fn read(pid: i32, addresses: &[u64], seed: u64) -> Vec<bool> {
    use std::os::unix::fs::FileExt;
    let mem = File::open(format!("/proc/{pid}/mem"));
    let taken: Vec<_> = strongroom_sys::peek::process_descriptor(pid)
        .map(|process| {
            (0..64)
                .filter_map(|number| peek::take_descriptor(process.as_fd(), number).ok())
                .filter_map(|file| peek::copy_by_mapping(file, PAGE).ok())
                .collect()
        })
        .unwrap_or_default();
    let one = |(kind, address): (usize, &u64)| {
        let marker: Vec<u8> = (0..LEN).map(|at| byte(seed, kind, at)).collect();
        let mut by_mem = [0; LEN];
        let mut by_call = [0; LEN];
        let _ = mem
            .as_ref()
            .map(|mem| mem.read_exact_at(&mut by_mem, *address));
        let _ = peek::vm_read(pid, *address as usize, &mut by_call);
        by_mem == *marker
            || by_call == *marker
            || taken
                .iter()
                .any(|bytes: &Vec<u8>| bytes.starts_with(&marker))
    };
    addresses.iter().enumerate().map(one).collect()
}

/// The body of the test `the_reader_itself`.
pub(crate) fn be_reader() {
    let Ok(pid) = std::env::var("STRONGROOM_TEST_READ") else {
        return;
    };
    let addresses: Vec<u64> = std::env::var("STRONGROOM_TEST_ADDRESSES")
        .unwrap()
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    say("READER", &read(pid.parse().unwrap(), &addresses, seed));
}

fn say(tag: &str, words: &[impl ToString]) {
    let words: Vec<_> = words.iter().map(ToString::to_string).collect();
    println!("\n{tag} {}", words.join(" "));
}

/// The body of the test `the_subject_itself`: nothing, unless this process is one.
pub(crate) fn be_subject() {
    let Ok(seed) = std::env::var(SEED) else {
        return;
    };
    if std::env::var_os("STRONGROOM_TEST_READ").is_some() {
        return;
    }
    let seed: u64 = seed.parse().unwrap();
    let limit = |text: &str| (text != "inf").then_some(0);
    let core = std::env::var(CORE).unwrap();
    let (soft, hard) = core.split_once(':').unwrap();
    let limits = Rlimit {
        current: limit(soft),
        maximum: limit(hard),
    };
    setrlimit(Resource::Core, limits).unwrap();
    let mut open = Vec::new();
    let memory: Vec<*mut u8> = (0..KINDS.len())
        .map(|kind| make(kind, seed, &mut open))
        .collect();
    // SAFETY: neither prctl takes a pointer.
    unsafe {
        libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
        if std::env::var(DUMPABLE).unwrap() == "false" {
            libc::prctl(libc::PR_SET_DUMPABLE, 0);
        }
    }
    let addresses: Vec<_> = memory.iter().map(|start| *start as usize).collect();
    say("SUBJECT", &addresses);
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "pin" => say("SUBJECT", &pinned(&memory, seed)),
            "fork" => say("SUBJECT", &forked(&memory, seed)),
            // SAFETY: it ends the process.
            "abort" => unsafe { libc::abort() },
            other => panic!("{other}"),
        }
    }
    std::process::exit(0);
}

fn make(kind: usize, seed: u64, open: &mut Vec<rustix::fd::OwnedFd>) -> *mut u8 {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let anonymous = |flags| {
        // SAFETY: a new mapping replaces nothing.
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE, access, flags) }.unwrap()
    };
    let of = |file: rustix::fd::BorrowedFd<'_>, access, flags| {
        // SAFETY: a new mapping replaces nothing.
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE, access, flags, file, 0) }.unwrap()
    };
    let name = KINDS[kind];
    let file = || {
        File::options()
            .read(true)
            .write(name != "file-clean")
            .open(Path::new(name))
            .unwrap()
    };
    let start: *mut u8 = match name {
        "shared-anonymous" => anonymous(MapFlags::SHARED),
        "memfd" => {
            let file = rustix::fs::memfd_create("subject", MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&file, PAGE as u64).unwrap();
            of(file.as_fd(), access, MapFlags::SHARED)
        }
        "file-clean" => of(file().as_fd(), ProtFlags::READ, MapFlags::PRIVATE),
        "file-changed" => of(file().as_fd(), access, MapFlags::PRIVATE),
        "file-shared" => of(file().as_fd(), access, MapFlags::SHARED),
        "secret" | "secret-open" | "secret-no-access" => {
            let file = secret_memory::create().unwrap();
            secret_memory::set_length(&file, PAGE).unwrap();
            // SAFETY: a new mapping replaces nothing.
            let start = unsafe { secret_memory::map(&file, Place::Anywhere, PAGE) }.unwrap();
            if name == "secret-open" {
                open.push(file);
            }
            start.cast()
        }
        _ => anonymous(MapFlags::PRIVATE),
    }
    .cast();
    if name == "file-clean" {
        // SAFETY: mapped above; the page is to be present.
        std::hint::black_box(unsafe { start.read_volatile() });
        return start;
    }
    for at in 0..PAGE {
        // SAFETY: within the page that was mapped above.
        unsafe { start.add(at).write_volatile(byte(seed, kind, at)) };
    }
    // SAFETY: the mapping of a page that was made above; its contents are not needed by anything else.
    unsafe {
        let range = start.cast();
        match name {
            "no-dump" => rustix::mm::madvise(range, PAGE, Advice::LinuxDontDump),
            "no-fork" => rustix::mm::madvise(range, PAGE, Advice::LinuxDontFork),
            "wiped" => rustix::mm::madvise(range, PAGE, Advice::LinuxWipeOnFork),
            "locked" => rustix::mm::mlock(range, PAGE),
            "no-access" | "secret-no-access" => {
                rustix::mm::mprotect(range, PAGE, MprotectFlags::empty())
            }
            "read-only" => rustix::mm::mprotect(range, PAGE, MprotectFlags::READ),
            _ => Ok(()),
        }
    }
    .unwrap();
    start
}

/// Whether what came through a pipe is the kind's marker.
fn arrived(pipe: impl AsFd, seed: u64, kind: usize) -> bool {
    let mut bytes = [0; LEN];
    rustix::io::read(pipe, &mut bytes) == Ok(LEN)
        && (0..LEN).all(|at| bytes[at] == byte(seed, kind, at))
}

fn pinned(memory: &[*mut u8], seed: u64) -> Vec<bool> {
    let one = |(kind, start): (usize, &*mut u8)| {
        let (from, to) = rustix::pipe::pipe().unwrap();
        // SAFETY: a page of this process.
        let pinned = unsafe { peek::vmsplice(&to, *start, LEN) };
        pinned == Ok(LEN) && arrived(&from, seed, kind)
    };
    memory.iter().enumerate().map(one).collect()
}

fn forked(memory: &[*mut u8], seed: u64) -> Vec<bool> {
    let (from, to) = rustix::pipe::pipe().unwrap();
    // SAFETY: the child makes system calls only, and ends.
    if unsafe { libc::fork() } == 0 {
        let mut found = [0u8; KINDS.len()];
        let (out, into) = rustix::pipe::pipe().unwrap();
        for (kind, start) in memory.iter().enumerate() {
            if KINDS[kind].ends_with("no-access") {
                // What a child has it can open to itself.
                // SAFETY: it gives access only.
                let _ = unsafe { rustix::mm::mprotect((*start).cast(), PAGE, MprotectFlags::READ) };
            }
            found[kind] = u8::from(
                peek::write_from(&into, *start as usize, LEN) == Ok(LEN)
                    && arrived(&out, seed, kind),
            );
        }
        rustix::io::write(&to, &found).unwrap();
        strongroom_sys::process::exit_now(0);
    }
    drop(to);
    let mut found = [0; KINDS.len()];
    File::from(from).read_exact(&mut found).unwrap();
    // SAFETY: it waits for any child.
    unsafe { libc::wait(std::ptr::null_mut()) };
    found.iter().map(|found| *found == 1).collect()
}
