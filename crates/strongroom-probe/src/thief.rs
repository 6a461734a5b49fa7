//! The thief: a process of its own, of whatever user is to be tried, that looks for a secret in
//! another one and says what came of each way.
//!
//! What it is to look for comes on standard input; every answer is a line `leaked`, `held` or
//! `skipped`, and in what way.

use crate::attack::{Loot, inject};
use crate::victim::LENGTH;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use strongroom_sys::{Errno, peek};

/// The ways that [`steal`] knows.
pub const WAYS: [&str; 4] = ["peek", "fd", "inject", "inherited"];

/// The most of a descriptor's contents that is looked at, in bytes.
const MOST: usize = 64 << 20;

/// Tries one way and reports on standard output. Returns the exit status.
pub fn steal(way: &str, pid: i32, address: usize) -> u8 {
    let mut secret = [0; LENGTH];
    if io::stdin().lock().read_exact(&mut secret).is_err() {
        return 1;
    }
    let target = Target {
        pid,
        address,
        secret,
    };
    let loot = match way {
        "peek" => vec![target.mem(), target.ptrace(), target.vm_read()],
        "fd" => vec![
            target.descriptors(),
            target.opened_again(),
            target.map_files(),
        ],
        "inject" => vec![target.inject(), target.code()],
        "inherited" => vec![target.inherited()],
        _ => return 1,
    };
    let mut out = io::stdout().lock();
    for loot in loot {
        if writeln!(out, "{loot}").is_err() {
            return 1;
        }
    }
    0
}

struct Target {
    pid: i32,
    address: usize,
    secret: [u8; LENGTH],
}

impl Target {
    fn judge(&self, way: &str, read: Result<Vec<u8>, Errno>) -> Loot {
        match read {
            Ok(bytes) if bytes == self.secret => Loot::leaked(way),
            // The victim has proven that it is there: whatever this is, it is no proof.
            Ok(_) => Loot::skipped(format!("{way}: other bytes")),
            Err(error) => refused(way, error),
        }
    }

