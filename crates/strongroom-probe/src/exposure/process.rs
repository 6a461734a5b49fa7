//! What decides for a whole process, read once from /proc.

use super::{Machine, Refusal};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use strongroom_sys::Errno;

/// A process, as others see it.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its name, of at most 15 bytes.
    pub name: String,
    /// Its program, where the link may be read.
    pub program: Option<String>,
    /// Its command line, cut after 4 KiB; empty where it has none.
    pub command: Vec<String>,
    /// Its user: real, effective, saved, file system.
    pub users: [u32; 4],
    /// Its group: real, effective, saved, file system.
    pub groups: [u32; 4],
    /// Its permitted capabilities.
    pub capabilities: u64,
    /// Whether processes of its user may look into it (PR_SET_DUMPABLE); none where that cannot be told.
    pub dumpable: Option<bool>,
    /// Who traces it now; 0 for nobody.
    pub tracer: i32,
    /// An ancestor of the same user, which Yama's scope 1 lets in.
    pub ancestor: Option<i32>,
    /// RLIMIT_CORE: soft, in bytes.
    pub core_soft: Limit,
    /// RLIMIT_CORE: hard, in bytes.
    pub core_hard: Limit,
    /// What a core dump has (core(5)); none where it cannot be read.
    pub coredump_filter: Option<u64>,
    /// Whether it can gain no privileges by exec.
    pub no_new_privs: bool,
    /// 0: no seccomp, 1: strict, 2: filters.
    pub seccomp: u64,
    /// memfd_secret files that it has open.
    pub secret_descriptors: Vec<SecretDescriptor>,
    /// Why its descriptors could not be looked at.
    pub descriptors_unread: Option<String>,
    /// Whether it is in another user namespace than this process: root of that one may look in.
    pub other_user_namespace: bool,
    /// Its environment at its start.
    pub environment: Environment,
    /// The control group lets it have no swap (memory.swap.max of 0).
    pub swap_forbidden: bool,
    /// The machine it runs on.
    pub machine: Machine,
    #[serde(skip)]
    identity: Identity,
}

/// A resource limit, in bytes; none is unlimited.
pub type Limit = Option<u64>;

/// An open memfd_secret file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecretDescriptor {
    /// The descriptor's number.
    pub number: i32,
    /// The file's device: major, minor.
    pub device: (u32, u32),
    /// The file's inode.
    pub inode: u64,
}

/// The environment that a process was started with. No values, ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Environment {
    /// The names that look like secrets, of those that have a value.
    Names(Vec<String>),
    /// It could not be read.
    Unread(String),
}

/// What a process is known by: it changes with another process of the same number, and with an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pid: i32,
    name: String,
    /// When it started, in ticks.
    started: u64,
    /// Where its code and its stack start; 1 for those who may not know.
    layout: (u64, u64),
}

/// /proc/PID/stat behind the name, from field 3 on (proc_pid_stat(5)).
struct Stat {
    name: String,
    rest: Vec<String>,
}

