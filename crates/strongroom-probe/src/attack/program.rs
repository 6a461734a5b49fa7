//! Any program as a victim: it takes no part, and its secret is looked for in it.

use super::inside::Inside;
use super::search::{self, Mapping};
use super::setup::Ground;
use super::{Broken, tree};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeWriter};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where `then` is told the process.
const PID: &str = "STRONGROOM_VICTIM_PID";
/// Where `then` is told the directory that the program runs in.
const DIRECTORY: &str = "STRONGROOM_VICTIM_DIR";
/// The most places of one start that are attacked.
const MOST: usize = 32;

/// Bytes that are a secret, and what to call them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needle {
    /// What messages say; never the bytes.
    pub name: String,
    /// What is looked for.
    pub bytes: Vec<u8>,
}

impl Needle {
    /// Fewer bytes than these are found anywhere by chance.
    pub const SHORTEST: usize = 8;
}

/// A program that is attacked, and how its secret is known.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file, by an absolute path.
    pub file: PathBuf,
    /// Its arguments, without its name.
    pub arguments: Vec<OsString>,
    /// What to look for; one that is found is enough.
    pub needles: Vec<Needle>,
    /// A command for the shell that brings the secret in, once the program runs.
    pub then: Option<OsString>,
    /// How long to wait for the secret to be there.
    pub wait: Duration,
}

/// There is no program with a secret to attack.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// It cannot be started at all.
    #[error("{0} cannot be started: {1}")]
    Start(PathBuf, #[source] io::Error),
    /// No needle was found in its memory in time.
    #[error("{0}")]
    Secret(String),
}

/// Where a secret is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) address: usize,
    pub(super) secret: Vec<u8>,
    /// Which of a program's needles that is.
    pub(super) needle: usize,
    /// Whose mapping it is in; empty for anonymous memory.
    pub(super) mapping: String,
}

/// A running program, which ends with this value, and all that it started.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    /// The process that has the secret.
    pid: i32,
    /// Whether only the process itself can be asked for its memory.
    kept: bool,
    /// Where it works: new for each start, as the first one may have left files.
    directory: PathBuf,
    /// The other end of an input that says nothing and does not end.
    _input: Option<PipeWriter>,
}

impl Running {
    /// Starts the program, lets `then` bring the secret in, and finds it.
    pub(super) fn start(
        ground: &Ground,
        program: &Program,
        level: Option<&str>,
        receipt: Option<&Path>,
    ) -> Result<(Self, Vec<Place>), NotFound> {
        if level.is_some() && !ground.is_root() {
            return Err(NotFound::Secret(
                "only root can have a protected program show its memory".to_owned(),
            ));
        }
        let mut command = match level {
            None => ground.start(&program.file, false),
            Some(level) => {
                let mut command = ground.start(&ground.command, false);
                command.args(["run", "--level", level]);
                if let Some(receipt) = receipt {
                    command.arg("--receipt").arg(receipt);
                }
                command.arg("--").arg(&program.file);
                command
            }
        };
        let directory = ground
            .new_directory()
            .map_err(|error| NotFound::Secret(format!("it has no directory: {error}")))?;
        let log = Log::new(&directory, "output");
        prepare(&mut command, ground, &directory, &log);
        let (input, other_end) = input();
        command.stdin(input).args(&program.arguments);
        let child = command
            .spawn()
            .map_err(|error| NotFound::Start(program.file.clone(), error))?;
        let mut running = Self {
            pid: child.id().cast_signed(),
            child,
            kept: level.is_some(),
            directory,
            _input: other_end,
        };
        let end = Instant::now() + program.wait;
        if let Some(then) = &program.then {
            running.bring_in(ground, then, end, &log)?;
        }
        let places = running.await_places(ground, program, end, &log)?;
        Ok((running, places))
    }

