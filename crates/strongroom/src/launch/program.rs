//! Whether the preload object can be loaded into a program file.
//!
//! Nothing here allocates, locks or touches errno: the preload object asks the same
//! questions in its exec wrappers, which may run in a vfork child.

#![expect(
    clippy::result_large_err,
    reason = "a path in place of a box: nothing here allocates"
)]
#![expect(clippy::large_enum_variant, reason = "as above")]

use core::ffi::CStr;
use core::fmt;
use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::pod;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How much of a script's first line the kernel reads (BINPRM_BUF_SIZE).
const LINE: usize = 256;
/// How many interpreters of interpreters the kernel follows.
const DEPTH: usize = 4;
/// The loader of 64-bit glibc programs, wherever it is.
const GLIBC_LOADER: &[u8] = b"ld-linux-x86-64.so.2";

/// A path of at most 255 bytes, held in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortPath {
    bytes: [u8; LINE],
    len: u8,
}

impl ShortPath {
    /// `path` cut at 255 bytes.
    fn new(path: &[u8]) -> Self {
        let len = path.len().min(LINE - 1);
        let mut bytes = [0; LINE];
        bytes[..len].copy_from_slice(&path[..len]);
        Self {
            bytes,
            len: len as u8,
        }
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn as_c_str(&self) -> &CStr {
        // There is a zero past `len` bytes of at most 255.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl fmt::Display for ShortPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().escape_ascii().fmt(f)
    }
}

impl fmt::Debug for ShortPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A program that the preload object can be loaded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// The interpreter that runs it, where the file is a script.
    pub interpreter: Option<ShortPath>,
    /// Whether CPython runs: it takes small objects from its own allocator unless PYTHONMALLOC says otherwise.
    pub python: bool,
}

/// Why a program cannot be protected or started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unprotectable {
    /// What is in the way.
    pub cause: Cause,
    /// The script's interpreter, where the cause is in that and not in the file itself.
    pub interpreter: Option<ShortPath>,
}

/// What is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// No such file.
    NotFound,
    /// A directory.
    Directory,
    /// Neither file nor directory.
    NotAFile,
    /// No permission to execute it.
    NotExecutable,
    /// It may be executed and not read, which also makes the kernel hide it from a verifier.
    NotReadable,
    /// Neither ELF nor `#!`: execve(2) answers ENOEXEC, and shells and execvp(3) run it with /bin/sh.
    NoFormat,
    /// Scripts run by scripts, too deep.
    TooManyInterpreters,
    /// An ELF file that is cut short or contradicts itself.
    Malformed,
    /// Not a 64-bit x86 program.
    OtherMachine,
    /// It has no dynamic loader.
    Static,
    /// Its loader is not that of 64-bit glibc.
    OtherLoader(ShortPath),
    /// Its setuid bit changes the user.
    SetUid,
    /// Its setgid bit changes the group.
    SetGid,
    /// It has file capabilities.
    FileCapabilities,
    /// The process that wants to start it has different real and effective users or groups.
    PrivilegedCaller,
    /// The kernel's answer to something else.
    Kernel(Errno),
}

