//! Core dumps: the kernel's, and a debugger's.

use super::{Attacker, Broken, Captive, Outcome, Owner, Reach, captive, contains};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use strongroom_core::Protection;

/// The kernel's dump on SIGABRT, with the limit lifted from outside.
pub(super) struct Kernel;

impl Attacker for Kernel {
    fn name(&self) -> &'static str {
        "core"
    }

    fn protection(&self) -> Protection {
        Protection::NoCoreDump
    }

    fn about(&self) -> &'static str {
        "the kernel's core dump on SIGABRT, with the core limit lifted from outside"
    }

    fn reach(&self) -> Reach {
        Reach::End
    }

    fn control(&self, owner: Owner) -> Option<&'static str> {
        Some(owner.control("plain"))
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")
            .map_err(|error| Broken(format!("core_pattern: {error}")))?;
        let pattern = pattern.trim();
        if pattern.is_empty() || pattern.starts_with(['|', '/', '@']) {
            return Ok(Outcome::Skipped(format!(
                "dumps go elsewhere; `sysctl kernel.core_pattern=core` (now `{pattern}`)"
            )));
        }
        let works_in = fs::read_link(format!("/proc/{}/cwd", victim.pid()));
        let ours = fs::canonicalize(victim.directory()).ok();
        if works_in.is_ok_and(|path| Some(path) != ours) {
            return Ok(Outcome::Skipped(
                "the program works in another directory, where its dump would stay".to_owned(),
            ));
        }
        // Without CAP_SYS_RESOURCE the victim has the limit that it was started with.
        let _ = victim.allow_core();
        let limit = if victim.may_not_dump() {
            ": its limit is 0, and cannot be lifted without CAP_SYS_RESOURCE"
        } else {
            ""
        };
        victim.prove()?;
        let before = files(victim.directory());
        let Some(status) = victim.abort()? else {
            return Ok(Outcome::Skipped(
                "the process is another one's child, who alone learns whether it dumped".to_owned(),
            ));
        };
        if status.signal() != Some(libc::SIGABRT) {
            return Err(Broken(format!("the victim did not abort: {status}")));
        }
        let mut dumps = files(victim.directory());
        dumps.retain(|path| !before.contains(path));
        if !dumps.is_empty() && !status.core_dumped() {
            // A part of a dump proves nothing.
            remove(&dumps);
            return Err(Broken("the kernel did not finish its dump".to_owned()));
        }
        let mut outcome = Outcome::Held(format!("the kernel wrote no dump{limit}"));
        for path in &dumps {
            outcome = judge(path, &victim.secrets())?;
            if matches!(outcome, Outcome::Leaked(_)) {
                break;
            }
        }
        remove(&dumps);
        Ok(outcome)
    }
}

/// A debugger's dump of the running process.
pub(super) struct Gcore;

impl Attacker for Gcore {
    fn name(&self) -> &'static str {
        "core-gcore"
    }

    fn protection(&self) -> Protection {
        Protection::NoCoreDump
    }

    fn about(&self) -> &'static str {
        "gcore, a debugger's dump of the running process (by root, where root attacks)"
    }

    fn reach(&self) -> Reach {
        Reach::Whole
    }

    fn control(&self, owner: Owner) -> Option<&'static str> {
        Some(owner.control("plain"))
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let prefix = victim.directory().join("gcore");
        let dump = PathBuf::from(format!("{}.{}", prefix.display(), victim.pid()));
        let log = victim.directory().join("gcore.log");
        let broken = |error: std::io::Error| Broken(format!("gcore: {error}"));
        let out = File::create(&log).map_err(broken)?;
        let mut command = Command::new("gcore");
        command
            .arg("-o")
            .arg(&prefix)
            .arg(victim.pid().to_string())
            .env("DEBUGINFOD_URLS", "")
            .env("LC_ALL", "C")
            .env("HOME", victim.directory())
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(broken)?)
            .stderr(out);
        command.process_group(0);
        let mut gcore = match with_small_files(|| command.spawn()) {
            Ok(gcore) => gcore,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Outcome::Skipped(
                    "gcore is not installed (Debian: gdb)".to_owned(),
                ));
            }
            Err(error) => return Err(broken(error)),
        };
        let ended = captive::wait(&mut gcore);
        if ended.is_err() {
            // gcore is a script: the debugger that it started goes, too.
            if let Some(group) = Pid::from_raw(gcore.id().cast_signed()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        let complete = ended.as_ref().is_ok_and(ExitStatus::success);
        let outcome = if complete && dump.exists() {
            judge(&dump, &victim.secrets())?
        } else {
            // A part of a dump proves nothing.
            let partial = dump.exists();
            remove(std::slice::from_ref(&dump));
            ended?;
            if partial {
                return Err(Broken("gcore did not finish its dump".to_owned()));
            }
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let kept_off = !victim.is_attacked_by_root()
                && (text.contains("not permitted") || text.contains("Permission denied"));
            if !kept_off {
                let last = text.lines().last().unwrap_or_default().to_owned();
                return Err(Broken(format!("gcore wrote no dump: {last}")));
            }
            Outcome::Held("the debugger may not attach".to_owned())
        };
        remove(&[dump, log]);
        victim.prove()?;
        Ok(outcome)
    }
}

/// Starts something that may write no file of more than 256 MiB: a debugger that dumps a
/// reservation of address space would fill the disk.
fn with_small_files<T>(start: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    const MOST: u64 = 256 << 20;
    let before = getrlimit(Resource::Fsize);
    let most = before.current.map_or(MOST, |current| current.min(MOST));
    let current = Some(most);
    setrlimit(Resource::Fsize, Rlimit { current, ..before })?;
    let started = start();
    setrlimit(Resource::Fsize, before)?;
    started
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn remove(files: &[PathBuf]) {
    for file in files {
        let _ = fs::remove_file(file);
    }
}

/// Looks for the secrets in a dump, piece by piece.
fn judge(path: &Path, secrets: &[&[u8]]) -> Result<Outcome, Broken> {
    const STEP: usize = 1 << 20;
    let broken = |error: std::io::Error| Broken(format!("the dump cannot be read: {error}"));
    let mut file = File::open(path).map_err(broken)?;
    let longest = secrets.iter().map(|secret| secret.len()).max().unwrap_or(0);
    let mut bytes = vec![0; longest + STEP];
    let (mut kept, mut total) = (0, 0);
    loop {
        let place = bytes.get_mut(kept..kept + STEP).unwrap_or_default();
        let read = file.read(place).map_err(broken)?;
        if read == 0 {
            break;
        }
        total += read;
        let end = kept + read;
        let piece = bytes.get(..end).unwrap_or_default();
        if secrets.iter().any(|secret| contains(piece, secret)) {
            return Ok(Outcome::Leaked("found in the dump".to_owned()));
        }
        kept = end.min(longest);
        bytes.copy_within(end - kept..end, 0);
    }
    if total == 0 {
        return Err(Broken("the dump is empty".to_owned()));
    }
    Ok(Outcome::Held(format!(
        "not in a dump of {} KiB",
        total / 1024
    )))
}
