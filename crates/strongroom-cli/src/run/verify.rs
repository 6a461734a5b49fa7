//! The verifier: looks from outside whether protection is active before the program's own code runs.
//!
//! From exec on it sees every system call. Until the preload object says that it is
//! ready (see `strongroom::launch::handshake`) only what a loader and that object
//! do is allowed. Whatever else would happen first means that the program's own
//! code runs unprotected, and becomes exit_group(125) instead.

use super::receipt::Unprotected;
use crate::failure::{self, Failure};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use strongroom::launch::config::Scope;
use strongroom::launch::handshake::{Handshake, OPTION, VERSION};
use strongroom_core::{Level, Protections};
use strongroom_sys::driver::DEVICE;
use strongroom_sys::trace::{Call, CallStop, Resume, Stop, Tracee};

/// What glibc's loader and its start-up code do.
const LOADER: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_stat,
    libc::SYS_statx,
    libc::SYS_uname,
];

/// What the preload object's constructor does besides.
const OBJECT: &[i64] = &[
    libc::SYS_capget,
    libc::SYS_ftruncate,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getuid,
    libc::SYS_ioctl,
    libc::SYS_madvise,
    libc::SYS_memfd_secret,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_prctl,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sched_getaffinity,
    libc::SYS_sysinfo,
];

/// Watches the process from before its exec until it is protected, has been refused, or is gone.
/// Calls `before_leaving` before it lets the process go on alone.
///
/// # Errors
/// Those of ptrace and of `before_leaving`: the caller's end then ends the process.
pub(super) fn until_protected(
    tracee: &Tracee,
    pid: i32,
    object: &Path,
    unprotected: &Unprotected<'_>,
    before_leaving: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let leave = || {
        before_leaving()?;
        tracee.resume(Resume::Detached, 0)
    };
    let mut gate: Option<Gate<'_>> = None;
    loop {
        let stop = tracee.wait()?;
        // The launcher's own calls, before exec, are of no interest.
        let onward = if gate.is_some() {
            Resume::ToCall
        } else {
            Resume::Free
        };
        match (stop, &mut gate) {
            (Stop::Ended, _) => return Ok(()),
            (Stop::Exec, gate) => {
                *gate = Some(Gate::new(pid, object, unprotected));
                tracee.resume(Resume::ToCall, 0)?;
            }
            (Stop::Signal(signal), _) => tracee.resume(onward, signal)?,
            (Stop::Group, _) => tracee.resume(Resume::Stopped, 0)?,
            (Stop::Call, Some(gate)) => match gate.step(tracee.call()?) {
                Step::On => tracee.resume(Resume::ToCall, 0)?,
                Step::Protected => {
                    tracee.replace_call(&farewell(pid))?;
                    return leave();
                }
                Step::Ending => return tracee.resume(Resume::Detached, 0),
                Step::Refuse(failure) => {
                    if unprotected.config.best_effort {
                        failure.print_as_warning();
                        unprotected.record(pid);
                    } else {
                        failure.print();
                        tracee.replace_call(&Call::new(
                            libc::SYS_exit_group,
                            [failure::STATUS.into()],
                        ))?;
                    }
                    return leave();
                }
            },
            (Stop::Call | Stop::Other, _) => tracee.resume(onward, 0)?,
        }
    }
}

/// What the handshake's call, unknown to the kernel, becomes.
fn farewell(pid: i32) -> Call {
    let adopted =
        rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == pid);
    if adopted {
        // The program is its container's init, or a subreaper, and did not ask for this child: it
        // waits for the verifier's end here and never sees it.
        let verifier = rustix::process::getpid().as_raw_nonzero().get();
        Call::new(
            libc::SYS_wait4,
            [verifier.into(), 0, libc::__WALL.into(), 0],
        )
    } else {
        // Something that succeeds: that tells the object that somebody looked.
        Call::new(libc::SYS_sched_yield, [])
    }
}

/// What comes of a system call.
enum Step {
    /// It is made.
    On,
    /// The handshake is done and everything is as the object says.
    Protected,
    /// The process ends of its own, and has said why.
    Ending,
    /// It is not made: the protection is not there.
    Refuse(Failure),
}

/// A call whose result matters.
enum Pending {
    OpenObject,
    OpenSecret,
    Close(i32),
    Hide,
    Show,
}

/// Open files of the process's /proc directory. They are opened at exec: once the process is
/// non-dumpable that is too late, but what is open stays readable.
struct Eyes {
    memory: File,
    maps: File,
    smaps: File,
}