impl Cause {
    /// What to do about it, or an empty text where there is nothing to be said.
    pub const fn fix(&self) -> &'static str {
        match self {
            Cause::NotFound | Cause::Directory | Cause::NotAFile | Cause::NotExecutable => "",
            Cause::NotReadable => "make it readable: chmod +r",
            Cause::NoFormat => "name the interpreter: start the script with #!",
            Cause::TooManyInterpreters => "let the script's #! line name a program",
            Cause::Malformed => "install the program anew",
            Cause::OtherMachine => "use a 64-bit x86 build of the program",
            Cause::Static => {
                "use a dynamically linked build of the program, or --best-effort to run it unprotected"
            }
            Cause::OtherLoader(_) => {
                "use a build of the program for glibc, or --best-effort to run it unprotected"
            }
            Cause::SetUid | Cause::SetGid => {
                "run it with --no-new-privs, or start it as the user and group it runs as"
            }
            Cause::FileCapabilities => {
                "start it as root, or run a copy without the capabilities (setcap -r) and give it them as \
                 ambient ones: systemd AmbientCapabilities=, setpriv --ambient-caps"
            }
            Cause::PrivilegedCaller => {
                "drop the privileges for good first: setpriv --reuid --regid"
            }
            Cause::Kernel(_) => "",
        }
    }

    /// Whether execve(2) would fail, protection or not.
    pub const fn stops_exec(&self) -> bool {
        matches!(
            self,
            Cause::NotFound
                | Cause::Directory
                | Cause::NotAFile
                | Cause::NotExecutable
                | Cause::NoFormat
                | Cause::TooManyInterpreters
                | Cause::Kernel(_)
        )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NotFound => f.write_str("no such file"),
            Cause::Directory => f.write_str("it is a directory"),
            Cause::NotAFile => f.write_str("it is not a regular file"),
            Cause::NotExecutable => f.write_str("permission denied: it may not be executed"),
            Cause::NotReadable => f.write_str("it may be executed but not read, so protection cannot be verified"),
            Cause::NoFormat => f.write_str("it is neither an ELF program nor a script with #!"),
            Cause::TooManyInterpreters => f.write_str("its #! line names a script, and so on, too deep"),
            Cause::Malformed => f.write_str("it is a damaged ELF file"),
            Cause::OtherMachine => f.write_str("it is a program for a 32-bit or another machine"),
            Cause::Static => f.write_str("it is statically linked, so nothing can be loaded into it"),
            Cause::OtherLoader(loader) => write!(f, "its loader is {loader}, not glibc's"),
            Cause::SetUid => f.write_str("it is setuid, and the loader ignores LD_PRELOAD for such programs"),
            Cause::SetGid => f.write_str("it is setgid, and the loader ignores LD_PRELOAD for such programs"),
            Cause::FileCapabilities => {
                f.write_str("it has file capabilities, and the loader ignores LD_PRELOAD for such programs")
            }
            Cause::PrivilegedCaller => {
                f.write_str("the real and effective user or group differ, and the loader ignores LD_PRELOAD then")
            }
            Cause::Kernel(errno) => errno.fmt(f),
        }
    }
}

impl fmt::Display for Unprotectable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(interpreter) = self.interpreter {
            write!(f, "its interpreter {interpreter}: ")?;
        }
        self.cause.fmt(f)
    }
}

impl core::error::Error for Unprotectable {}

/// Whether the object can be loaded into the program that execve(2) of `path` would start.
///
/// # Errors
/// The cause, where it cannot, or where execve would fail.
pub fn inspect(path: &CStr) -> Result<Program, Unprotectable> {
    let file = open(path).map_err(|cause| Unprotectable {
        cause,
        interpreter: None,
    })?;
    follow(file.as_fd(), path.to_bytes())
}

/// As [`inspect`], for fexecve(3) of an open file.
///
/// # Errors
/// As for [`inspect`].
pub fn inspect_open(file: BorrowedFd<'_>) -> Result<Program, Unprotectable> {
    follow(file, b"")
}

/// Whether `path` is named like CPython: `python`, `python3`, `python3.11`, `python3-dbg`.
pub fn is_python(path: &[u8]) -> bool {
    let name = base_name(path);
    let Some(version) = name.strip_prefix(b"python") else {
        return false;
    };
    let version = version.strip_suffix(b"-dbg").unwrap_or(version);
    // Free-threaded and debug builds end in a letter: python3.13t.
    let version = version
        .strip_suffix(b"t")
        .or(version.strip_suffix(b"d"))
        .unwrap_or(version);
    version.iter().all(|b| b.is_ascii_digit() || *b == b'.')
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

/// Aligned so that ELF structures can be read in place.
#[repr(C, align(8))]
struct Buffer([u8; 2048]);

impl Buffer {
    fn read(&mut self, file: BorrowedFd<'_>, offset: u64) -> Result<&[u8], Cause> {
        let mut filled = 0;
        while filled < self.0.len() {
            match rustix::io::pread(
                file,
                &mut self.0[filled..],
                offset.saturating_add(filled as u64),
            ) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(Errno::BADF) => return Err(Cause::NotReadable),
                Err(error) => return Err(Cause::Kernel(error)),
            }
        }
        Ok(&self.0[..filled])
    }
}