    fn mem(&self) -> Loot {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; LENGTH];
            let mem = File::open(format!("/proc/{}/mem", self.pid))?;
            mem.read_exact_at(&mut bytes, self.address as u64)?;
            Ok(bytes)
        };
        self.judge("/proc/PID/mem", read().map_err(|error| errno(&error)))
    }

    fn ptrace(&self) -> Loot {
        let mut bytes = vec![0; LENGTH];
        let read = peek::ptrace_read(self.pid, self.address, &mut bytes).map(|()| bytes);
        self.judge("ptrace", read)
    }

    fn vm_read(&self) -> Loot {
        let mut bytes = vec![0; LENGTH];
        let read = peek::vm_read(self.pid, self.address, &mut bytes).map(|got| {
            bytes.truncate(got);
            bytes
        });
        self.judge("process_vm_readv", read)
    }

    /// The process's descriptors; where they may not be listed, the numbers they might have.
    fn numbers(&self) -> Vec<i32> {
        match fs::read_dir(format!("/proc/{}/fd", self.pid)) {
            Ok(entries) => entries
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect(),
            Err(_) => (0..1024).collect(),
        }
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        crate::attack::contains(bytes, &self.secret)
    }

    fn descriptors(&self) -> Loot {
        const WAY: &str = "pidfd_getfd";
        let pidfd = match peek::process_descriptor(self.pid) {
            Ok(pidfd) => pidfd,
            Err(error) => return refused(WAY, error),
        };
        let (mut taken, mut refusal) = (0, None);
        for number in self.numbers() {
            match peek::take_descriptor(std::os::fd::AsFd::as_fd(&pidfd), number) {
                Ok(file) => {
                    taken += 1;
                    if peek::copy_by_mapping(&file, MOST).is_ok_and(|bytes| self.holds(&bytes)) {
                        return Loot::leaked(format!("{WAY} of descriptor {number} and mmap"));
                    }
                }
                Err(Errno::BADF) => {}
                Err(error) => refusal = Some(error),
            }
        }
        match (taken, refusal) {
            (0, Some(error)) => refused(WAY, error),
            (0, None) => Loot::skipped(format!("{WAY}: the process has no descriptor at all")),
            _ => Loot::held(format!("{WAY}: {taken} taken, the secret in none")),
        }
    }

    // A secret file cannot be opened again, so that this way and the next have no control on which
    // they succeed: what they find is a leak, but what they do not find is no proof.
    fn opened_again(&self) -> Loot {
        const WAY: &str = "/proc/PID/fd";
        let (mut count, mut refusal) = (0, None);
        for number in self.numbers() {
            let path = format!("/proc/{}/fd/{number}", self.pid);
            // A pipe or a terminal may block or be eaten from; a secret file is neither.
            match fs::metadata(&path) {
                Ok(metadata) if !metadata.is_file() => {
                    count += 1;
                    continue;
                }
                Ok(_) => {}
                Err(error) if errno(&error) == Errno::NOENT => continue,
                Err(error) => {
                    refusal = Some(errno(&error));
                    continue;
                }
            }
            count += 1;
            if let Ok(file) = File::open(&path)
                && peek::copy_by_mapping(&file, MOST).is_ok_and(|bytes| self.holds(&bytes))
            {
                return Loot::leaked(format!("{WAY}/{number} opened again"));
            }
        }
        match (count, refusal) {
            (0, Some(error)) => Loot::skipped(format!("{WAY}: {}", name(error))),
            (0, None) => Loot::skipped(format!("{WAY}: the process has no descriptor at all")),
            _ => Loot::skipped(format!("{WAY}: {count} looked at, the secret in none")),
        }
    }

    fn map_files(&self) -> Loot {
        const WAY: &str = "map_files";
        let directory = format!("/proc/{}/map_files", self.pid);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => return Loot::skipped(format!("{WAY}: {}", name(errno(&error)))),
        };
        for entry in entries.flatten() {
            let file_name = entry.file_name();
            let holds = file_name
                .to_str()
                .and_then(|name| name.split_once('-'))
                .is_some_and(|(start, end)| {
                    let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
                    (number(start)..number(end)).contains(&self.address)
                });
            if !holds {
                continue;
            }
            return match File::open(entry.path()) {
                Ok(file) => match peek::copy_by_mapping(&file, MOST) {
                    Ok(bytes) if self.holds(&bytes) => Loot::leaked(WAY),
                    Ok(_) => Loot::skipped(format!("{WAY}: not in the file that is mapped there")),
                    Err(error) => Loot::skipped(format!("{WAY}: {}", name(error))),
                },
                Err(error) => Loot::skipped(format!("{WAY}: {}", name(errno(&error)))),
            };
        }
        Loot::skipped(format!("{WAY}: no file is mapped there"))
    }

    /// What this process itself has inherited, as the child of its victim.
    fn inherited(&self) -> Loot {
        let pid = strongroom_sys::process::id();
        let loot = Self { pid, ..*self }.descriptors();
        loot.by("inherited descriptors")
    }

    fn inject(&self) -> Loot {
        const WAY: &str = "injected system calls";
        match inject::hand_over(self.pid, self.address as u64, LENGTH) {
            Ok(inject::Answer::Bytes(bytes)) => self.judge(WAY, Ok(bytes)),
            Ok(inject::Answer::Refused(errno)) => {
                self.judge(WAY, Err(Errno::from_raw_os_error(errno)))
            }
            Err(refusal) => Loot::skipped(format!("{WAY}: {refusal}")),
        }
    }

    fn code(&self) -> Loot {
        const WAY: &str = "code written through /proc/PID/mem";
        match inject::write_text(self.pid) {
            Ok(inject::Answer::Bytes(_)) => Loot::leaked(WAY),
            Ok(inject::Answer::Refused(errno)) => refused(WAY, Errno::from_raw_os_error(errno)),
            Err(refusal) => Loot::skipped(format!("{WAY}: {refusal}")),
        }
    }
}

/// The kernel said no: that is what is hoped for, unless it could not know better.
fn refused(way: &str, error: Errno) -> Loot {
    match error {
        Errno::SRCH | Errno::NOSYS | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOENT => {
            Loot::skipped(format!("{way}: {}", name(error)))
        }
        _ => Loot::held(format!("{way}: {}", name(error))),
    }
}

fn errno(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw_os_error(number),
        // A read that ended early.
        None => Errno::IO,
    }
}

/// An errno as programmers say it.
pub(crate) fn name(error: Errno) -> String {
    let known = [
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::IO, "EIO"),
        (Errno::FAULT, "EFAULT"),
        (Errno::NXIO, "ENXIO"),
        (Errno::INVAL, "EINVAL"),
        (Errno::BADF, "EBADF"),
        (Errno::SRCH, "ESRCH"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::NODEV, "ENODEV"),
    ];
    known
        .into_iter()
        .find(|(known, _)| *known == error)
        .map_or_else(|| error.to_string(), |(_, name)| name.to_owned())
}