impl Stat {
    fn of(pid: i32) -> Result<Self, Refusal> {
        let path = format!("/proc/{pid}/stat");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) => {
                return Err(match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ESRCH) => Refusal::Absent(pid),
                    _ => Refusal::Io { path, error },
                });
            }
        };
        let text = String::from_utf8_lossy(&text);
        // A name may have brackets and blanks of its own.
        let parts = text.split_once('(').zip(text.rsplit_once(')'));
        let name = parts.and_then(|((start, _), (end, rest))| {
            let name = end.get(start.len() + 1..)?;
            Some((name, rest))
        });
        let Some((name, rest)) = name else {
            let line = text.into_owned();
            return Err(Refusal::Line { path, line });
        };
        Ok(Self {
            name: name.to_owned(),
            rest: rest.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// A field, by its number in the manual page.
    fn field(&self, number: usize) -> u64 {
        let field = number.checked_sub(3).and_then(|at| self.rest.get(at));
        field.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn state(&self) -> &str {
        self.rest.first().map_or("", String::as_str)
    }
}

impl Identity {
    /// Of a process that has memory.
    pub(crate) fn of(pid: i32) -> Result<Self, Refusal> {
        const PF_KTHREAD: u64 = 0x0020_0000;
        // 0 and less are no process, whatever files there are.
        if pid <= 0 {
            return Err(Refusal::Absent(pid));
        }
        let stat = Stat::of(pid)?;
        if stat.field(9) & PF_KTHREAD != 0 {
            let name = stat.name;
            return Err(Refusal::KernelThread { pid, name });
        }
        // Its memory, and so its size, goes before it is a zombie.
        if matches!(stat.state(), "Z" | "X") || stat.field(23) == 0 {
            let name = stat.name;
            return Err(match living_thread(pid) {
                Some(thread) => Refusal::Headless { pid, name, thread },
                None => Refusal::Zombie { pid, name },
            });
        }
        Ok(Self {
            pid,
            started: stat.field(22),
            layout: (stat.field(26), stat.field(28)),
            name: stat.name,
        })
    }

    /// Whether it is still the same program of the same process.
    pub(crate) fn still(&self) -> Result<(), Refusal> {
        match Self::of(self.pid) {
            Ok(now) if now.started != self.started => Err(Refusal::Ended(self.pid)),
            Ok(now) if now.layout != self.layout => Err(Refusal::Replaced(self.pid)),
            Ok(_) => Ok(()),
            Err(Refusal::Absent(_) | Refusal::Zombie { .. }) => Err(Refusal::Ended(self.pid)),
            Err(other) => Err(other),
        }
    }

    /// Why a file of the process could not be had.
    pub(crate) fn refusal(&self, file: &'static str, error: io::Error) -> Refusal {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Refusal::Ended(self.pid),
            Some(libc::EACCES | libc::EPERM) => Refusal::Denied {
                pid: self.pid,
                name: self.name.clone(),
                file,
                error,
            },
            _ => Refusal::Io {
                path: format!("/proc/{}/{file}", self.pid),
                error,
            },
        }
    }
}

impl Process {
    /// Looks at a process.
    ///
    /// # Errors
    /// Where there is none, it has no memory, or its status may not be read.
    pub fn read(pid: i32) -> Result<Self, Refusal> {
        let identity = Identity::of(pid)?;
        let directory = format!("/proc/{pid}");
        let directory = Path::new(&directory);
        let text = |file: &'static str| {
            fs::read(directory.join(file))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|error| identity.refusal(file, error))
        };
        let status = Status(text("status")?);
        let limits = text("limits")?;
        let (core_soft, core_hard) = core_limits(&limits).ok_or_else(|| Refusal::Line {
            path: format!("/proc/{pid}/limits"),
            line: limits.clone(),
        })?;
        let users = status.numbers("Uid")?;
        let groups = status.numbers("Gid")?;
        let machine = Machine::read();
        let (secret_descriptors, descriptors_unread) = match secret_descriptors(directory) {
            Ok(found) => (found, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let process = Self {
            pid,
            name: identity.name.clone(),
            program: fs::read_link(directory.join("exe"))
                .ok()
                .map(|path| path.to_string_lossy().into_owned()),
            command: command(directory),
            users,
            groups,
            capabilities: u64::from_str_radix(status.value("CapPrm").unwrap_or("0"), 16)
                .unwrap_or_default(),
            dumpable: dumpable(pid, directory, users, groups),
            tracer: status.number("TracerPid"),
            ancestor: ancestor(pid, users),
            core_soft,
            core_hard,
            coredump_filter: text("coredump_filter")
                .ok()
                .and_then(|text| u64::from_str_radix(text.trim(), 16).ok()),
            no_new_privs: status.value("NoNewPrivs") == Some("1"),
            seccomp: status.number("Seccomp"),
            secret_descriptors,
            descriptors_unread,
            other_user_namespace: other_user_namespace(directory),
            environment: environment(directory),
            swap_forbidden: text("cgroup").is_ok_and(|groups| swap_forbidden(&groups)),
            machine,
            identity: identity.clone(),
        };
        identity.still()?;
        Ok(process)
    }

    /// Whether it still is the process, and the program, that was looked at.
    ///
    /// # Errors
    /// [`Refusal::Ended`] and [`Refusal::Replaced`].
    pub fn still(&self) -> Result<(), Refusal> {
        self.identity.still()
    }

    /// Its user; the effective one where they differ.
    pub fn user(&self) -> u32 {
        let [_, effective, ..] = self.users;
        effective
    }

    /// Whether it has an open descriptor of this file.
    pub fn has_open(&self, device: (u32, u32), inode: u64) -> bool {
        self.secret_descriptors
            .iter()
            .any(|open| open.device == device && open.inode == inode)
    }
}

struct Status(String);

impl Status {
    fn value(&self, key: &str) -> Option<&str> {
        self.0.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == key).then(|| value.trim())
        })
    }

    fn number<T: std::str::FromStr + Default>(&self, key: &str) -> T {
        let value = self.value(key);
        value.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn numbers(&self, key: &'static str) -> Result<[u32; 4], Refusal> {
        let numbers: Option<Vec<u32>> = self
            .value(key)
            .and_then(|text| text.split_whitespace().map(|n| n.parse().ok()).collect());
        numbers
            .and_then(|numbers| numbers.try_into().ok())
            .ok_or_else(|| Refusal::Line {
                path: "/proc/PID/status".to_owned(),
                line: key.to_owned(),
            })
    }
}