fn follow(file: BorrowedFd<'_>, path: &[u8]) -> Result<Program, Unprotectable> {
    let mut interpreter: Option<ShortPath> = None;
    let mut opened = None;
    let mut buffer = Buffer([0; 2048]);
    for _ in 0..=DEPTH {
        let file = opened.as_ref().map_or(file, AsFd::as_fd);
        let fail = |cause| Unprotectable { cause, interpreter };
        let head = buffer.read(file, 0).map_err(fail)?;
        if let Some(line) = head.strip_prefix(b"#!") {
            let next = ShortPath::new(
                interpreter_of(&line[..line.len().min(LINE - 2)]).ok_or(fail(Cause::NoFormat))?,
            );
            opened = Some(open(next.as_c_str()).map_err(|cause| Unprotectable {
                cause,
                interpreter: Some(next),
            })?);
            interpreter = Some(next);
            continue;
        }
        if !head.starts_with(&elf::ELFMAG) {
            return Err(fail(Cause::NoFormat));
        }
        dynamic_glibc(file, &mut buffer).map_err(fail)?;
        stays_unprivileged(file).map_err(fail)?;
        let name = interpreter.as_ref().map_or(path, ShortPath::as_bytes);
        return Ok(Program {
            interpreter,
            python: is_python(name) || is_python(real_name(file, &mut buffer)),
        });
    }
    Err(Unprotectable {
        cause: Cause::TooManyInterpreters,
        interpreter,
    })
}

fn open(path: &CStr) -> Result<OwnedFd, Cause> {
    let may_execute = || match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(Errno::ACCESS) => Err(Cause::NotExecutable),
        Err(error) => Err(Cause::Kernel(error)),
    };
    // Nonblocking: a FIFO must not hang us before it is seen to be one.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(Cause::NotFound),
        Err(Errno::ACCESS) => return Err(may_execute().err().unwrap_or(Cause::NotReadable)),
        Err(Errno::NXIO | Errno::NODEV) => return Err(Cause::NotAFile),
        Err(error) => return Err(Cause::Kernel(error)),
    };
    match FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(Cause::Kernel)?.st_mode) {
        FileType::RegularFile => may_execute().map(|()| file),
        FileType::Directory => Err(Cause::Directory),
        _ => Err(Cause::NotAFile),
    }
}

/// The interpreter in what follows `#!`, as the kernel's load_script reads it.
fn interpreter_of(line: &[u8]) -> Option<&[u8]> {
    let line = line.split(|&b| b == b'\n').next()?;
    line.split(|b| matches!(b, b' ' | b'\t' | 0))
        .find(|word| !word.is_empty())
}

/// Whether the loader that would load the ELF file is glibc's. `buffer` holds the file's start.
fn dynamic_glibc(file: BorrowedFd<'_>, buffer: &mut Buffer) -> Result<(), Cause> {
    const HEADER: usize = size_of::<ProgramHeader64<LittleEndian>>();
    const BATCH: usize = size_of::<Buffer>() / HEADER;
    let little = LittleEndian;
    let (header, _) =
        pod::from_bytes::<FileHeader64<LittleEndian>>(&buffer.0).map_err(|()| Cause::Malformed)?;
    let identity = &header.e_ident;
    if identity.class != elf::ELFCLASS64
        || identity.data != elf::ELFDATA2LSB
        || header.e_machine.get(little) != elf::EM_X86_64
    {
        return Err(Cause::OtherMachine);
    }
    if usize::from(header.e_phentsize.get(little)) != HEADER {
        return Err(Cause::Malformed);
    }
    let (table, count) = (
        header.e_phoff.get(little),
        usize::from(header.e_phnum.get(little)),
    );
    for first in (0..count).step_by(BATCH) {
        let bytes = buffer.read(file, table.saturating_add((first * HEADER) as u64))?;
        let batch = BATCH.min(count - first);
        let (headers, _) = pod::slice_from_bytes::<ProgramHeader64<LittleEndian>>(bytes, batch)
            .map_err(|()| Cause::Malformed)?;
        let Some(loader) = headers
            .iter()
            .find(|header| header.p_type.get(little) == elf::PT_INTERP)
        else {
            continue;
        };
        let (offset, len) = (loader.p_offset.get(little), loader.p_filesz.get(little));
        let bytes = buffer.read(file, offset)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
        let path = bytes[..len].split(|&b| b == 0).next().unwrap_or_default();
        return if base_name(path) == GLIBC_LOADER {
            Ok(())
        } else {
            Err(Cause::OtherLoader(ShortPath::new(path)))
        };
    }
    Err(Cause::Static)
}