    /// Runs `then` until it succeeds: the program may not listen yet.
    fn bring_in(
        &mut self,
        ground: &Ground,
        then: &OsString,
        end: Instant,
        output: &Log,
    ) -> Result<(), NotFound> {
        let log = Log::new(&self.directory, "then");
        loop {
            // A program that goes into the background has another process by now.
            let first = processes(ground).first().copied();
            let pid = first.unwrap_or(self.child.id().cast_signed());
            let mut command = ground.start("/bin/sh", false);
            prepare(&mut command, ground, &self.directory, &log);
            command
                .stdin(Stdio::null())
                .arg("-c")
                .arg(then)
                .env(PID, pid.to_string())
                .env(DIRECTORY, &self.directory);
            let mut shell = command
                .spawn()
                .map_err(|error| NotFound::Start("/bin/sh".into(), error))?;
            let status = loop {
                match shell.try_wait() {
                    Ok(Some(status)) => break Some(status),
                    Ok(None) if Instant::now() < end => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    _ => {
                        // With what it waits for, all of which is in its group.
                        if let Some(group) = Pid::from_raw(shell.id().cast_signed()) {
                            let _ = kill_process_group(group, Signal::KILL);
                        }
                        let _ = shell.wait();
                        break None;
                    }
                }
            };
            if status.is_some_and(|status| status.success()) {
                return Ok(());
            }
            self.ended_early(output)?;
            if Instant::now() >= end {
                let how = status.map_or_else(
                    || "did not end in time".to_owned(),
                    |status| format!("failed to the end ({status})"),
                );
                return Err(NotFound::Secret(format!(
                    "the command of --then {how}{}",
                    log.tail()
                )));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn ended_early(&mut self, log: &Log) -> Result<(), NotFound> {
        let alone = || tree::descendants().into_iter().all(|pid| !tree::lives(pid));
        match self.child.try_wait() {
            // What it started may go on without it.
            Ok(Some(status)) if alone() => Err(NotFound::Secret(format!(
                "the program ended before it was found ({status}){}",
                log.tail()
            ))),
            _ => Ok(()),
        }
    }

    fn await_places(
        &mut self,
        ground: &Ground,
        program: &Program,
        end: Instant,
        log: &Log,
    ) -> Result<Vec<Place>, NotFound> {
        // Longer each time: looking stops the process, and it has something to do.
        let mut pause = Duration::from_millis(20);
        let mut why = None;
        loop {
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
            for pid in processes(ground) {
                match places(pid, &program.needles, self.kept) {
                    Ok(places) if !places.is_empty() => {
                        // Copies of the moment go; what stays is attacked.
                        std::thread::sleep(Duration::from_millis(200));
                        self.pid = pid;
                        match self::places(pid, &program.needles, self.kept) {
                            Ok(places) if !places.is_empty() => return Ok(places),
                            _ => {}
                        }
                    }
                    Ok(_) => {}
                    Err(refusal) => why = Some(refusal),
                }
            }
            self.ended_early(log)?;
            if Instant::now() >= end {
                let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
                return Err(NotFound::Secret(format!(
                    "it was not found in the program's memory within {} s{why}{}",
                    program.wait.as_secs(),
                    log.tail()
                )));
            }
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// The program's processes but the one that is attacked.
    pub(super) fn others(&self, ground: &Ground) -> Vec<i32> {
        let mut others = processes(ground);
        others.retain(|&pid| pid != self.pid);
        others
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the needles are now.
    pub(super) fn places(&self, needles: &[Needle]) -> Result<Vec<Place>, Broken> {
        places(self.pid, needles, self.kept).map_err(Broken)
    }

    /// Whether the secret is still at its place, as the process itself sees it.
    pub(super) fn shows(&self, place: &Place) -> Result<bool, Broken> {
        let mut bytes = vec![0; place.secret.len()];
        let at = place.address as u64;
        let got = look(self.pid, self.kept, |read| read(at, &mut bytes)).map_err(Broken)?;
        Ok(got == bytes.len() && bytes == place.secret)
    }

    /// Sends a signal that ends the process, and returns how it ended, where that can be known.
    pub(super) fn end(&mut self, signal: Signal) -> Result<Option<ExitStatus>, Broken> {
        let pid = Pid::from_raw(self.pid).ok_or_else(|| Broken("no process".to_owned()))?;
        kill_process(pid, signal)
            .map_err(|error| Broken(format!("the program cannot be sent a signal: {error}")))?;
        let start = Instant::now();
        loop {
            match waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => return Ok(Some(ExitStatus::from_raw(status.as_raw()))),
                // It is not a child of this process.
                Err(_) if !tree::lives(self.pid) => return Ok(None),
                _ if start.elapsed() > super::dialogue::PATIENCE => {
                    return Err(Broken("the program did not end in time".to_owned()));
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Asks the process to end, and kills it where it does not within `patience`.
    pub(super) fn end_gently(&mut self, patience: Duration) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + patience;
        while tree::lives(self.pid) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        tree::end_all();
        // Its status may have been taken already.
        let _ = self.child.try_wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What the program reads: the caller's input from its start, where that is a file; otherwise
/// nothing, without an end, for whose sake many programs end.
fn input() -> (Stdio, Option<PipeWriter>) {
    let file = File::open("/proc/self/fd/0").ok();
    let file = file.filter(|file| file.metadata().is_ok_and(|found| found.is_file()));
    match (file, io::pipe()) {
        (Some(file), _) => (file.into(), None),
        (None, Ok((reader, writer))) => (reader.into(), Some(writer)),
        (None, Err(_)) => (Stdio::null(), None),
    }
}

/// In that directory, in a group of its own, and silent.
fn prepare(command: &mut Command, ground: &Ground, directory: &Path, log: &Log) {
    command
        .current_dir(directory)
        .stdout(log.output())
        .stderr(log.output())
        .process_group(0);
    if ground.is_root() {
        // Root's is closed to the program's user.
        command.env("HOME", directory);
    }
    strongroom_sys::process::end_with_parent(command);
}

/// The program's processes, its first one first.
fn processes(ground: &Ground) -> Vec<i32> {
    let mut all = tree::descendants();
    all.retain(|&pid| !tree::is_of_then(pid, PID) && is_settled(ground, pid));
    all
}

/// Whether the process is the program by now: no longer strongroom, and not watched by its verifier,
/// whom a second tracer would keep out.
fn is_settled(ground: &Ground, pid: i32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    program.is_ok_and(|program| program != ground.command)
        && status.lines().any(|line| line == "TracerPid:\t0")
}

/// Lets `body` read a process's memory: as it sees it itself, where that is the only way.
fn look<T>(
    pid: i32,
    kept: bool,
    body: impl FnOnce(&mut dyn FnMut(u64, &mut [u8]) -> usize) -> T,
) -> Result<T, String> {
    if kept {
        let inside = Inside::of(pid).map_err(|refusal| refusal.to_string())?;
        Ok(body(&mut |at, place| inside.read(at, place)))
    } else {
        let mut mem = search::by_mem(pid).map_err(|error| format!("/proc/PID/mem: {error}"))?;
        Ok(body(&mut mem))
    }
}

/// Where in the process the needles are.
fn places(pid: i32, needles: &[Needle], kept: bool) -> Result<Vec<Place>, String> {
    let mappings = search::resident(pid).map_err(|error| format!("/proc/PID/smaps: {error}"))?;
    let longest = needles.iter().map(|needle| needle.bytes.len()).max();
    let mut found: Vec<Place> = Vec::new();
    let hit = |mapping: &Mapping, at: u64, bytes: &[u8]| {
        for (index, needle) in needles.iter().enumerate() {
            for offset in memchr::memmem::find_iter(bytes, &needle.bytes) {
                let address = at as usize + offset;
                let known = |place: &Place| (place.address, place.needle) == (address, index);
                // Pieces overlap.
                if !found.iter().any(known) {
                    found.push(Place {
                        address,
                        secret: needle.bytes.clone(),
                        needle: index,
                        mapping: mapping.name.clone(),
                    });
                }
            }
        }
        found.len() >= MOST
    };
    look(pid, kept, |read| {
        search::pieces(&mappings, longest.unwrap_or(1), read, hit);
    })?;
    Ok(found)
}

/// What a process wrote, for those who ask why it ended.
struct Log(PathBuf);

impl Log {
    fn new(directory: &Path, name: &str) -> Self {
        let path = directory.join(format!("{name}.log"));
        let _ = fs::remove_file(&path);
        Self(path)
    }

    fn output(&self) -> Stdio {
        let file = File::options().create(true).append(true).open(&self.0);
        file.map_or_else(|_| Stdio::null(), Stdio::from)
    }

    /// The end of it, a cause and a fix for instance, with a semicolon before.
    fn tail(&self) -> String {
        const LINES: usize = 2;
        const LONGEST: usize = 400;
        let text = fs::read(&self.0).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut last: Vec<&str> = lines.rev().take(LINES).collect();
        last.reverse();
        let last: String = last.join(" / ").chars().take(LONGEST).collect();
        if last.is_empty() {
            last
        } else {
            format!("; it says: {last}")
        }
    }
}