/// A thread, other than the first, that has not ended.
fn living_thread(pid: i32) -> Option<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|thread| *thread != pid)
        .find(|thread| Stat::of(*thread).is_ok_and(|stat| !matches!(stat.state(), "Z" | "X")))
}

/// Soft and hard RLIMIT_CORE of /proc/PID/limits.
fn core_limits(text: &str) -> Option<(Limit, Limit)> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"))?;
    let mut words = line.split_whitespace().map(|word| match word {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    Some((words.next()??, words.next()??))
}

fn command(directory: &Path) -> Vec<String> {
    const MOST: u64 = 4096;
    let mut bytes = Vec::new();
    // One that may not be read is none.
    let _ = File::open(directory.join("cmdline"))
        .and_then(|file| file.take(MOST).read_to_end(&mut bytes));
    let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// The files of a process that is not dumpable belong to root (task_dump_owner, fs/proc/base.c). For one
/// of root's that tells nothing; there the kernel is asked by a thread of this user that gave
/// CAP_SYS_PTRACE away.
fn dumpable(pid: i32, directory: &Path, users: [u32; 4], groups: [u32; 4]) -> Option<bool> {
    // Directories that all may read keep their owner; this is a file.
    let owner = fs::metadata(directory.join("status")).ok()?;
    let [_, user, ..] = users;
    let [_, group, ..] = groups;
    if (user, group) != (0, 0) {
        return Some((owner.uid(), owner.gid()) == (user, group));
    }
    if users != [0; 4] || groups != [0; 4] || !rustix::process::getuid().is_root() {
        return None;
    }
    let ask = move || {
        let mut mine = capabilities(None).ok()?;
        mine.effective.remove(CapabilitySet::SYS_PTRACE);
        // For this thread alone.
        set_capabilities(None, mine).ok()?;
        match strongroom_sys::process::may_look_at(pid) {
            Ok(()) => Some(true),
            // One with capabilities that this process lacks is refused in the same way.
            Err(Errno::PERM) if holds_all_of(pid) => Some(false),
            Err(_) => None,
        }
    };
    std::thread::Builder::new().spawn(ask).ok()?.join().ok()?
}

/// Whether this process's permitted capabilities include the other's.
fn holds_all_of(pid: i32) -> bool {
    let permitted = |who: &str| {
        let text = fs::read_to_string(format!("/proc/{who}/status")).ok()?;
        u64::from_str_radix(Status(text).value("CapPrm")?, 16).ok()
    };
    match (permitted("thread-self"), permitted(&pid.to_string())) {
        (Some(mine), Some(its)) => its & !mine == 0,
        _ => false,
    }
}

/// The nearest ancestor that is of the same user alone.
fn ancestor(pid: i32, users: [u32; 4]) -> Option<i32> {
    const DEEPEST: usize = 4096;
    let parent = |pid: i32| {
        let text = fs::read(format!("/proc/{pid}/status")).ok()?;
        Some(Status(String::from_utf8_lossy(&text).into_owned()))
    };
    let mut at: i32 = parent(pid)?.number("PPid");
    for _ in 0..DEEPEST {
        if at == 0 {
            return None;
        }
        let status = parent(at)?;
        if status.numbers("Uid").ok()? == users {
            return Some(at);
        }
        at = status.number("PPid");
    }
    None
}

fn secret_descriptors(directory: &Path) -> io::Result<Vec<SecretDescriptor>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory.join("fd"))? {
        let entry = entry?;
        let path = entry.path();
        // One that was closed meanwhile is none.
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        if !target.to_string_lossy().starts_with("/secretmem") {
            continue;
        }
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let (Some(number), Ok(file)) = (number, fs::metadata(&path)) else {
            continue;
        };
        found.push(SecretDescriptor {
            number,
            device: (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev())),
            inode: file.ino(),
        });
    }
    Ok(found)
}