/// Whether execve would leave the process as privileged as it is: otherwise AT_SECURE
/// is set and the loader ignores LD_PRELOAD (cap_bprm_creds_from_file in the kernel's commoncap.c).
fn stays_unprivileged(file: BorrowedFd<'_>) -> Result<(), Cause> {
    let status = rustix::fs::fstat(file).map_err(Cause::Kernel)?;
    let mode = Mode::from_raw_mode(status.st_mode);
    let set_uid = mode.contains(Mode::SUID);
    // Without the group's execute bit, setgid once meant mandatory locking.
    let set_gid = mode.contains(Mode::SGID | Mode::XGRP);
    let capable = rustix::fs::fgetxattr(file, c"security.capability", &mut [0u8; 64]).is_ok();
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    if rustix::process::geteuid() != uid || rustix::process::getegid() != gid {
        return Err(Cause::PrivilegedCaller);
    }
    if !(set_uid || set_gid || capable) || grants_nothing(file) {
        return Ok(());
    }
    if set_uid && status.st_uid != uid.as_raw() {
        return Err(Cause::SetUid);
    }
    if set_gid && status.st_gid != gid.as_raw() {
        return Err(Cause::SetGid);
    }
    if capable && !uid.is_root() {
        return Err(Cause::FileCapabilities);
    }
    Ok(())
}

/// Whether privilege bits mean nothing here: a nosuid mount, or no_new_privs.
fn grants_nothing(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::NOSUID))
        || rustix::thread::no_new_privs().unwrap_or(false)
}