impl Eyes {
    fn open(pid: i32) -> io::Result<Self> {
        let open = |name| File::open(format!("/proc/{pid}/{name}"));
        Ok(Self {
            memory: open("mem")?,
            maps: open("maps")?,
            smaps: open("smaps")?,
        })
    }

    /// Whether `text` lies at `address`, as a C string.
    fn see_text(&self, text: &[u8], address: u64) -> bool {
        let mut seen = vec![0; text.len() + 1];
        self.memory.read_exact_at(&mut seen, address).is_ok()
            && seen.strip_suffix(&[0]) == Some(text)
    }

    /// The handshake at `address`.
    fn handshake(&self, address: u64, len: u64) -> Result<Handshake, Failure> {
        let mut bytes = [0; size_of::<Handshake>()];
        if len != bytes.len() as u64 {
            return Err(other_version());
        }
        self.memory
            .read_exact_at(&mut bytes, address)
            .map_err(|error| blind(&error))?;
        decode(&bytes)
            .filter(|handshake| handshake.version == VERSION)
            .ok_or_else(other_version)
    }

    /// How much of the range is secret memory, the driver's or of memfd_secret, in bytes, and whether the object is mapped.
    fn secret_and_object(&self, region: Range, object: &Path) -> io::Result<(u64, bool)> {
        let (mut secret, mut mapped) = (0, false);
        for line in BufReader::new(&self.maps).split(b'\n') {
            let line = line?;
            let Some(mapping) = Mapping::parse(&line) else {
                continue;
            };
            mapped |= mapping.name == object.as_os_str().as_bytes();
            if mapping.name.starts_with(b"/secretmem") || mapping.name == DEVICE.to_bytes() {
                secret += region.overlap(mapping.range);
            }
        }
        Ok((secret, mapped))
    }

    /// How much of the range is locked, in bytes.
    fn locked(&self, region: Range) -> io::Result<u64> {
        let (mut locked, mut overlap) = (0, 0);
        for line in BufReader::new(&self.smaps).split(b'\n') {
            let line = line?;
            if let Some(mapping) = Mapping::parse(&line) {
                overlap = region.overlap(mapping.range);
            } else if let Some(flags) = line.strip_prefix(b"VmFlags:")
                && flags.split(|&b| b == b' ').any(|flag| flag == b"lo")
            {
                locked += overlap;
            }
        }
        Ok(locked)
    }
}

/// What was seen of the process so far.
struct Gate<'a> {
    object: &'a Path,
    unprotected: &'a Unprotected<'a>,
    eyes: Option<Eyes>,
    pending: Option<Pending>,
    object_opened: bool,
    loader_spoke: bool,
    hidden: bool,
    secret_files: Vec<i32>,
    /// What was seen at the exit of a call, to be acted on at the next entry.
    refusal: Option<Failure>,
}

impl<'a> Gate<'a> {
    fn new(pid: i32, object: &'a Path, unprotected: &'a Unprotected<'a>) -> Self {
        let (eyes, refusal) = match Eyes::open(pid) {
            Ok(eyes) => (Some(eyes), None),
            Err(error) => (None, Some(blind(&error))),
        };
        Self {
            object,
            unprotected,
            eyes,
            pending: None,
            object_opened: false,
            loader_spoke: false,
            hidden: false,
            secret_files: Vec::new(),
            refusal,
        }
    }

    fn step(&mut self, stop: CallStop) -> Step {
        match stop {
            CallStop::Entry(call) => self.enter(&call).unwrap_or_else(Step::Refuse),
            CallStop::Exit(result) => {
                self.leave(result);
                Step::On
            }
            CallStop::Foreign => Step::Refuse(runs_unprotected("made a 32-bit system call")),
        }
    }