fn other_user_namespace(directory: &Path) -> bool {
    let own = fs::read_link("/proc/self/ns/user");
    let its = fs::read_link(directory.join("ns/user"));
    matches!((own, its), (Ok(own), Ok(its)) if own != its)
}

fn environment(directory: &Path) -> Environment {
    let names = File::open(directory.join("environ")).and_then(secret_names);
    match names {
        Ok(names) => Environment::Names(names),
        Err(error) => Environment::Unread(error.to_string()),
    }
}

/// The names of variables that look like secrets and are not empty. Values are passed over.
fn secret_names(mut file: impl Read) -> io::Result<Vec<String>> {
    const LONGEST: usize = 256;
    let mut names = Vec::new();
    let mut name: Vec<u8> = Vec::new();
    // Within a name; then whether its value has a byte.
    let (mut naming, mut empty) = (true, true);
    let mut piece = [0; 4096];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        for byte in piece.get(..read).unwrap_or_default() {
            match byte {
                0 => {
                    if !naming && !empty && looks_secret(&name) {
                        names.push(String::from_utf8_lossy(&name).into_owned());
                    }
                    name.clear();
                    (naming, empty) = (true, true);
                }
                b'=' if naming => naming = false,
                _ if naming && name.len() < LONGEST => name.push(*byte),
                _ if naming => {}
                _ => empty = false,
            }
        }
    }
    // The values are not this process's to keep.
    piece.fill(0);
    std::hint::black_box(&piece);
    Ok(names)
}

fn looks_secret(name: &[u8]) -> bool {
    const WITHIN: [&str; 9] = [
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "SECRET",
        "TOKEN",
        "APIKEY",
        "PRIVATE_KEY",
        "CREDENTIAL",
        "DATABASE_URL",
    ];
    const AT_END: [&str; 4] = ["_KEY", "_PASS", "_PW", "_PWD"];
    let name = String::from_utf8_lossy(name).to_uppercase();
    // OLDPWD and PWD are directories; a file of secrets is named by many.
    if name.ends_with("_FILE") || name.ends_with("_PATH") {
        return false;
    }
    WITHIN.iter().any(|word| name.contains(word)) || AT_END.iter().any(|word| name.ends_with(word))
}

/// Whether a control group of version 2, or one that it is in, has memory.swap.max of 0.
fn swap_forbidden(groups: &str) -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return false;
    };
    root.join(group)
        .ancestors()
        .take_while(|group| group.starts_with(root))
        .any(|group| {
            fs::read_to_string(group.join("memory.swap.max")).is_ok_and(|text| text.trim() == "0")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_unlimited() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max core file size        0                    unlimited            bytes\n";
        assert_eq!(core_limits(text), Some((Some(0), None)));
        assert_eq!(core_limits("nonsense"), None);
    }

    #[test]
    fn names_are_found_and_values_are_not() {
        let text = b"PATH=/bin\0API_TOKEN=x\0EMPTY_SECRET=\0PWD=/\0DB_PASSWORD_FILE=/x\0A=SECRET\0b_key=y=z\0";
        assert_eq!(
            secret_names(text.as_slice()).unwrap(),
            ["API_TOKEN", "b_key"]
        );
    }

    #[test]
    fn this_process_is_what_it_is() {
        let process = Process::read(std::process::id() as i32).unwrap();
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(process.users, [uid; 4]);
        assert_eq!(process.dumpable, Some(true));
        assert_eq!(process.tracer, 0);
        assert!(process.command[0].contains("strongroom_probe"));
        process.still().unwrap();
    }

    #[test]
    fn what_has_no_memory_is_refused_by_name() {
        assert!(matches!(
            Process::read(i32::MAX),
            Err(Refusal::Absent(i32::MAX))
        ));
        assert!(matches!(Process::read(0), Err(Refusal::Absent(0))));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        let ended = || !strongroom_sys::process::has_ended(pid).unwrap();
        while ended() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let refusal = Process::read(pid).unwrap_err();
        assert!(matches!(refusal, Refusal::Zombie { .. }), "{refusal}");
        child.wait().unwrap();
        assert!(matches!(Process::read(pid), Err(Refusal::Absent(_))));
    }
}