/// The open file's name behind symbolic links, or nothing where /proc does not tell.
fn real_name<'a>(file: BorrowedFd<'_>, buffer: &'a mut Buffer) -> &'a [u8] {
    use rustix::path::DecInt;
    let Ok(directory) = rustix::fs::open(
        c"/proc/self/fd",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return b"";
    };
    match rustix::fs::readlinkat_raw(directory, DecInt::from_fd(file).as_c_str(), &mut buffer.0) {
        Ok(len) => &buffer.0[..len],
        Err(_) => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::fs::PermissionsExt;

    fn file(name: &str, mode: u32, content: &[u8]) -> CString {
        let path =
            std::env::temp_dir().join(format!("strongroom-program-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        CString::new(path.into_os_string().into_encoded_bytes()).unwrap()
    }

    fn cause(name: &str, mode: u32, content: &[u8]) -> Cause {
        let path = file(name, mode, content);
        let cause = inspect(&path).unwrap_err().cause;
        std::fs::remove_file(path.to_str().unwrap()).unwrap();
        cause
    }

    fn header(class: u8, machine: u16, headers: u16) -> Vec<u8> {
        let mut elf = vec![0u8; 64];
        elf[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
        elf[18..20].copy_from_slice(&machine.to_le_bytes());
        elf[32] = 64;
        elf[54] = 56;
        elf[56..58].copy_from_slice(&headers.to_le_bytes());
        elf
    }

    #[test]
    fn what_debian_installs_is_protectable() {
        assert_eq!(
            inspect(c"/bin/sh"),
            Ok(Program {
                interpreter: None,
                python: false
            })
        );
        let script = file("script", 0o755, b"#! /bin/sh -e\n");
        let program = inspect(&script).unwrap();
        std::fs::remove_file(script.to_str().unwrap()).unwrap();
        assert_eq!(program.interpreter.unwrap().as_bytes(), b"/bin/sh");
    }

    #[test]
    fn an_open_file_is_judged_alike() {
        let file = std::fs::File::open("/bin/sh").unwrap();
        assert_eq!(
            inspect_open(file.as_fd()),
            Ok(Program {
                interpreter: None,
                python: false
            })
        );
    }

    #[test]
    fn files_that_do_not_start_are_told_apart() {
        assert_eq!(
            inspect(c"/nonexistent/x").unwrap_err().cause,
            Cause::NotFound
        );
        assert_eq!(inspect(c"/").unwrap_err().cause, Cause::Directory);
        assert_eq!(inspect(c"/dev/null").unwrap_err().cause, Cause::NotAFile);
        assert_eq!(cause("mode", 0o644, b"#!/bin/sh\n"), Cause::NotExecutable);
        assert_eq!(cause("text", 0o755, b"echo hello\n"), Cause::NoFormat);
        assert_eq!(cause("empty", 0o755, b""), Cause::NoFormat);
        assert_eq!(cause("bare", 0o755, b"#!  \n/bin/sh"), Cause::NoFormat);
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let script = file("lost", 0o755, b"#!/nonexistent/interpreter x\n");
        let error = inspect(&script).unwrap_err();
        std::fs::remove_file(script.to_str().unwrap()).unwrap();
        assert_eq!(error.cause, Cause::NotFound);
        assert_eq!(
            error.interpreter.unwrap().as_bytes(),
            b"/nonexistent/interpreter"
        );
    }

    #[test]
    fn a_script_that_runs_itself_ends() {
        let path = file("loop", 0o755, b"");
        let text = [b"#!", path.to_bytes(), b"\n"].concat();
        std::fs::write(path.to_str().unwrap(), text).unwrap();
        let cause = inspect(&path).unwrap_err().cause;
        std::fs::remove_file(path.to_str().unwrap()).unwrap();
        assert_eq!(cause, Cause::TooManyInterpreters);
    }

    #[test]
    fn elf_files_of_other_kinds_are_told_apart() {
        assert_eq!(cause("i386", 0o755, &header(1, 3, 0)), Cause::OtherMachine);
        assert_eq!(cause("x32", 0o755, &header(1, 62, 0)), Cause::OtherMachine);
        assert_eq!(
            cause("arm64", 0o755, &header(2, 183, 0)),
            Cause::OtherMachine
        );
        assert_eq!(cause("static", 0o755, &header(2, 62, 0)), Cause::Static);
        assert_eq!(cause("short", 0o755, &header(2, 62, 9)), Cause::Malformed);
        let mut many = header(2, 62, 100);
        many.resize(64 + 100 * 56, 0);
        assert_eq!(cause("many", 0o755, &many), Cause::Static);
        let last = 64 + 99 * 56;
        many[last] = 3;
        let end = many.len() as u64;
        many[last + 8..last + 16].copy_from_slice(&end.to_le_bytes());
        many[last + 32] = 30;
        many.extend_from_slice(b"/lib/ld-musl-x86_64.so.1\0");
        assert_eq!(
            cause("musl", 0o755, &many),
            Cause::OtherLoader(ShortPath::new(b"/lib/ld-musl-x86_64.so.1"))
        );
    }

    #[test]
    fn python_is_known_by_its_name() {
        for name in [
            "python",
            "/usr/bin/python3",
            "python3.11",
            "python3.13t",
            "python3-dbg",
        ] {
            assert!(is_python(name.as_bytes()), "{name}");
        }
        for name in [
            "pypy3",
            "python-config",
            "/opt/python/bin/perl",
            "ipython3",
            "",
        ] {
            assert!(!is_python(name.as_bytes()), "{name}");
        }
    }
}
