//! The thief: a process of its own, of whatever user is to be tried, that looks for a secret in
//! another one and says what came of each way.
//!
//! What it is to look for comes on standard input; every answer is a line `leaked`, `held` or
//! `skipped`, and in what way.

mod own_memory;

use crate::attack::{Loot, inject, search};
use crate::masked;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use strongroom_sys::{Errno, peek};

/// The ways that [`steal`] knows.
pub const WAYS: [&str; 7] = [
    "peek",
    "peek-guest",
    "fd",
    "inject",
    "inherited",
    "grandchild",
    "search",
];

/// The most of a descriptor's contents that is looked at, in bytes.
const MOST: usize = 64 << 20;

/// The longest secret that is looked for, in bytes.
const LONGEST: usize = 1 << 20;

/// Tries one way and reports on standard output; `length` is the secret's, in bytes. Returns the
/// exit status.
pub fn steal(way: &str, pid: i32, address: usize, length: usize) -> u8 {
    let mut secret = vec![0; length.min(LONGEST)];
    if read_exactly(&mut secret).is_err() {
        return 1;
    }
    let mut loot = Vec::new();
    if way == "grandchild" {
        loot.push(own_memory::search(&secret));
        secret = masked::of(&secret);
    }
    let target = Target {
        pid,
        address,
        secret,
        of_guest: way == "peek-guest",
    };
    loot.extend(match way {
        "peek" => target.peek(),
        "peek-guest" => [target.peek(), vec![target.search()]].concat(),
        "fd" => [
            vec![
                target.descriptors(),
                target.opened_again(),
                target.map_files(),
            ],
            target.machine().into_iter().collect(),
        ]
        .concat(),
        "inject" => vec![target.inject(), target.code()],
        "inherited" => vec![target.inherited()],
        "grandchild" => [vec![target.inherited()], target.peek()].concat(),
        "search" => vec![target.search()],
        _ => return 1,
    });
    let mut out = io::stdout().lock();
    for loot in loot {
        if writeln!(out, "{loot}").is_err() {
            return 1;
        }
    }
    0
}

/// What is on standard input, and no more: others may read it after this process.
fn read_exactly(mut place: &mut [u8]) -> Result<(), Errno> {
    while !place.is_empty() {
        match rustix::io::read(rustix::stdio::stdin(), &mut *place) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(read) => place = place.get_mut(read..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Target {
    pid: i32,
    address: usize,
    secret: Vec<u8>,
    /// Whether it is a guest's: then it need not be at the address, where its monitor sees other bytes.
    of_guest: bool,
}

impl Target {
    fn peek(&self) -> Vec<Loot> {
        vec![self.mem(), self.ptrace(), self.vm_read()]
    }

    /// Every page that /proc/PID/mem shows.
    fn search(&self) -> Loot {
        const WAY: &str = "a search of /proc/PID/mem";
        match search::first(self.pid, &self.secret) {
            Ok(Some((at, name))) => {
                let name = if name.is_empty() {
                    "anonymous memory"
                } else {
                    &name
                };
                Loot::leaked(format!("{WAY}: at {at:#x} in {name}"))
            }
            Ok(None) => Loot::held(format!("{WAY}: nowhere")),
            Err(error) => refused(WAY, errno(&error)),
        }
    }

    fn judge(&self, way: &str, read: Result<Vec<u8>, Errno>) -> Loot {
        match read {
            Ok(bytes) if bytes == self.secret => Loot::leaked(way),
            Ok(bytes) if self.of_guest => {
                let zeros = bytes.iter().all(|&byte| byte == 0);
                Loot::held(format!(
                    "{way}: {}",
                    if zeros { "zeros" } else { "other bytes" }
                ))
            }
            // The victim has proven that it is there: whatever this is, it is no proof.
            Ok(_) => Loot::skipped(format!("{way}: other bytes")),
            Err(error) => refused(way, error),
        }
    }

    fn mem(&self) -> Loot {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; self.secret.len()];
            let mem = File::open(format!("/proc/{}/mem", self.pid))?;
            mem.read_exact_at(&mut bytes, self.address as u64)?;
            Ok(bytes)
        };
        self.judge("/proc/PID/mem", read().map_err(|error| errno(&error)))
    }

    fn ptrace(&self) -> Loot {
        let mut bytes = vec![0; self.secret.len()];
        let read = peek::ptrace_read(self.pid, self.address, &mut bytes).map(|()| bytes);
        self.judge("ptrace", read)
    }

    fn vm_read(&self) -> Loot {
        let mut bytes = vec![0; self.secret.len()];
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

    /// A virtual machine of the process's, given a processor from here: by that its memory could be had. The kernel
    /// refuses it of every machine (EIO), so that this way has no control either.
    fn machine(&self) -> Option<Loot> {
        const WAY: &str = "a processor in its machine";
        let is_machine = |number: &i32| {
            let link = fs::read_link(format!("/proc/{}/fd/{number}", self.pid));
            link.is_ok_and(|link| link.to_str() == Some("anon_inode:kvm-vm"))
        };
        let number = self.numbers().into_iter().find(is_machine)?;
        let pidfd = peek::process_descriptor(self.pid).ok()?;
        let taken = peek::take_descriptor(std::os::fd::AsFd::as_fd(&pidfd), number);
        let added = taken.and_then(|machine| peek::add_processor(machine, 198));
        Some(match added {
            Ok(_) => Loot::leaked(WAY),
            Err(error) => Loot::skipped(format!("{WAY}: {}", name(error))),
        })
    }

    /// What this process itself has inherited, as the child of its victim.
    fn inherited(&self) -> Loot {
        let pid = strongroom_sys::process::id();
        let own = Self {
            pid,
            address: 0,
            secret: self.secret.clone(),
            of_guest: false,
        };
        let loot = own.descriptors();
        loot.by("inherited descriptors")
    }

    fn inject(&self) -> Loot {
        const WAY: &str = "injected system calls";
        match inject::hand_over(self.pid, self.address as u64, self.secret.len()) {
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
        (Errno::SPIPE, "ESPIPE"),
    ];
    known
        .into_iter()
        .find(|(known, _)| *known == error)
        .map_or_else(|| error.to_string(), |(_, name)| name.to_owned())
}