    fn enter(&mut self, call: &Call) -> Result<Step, Failure> {
        let [first, second, third, ..] = call.arguments;
        self.pending = None;
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let number = call.number.cast_signed();
        match number {
            libc::SYS_openat | libc::SYS_open => {
                let (path, flags) = if number == libc::SYS_openat {
                    (second, third)
                } else {
                    (first, second)
                };
                let sees = |text: &[u8]| {
                    let eyes = self.eyes.as_ref();
                    eyes.is_some_and(|eyes| eyes.see_text(text, path))
                };
                if self.object_opened && sees(DEVICE.to_bytes()) {
                    self.pending = Some(Pending::OpenSecret);
                    return Ok(Step::On);
                }
                if flags as i32 & libc::O_ACCMODE != libc::O_RDONLY {
                    return Err(runs_unprotected("opened a file for writing"));
                }
                if sees(self.object.as_os_str().as_bytes()) {
                    self.pending = Some(Pending::OpenObject);
                }
            }
            libc::SYS_exit_group | libc::SYS_exit => {
                // A loader that fails, or our object, has said why.
                return if self.object_opened || (self.loader_spoke && first as u8 != 0) {
                    Ok(Step::Ending)
                } else {
                    Err(runs_unprotected("ended"))
                };
            }
            libc::SYS_write | libc::SYS_writev if first == libc::STDERR_FILENO as u64 => {
                self.loader_spoke = true;
            }
            libc::SYS_prctl if self.object_opened && first as i32 == OPTION => {
                return self.check(second, third).map(|()| Step::Protected);
            }
            libc::SYS_prctl if first as i32 == libc::PR_SET_DUMPABLE => {
                self.pending = Some(if second == 0 {
                    Pending::Hide
                } else {
                    Pending::Show
                });
            }
            libc::SYS_close => self.pending = Some(Pending::Close(first as i32)),
            libc::SYS_memfd_secret if self.object_opened => {
                self.pending = Some(Pending::OpenSecret)
            }
            // abort(3) in the object: the process dies.
            libc::SYS_tgkill | libc::SYS_kill if self.object_opened => {}
            _ if LOADER.contains(&number) || (self.object_opened && OBJECT.contains(&number)) => {}
            _ => return Err(runs_unprotected(&format!("made system call {number}"))),
        }
        Ok(Step::On)
    }

    fn leave(&mut self, result: i64) {
        match self.pending.take() {
            Some(Pending::OpenObject) if result < 0 => {
                let error = io::Error::from_raw_os_error(-result as i32);
                self.refusal = Some(Failure::new(
                    format!(
                        "the loader cannot open the preload object {}: {error}",
                        self.object.display()
                    ),
                    "the program must be able to read it: name another place by --preload-dir",
                ));
            }
            Some(Pending::OpenObject) => self.object_opened = true,
            Some(Pending::OpenSecret) if result >= 0 => self.secret_files.push(result as i32),
            Some(Pending::Close(file)) if result == 0 => {
                self.secret_files.retain(|&other| other != file)
            }
            Some(Pending::Hide) if result == 0 => self.hidden = true,
            Some(Pending::Show) if result == 0 => self.hidden = false,
            _ => {}
        }
    }

    /// Holds what the object says against what the kernel says.
    fn check(&self, address: u64, len: u64) -> Result<(), Failure> {
        let config = self.unprotected.config;
        let eyes = self
            .eyes
            .as_ref()
            .ok_or_else(|| blind(&io::Error::from(Errno::ACCESS)))?;
        let said = eyes.handshake(address, len)?;
        let held = Protections::from_bits_truncate(said.held);
        let missing = config
            .level
            .unwrap_or(Level::Locked)
            .protections()
            .difference(held);
        if !missing.is_empty() && !config.best_effort {
            return Err(Failure::new(
                format!("the program would run without {missing}"),
                "`strongroom doctor` says what this machine lacks; --best-effort goes on without",
            ));
        }
        let hidden = self.hidden && said.non_dumpable == 1;
        if !hidden && !config.dumpable {
            return Err(untrue("the process is still dumpable"));
        }
        if let Some(file) = self.secret_files.first() {
            return Err(untrue(&format!(
                "secret memory can still be reached by descriptor {file}"
            )));
        }
        let region = Range {
            start: said.region_address,
            len: said.region_length,
        };
        let (secret, object_mapped) = eyes
            .secret_and_object(region, self.object)
            .map_err(|error| blind(&error))?;
        if !object_mapped {
            return Err(untrue("the preload object is not mapped"));
        }
        if region.len == 0 {
            // The locked scope has nothing to show before the program locks something.
            let nothing_yet = config.scope == Scope::Locked || config.best_effort;
            return if nothing_yet {
                Ok(())
            } else {
                Err(untrue("it names no secret memory"))
            };
        }
        if said.region_is_secretmem == 1 || held.contains(Protections::NO_DIRECT_MAP) {
            return if secret == region.len {
                Ok(())
            } else {
                Err(untrue("the memory that is called secret is not"))
            };
        }
        match eyes.locked(region) {
            Ok(locked) if locked == region.len => Ok(()),
            Ok(_) => Err(untrue("the memory that is called locked is not")),
            Err(error) => Err(blind(&error)),
        }
    }
}

