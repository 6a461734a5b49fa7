//! Where receipts go, and the one that the launcher itself writes.

use crate::failure::Failure;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::FdFlags;
use serde::Serialize;
use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use strongroom::launch::config::{Config, ReceiptDescriptor};
use strongroom_core::{Level, Protections, Reason, Receipt};

/// Descriptor numbers to try, from one that programs hardly use down to what a small
/// RLIMIT_NOFILE leaves.
const NUMBERS: [i32; 4] = [400, 200, 50, 10];

/// An open file for receipts, which the program inherits.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    path: Option<PathBuf>,
    descriptor: ReceiptDescriptor,
}

impl Sink {
    /// Opens `target`; `-` is standard output.
    pub(super) fn open(target: &Path) -> Result<Self, Failure> {
        let fail = |error: rustix::io::Errno| {
            Failure::new(
                format!(
                    "receipts cannot be written to {}: {error}",
                    target.display()
                ),
                "name a file that can be written, or `-` for standard output",
            )
        };
        let (file, path) = if target == Path::new("-") {
            (out_of_the_way(std::io::stdout()).map_err(fail)?, None)
        } else {
            // A receipt tells what is not protected: that is not for everyone.
            let flags =
                OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
            let file = rustix::fs::open(target, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
            (
                out_of_the_way(file).map_err(fail)?,
                std::path::absolute(target).ok(),
            )
        };
        let status = rustix::fs::fstat(&file).map_err(fail)?;
        let path = path.or_else(|| name_of(&file, &status));
        let descriptor = ReceiptDescriptor {
            fd: file.as_raw_fd(),
            device: status.st_dev,
            inode: status.st_ino,
        };
        Ok(Self {
            file: file.into(),
            path,
            descriptor,
        })
    }

    /// What the program inherits.
    pub(super) fn descriptor(&self) -> ReceiptDescriptor {
        self.descriptor
    }

    /// What it opens where it has closed that.
    pub(super) fn path(&self) -> Option<&[u8]> {
        self.path.as_ref().map(|path| path.as_os_str().as_bytes())
    }
}

/// The receipt of a process in which nothing of ours runs.
#[derive(Debug)]
pub(super) struct Unprotected<'a> {
    /// Where it goes.
    pub(super) sink: Option<&'a Sink>,
    /// What runs.
    pub(super) command: &'a [OsString],
    /// What was asked.
    pub(super) config: &'a Config<'a>,
}

impl Unprotected<'_> {
    /// Writes it.
    pub(super) fn record(&self, pid: i32) {
        let Some(sink) = self.sink else { return };
        let mut asked = self.config.level.unwrap_or(Level::Hidden).protections();
        if !self.config.dumpable {
            asked |= Protections::NO_INJECT;
        }
        let line = Line {
            schema: 1,
            pid,
            command: self
                .command
                .iter()
                .map(|word| word.to_string_lossy())
                .collect(),
            scope: self.config.scope.name(),
            keeper: None,
            receipt: Receipt::new(asked).lack(asked, Reason::CannotPreload),
            bytes: 0,
            chunks: 0,
            ranges: 0,
            forks_copied: 0,
            bytes_inherited: 0,
        };
        let written = serde_json::to_vec(&line)
            .map_err(std::io::Error::from)
            .and_then(|mut text| {
                text.push(b'\n');
                // One write: lines of several processes must not mix.
                (&sink.file).write_all(&text)
            });
        if let Err(error) = written {
            crate::failure::warn(&format!("the receipt could not be written: {error}"));
        }
    }
}

/// The same file under a high number that exec leaves open.
fn out_of_the_way(file: impl std::os::fd::AsFd) -> Result<OwnedFd, rustix::io::Errno> {
    let mut result = Err(rustix::io::Errno::MFILE);
    for number in NUMBERS {
        result = rustix::io::fcntl_dupfd_cloexec(&file, number);
        if result.is_ok() {
            break;
        }
    }
    let file = result?;
    rustix::io::fcntl_setfd(&file, FdFlags::empty())?;
    Ok(file)
}

/// The path of standard output, where that is a file or a terminal that opens anew.
fn name_of(file: &OwnedFd, status: &rustix::fs::Stat) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let again = rustix::fs::stat(&path).ok()?;
    let same = (again.st_dev, again.st_ino) == (status.st_dev, status.st_ino);
    let kind = FileType::from_raw_mode(status.st_mode);
    (same && matches!(kind, FileType::RegularFile | FileType::CharacterDevice)).then_some(path)
}

/// The fields that the preload object writes, too.
#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    pid: i32,
    command: Vec<Cow<'a, str>>,
    scope: &'a str,
    keeper: Option<&'a str>,
    #[serde(flatten)]
    receipt: Receipt,
    bytes: u64,
    chunks: u64,
    ranges: u64,
    forks_copied: u64,
    bytes_inherited: u64,
}