/// The handshake in the other process's bytes; both are of this machine.
fn decode(bytes: &[u8; size_of::<Handshake>()]) -> Option<Handshake> {
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    Some(Handshake {
        version: word(offset_of!(Handshake, version))?,
        held: word(offset_of!(Handshake, held))?,
        region_address: long(offset_of!(Handshake, region_address))?,
        region_length: long(offset_of!(Handshake, region_length))?,
        region_is_secretmem: word(offset_of!(Handshake, region_is_secretmem))?,
        non_dumpable: word(offset_of!(Handshake, non_dumpable))?,
    })
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    len: u64,
}

impl Range {
    fn overlap(self, other: Self) -> u64 {
        let end = self
            .start
            .saturating_add(self.len)
            .min(other.start.saturating_add(other.len));
        end.saturating_sub(self.start.max(other.start))
    }
}

/// A line of /proc/PID/maps.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    range: Range,
    name: &'a [u8],
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        // start-end access offset device inode   name
        let mut fields = line.splitn(6, |&b| b == b' ');
        let (start, end) = std::str::from_utf8(fields.next()?).ok()?.split_once('-')?;
        let (start, end) = (
            u64::from_str_radix(start, 16).ok()?,
            u64::from_str_radix(end, 16).ok()?,
        );
        let name = fields.nth(4).unwrap_or_default().trim_ascii_start();
        Some(Self {
            range: Range {
                start,
                len: end.checked_sub(start)?,
            },
            name,
        })
    }
}

fn runs_unprotected(what: &str) -> Failure {
    Failure::new(
        format!(
            "the program {what} before the preload object was active: its own code would run unprotected"
        ),
        "a program with start-up code of its own (sanitizers, LD_AUDIT, .preinit_array, a changed loader) cannot be protected; \
         use a plain build",
    )
}

fn untrue(what: &str) -> Failure {
    Failure::new(
        format!("the preload object claims protection, but {what}"),
        "this should not happen: please report it with the output of `strongroom doctor`",
    )
}

fn blind(error: &io::Error) -> Failure {
    Failure::new(
        format!(
            "the protection cannot be verified: the started program cannot be looked into: {error}"
        ),
        "see that /proc is mounted, without hidepid for this user, and that the program's file is readable",
    )
}

fn other_version() -> Failure {
    Failure::new(
        "the preload object is of another version than this command",
        "use the object of the same build: leave --preload-dir and STRONGROOM_PRELOAD_DIR out",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_understood() {
        let line = b"7fb6c6b94000-7fb6c6b96000 rw-s 00000000 00:0e 9328                       /secretmem (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!(
            mapping.range,
            Range {
                start: 0x7fb6_c6b9_4000,
                len: 0x2000
            }
        );
        assert_eq!(mapping.name, b"/secretmem (deleted)");
        assert_eq!(
            Mapping::parse(b"1000-2000 rw-p 00000000 00:00 0 ")
                .unwrap()
                .name,
            b""
        );
        assert_eq!(Mapping::parse(b"VmFlags: rd wr lo"), None);
        assert_eq!(Mapping::parse(b"Rss:    4 kB"), None);
    }

    #[test]
    fn overlaps_are_counted_in_bytes() {
        let region = Range {
            start: 100,
            len: 50,
        };
        for (start, len, overlap) in [
            (0, 100, 0),
            (0, 110, 10),
            (120, 10, 10),
            (140, 99, 10),
            (150, 9, 0),
            (0, 999, 50),
        ] {
            assert_eq!(region.overlap(Range { start, len }), overlap);
        }
    }

    #[test]
    fn a_handshake_is_read_as_it_lies_in_memory() {
        let bytes: Vec<u8> = [1u32, 7]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .chain(
                [0x7000u64, 0x2000]
                    .iter()
                    .flat_map(|long| long.to_ne_bytes()),
            )
            .chain([1u32, 0].iter().flat_map(|word| word.to_ne_bytes()))
            .collect();
        let expected = Handshake {
            version: 1,
            held: 7,
            region_address: 0x7000,
            region_length: 0x2000,
            region_is_secretmem: 1,
            non_dumpable: 0,
        };
        assert_eq!(decode(bytes.as_slice().try_into().unwrap()), Some(expected));
    }
}
