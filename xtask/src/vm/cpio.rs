//! Writing a cpio archive in the format "newc", which Linux unpacks as its first root file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What one name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    Symlink(String),
    /// A character device: major and minor number.
    Device(u32, u32),
    /// Contents of a file here, read as the archive is written.
    Copy(PathBuf, u32),
    Bytes(Vec<u8>, u32),
}

/// Files by their absolute name. The same files make the same bytes: owners are root and times 0.
#[derive(Debug, Default)]
pub(super) struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// A directory, and those above it.
    pub(super) fn directory(&mut self, name: &str) {
        self.add(name, Entry::Directory);
    }

    pub(super) fn symlink(&mut self, name: &str, target: &str) {
        self.add(name, Entry::Symlink(target.to_owned()));
    }

    pub(super) fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.add(name, Entry::Device(major, minor));
    }

    /// A program: the contents of `source`.
    pub(super) fn program(&mut self, name: &str, source: &Path) {
        self.add(name, Entry::Copy(source.to_owned(), 0o755));
    }

    pub(super) fn file(&mut self, name: &str, contents: impl Into<Vec<u8>>, mode: u32) {
        self.add(name, Entry::Bytes(contents.into(), mode));
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name.trim_start_matches('/'))
    }

    fn add(&mut self, name: &str, entry: Entry) {
        let name = name.trim_matches('/');
        for (at, _) in name.match_indices('/') {
            let above = name.get(..at).unwrap_or_default();
            self.entries
                .entry(above.to_owned())
                .or_insert(Entry::Directory);
        }
        self.entries.insert(name.to_owned(), entry);
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Where a file cannot be read, or `out` not be written.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        const DIRECTORY: u32 = 0o040_755;
        const SYMLINK: u32 = 0o120_777;
        const DEVICE: u32 = 0o020_600;
        const FILE: u32 = 0o100_000;
        for (inode, (name, entry)) in (1..).zip(&self.entries) {
            match entry {
                Entry::Directory => member(out, inode, name, DIRECTORY, (0, 0), &[])?,
                Entry::Symlink(target) => {
                    member(out, inode, name, SYMLINK, (0, 0), target.as_bytes())?;
                }
                Entry::Device(major, minor) => {
                    member(out, inode, name, DEVICE, (*major, *minor), &[])?;
                }
                Entry::Bytes(bytes, mode) => {
                    member(out, inode, name, FILE | mode, (0, 0), bytes)?;
                }
                Entry::Copy(source, mode) => {
                    let bytes = fs::read(source).map_err(|error| {
                        io::Error::new(error.kind(), format!("{}: {error}", source.display()))
                    })?;
                    member(out, inode, name, FILE | mode, (0, 0), &bytes)?;
                }
            }
        }
        member(out, 0, "TRAILER!!!", 0, (0, 0), &[])
    }
}

/// A header of 13 hexadecimal numbers, the name and the data, each filled up to 4 bytes.
fn member(
    out: &mut impl Write,
    inode: u32,
    name: &str,
    mode: u32,
    device: (u32, u32),
    data: &[u8],
) -> io::Result<()> {
    const HEADER: usize = 110;
    let size = u32::try_from(data.len()).map_err(|_| {
        io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{name}: more than 4 GiB"),
        )
    })?;
    let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    let name_size = name.len() + 1;
    write!(out, "070701{inode:08X}{mode:08X}{:08X}{:08X}", 0, 0)?;
    write!(out, "{links:08X}{:08X}{size:08X}{:08X}{:08X}", 0, 0, 0)?;
    write!(
        out,
        "{:08X}{:08X}{name_size:08X}{:08X}",
        device.0, device.1, 0
    )?;
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    fill(out, HEADER + name_size)?;
    out.write_all(data)?;
    fill(out, data.len())
}

fn fill(out: &mut impl Write, len: usize) -> io::Result<()> {
    let missing = len.next_multiple_of(4) - len;
    out.write_all([0; 3].get(..missing).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    fn sample() -> Archive {
        let mut archive = Archive::default();
        archive.directory("/empty");
        archive.symlink("/bin/sh", "busybox");
        archive.file("/etc/odd", b"seven b".as_slice(), 0o640);
        archive.file("/a/deep/file", b"1234".as_slice(), 0o644);
        archive.file("/a/none", b"".as_slice(), 0o600);
        archive
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        sample().write(&mut first).unwrap();
        sample().write(&mut second).unwrap();
        assert_eq!(first, second);
        assert_eq!(first.len() % 4, 0);
        assert!(first.starts_with(b"070701"));
        assert!(sample().has("/a/deep") && !sample().has("/b"));
    }

    /// Another program's reading of it: cpio's or bsdtar's, whichever is here.
    #[test]
    fn others_unpack_what_went_in() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        sample()
            .write(&mut fs::File::create(&image).unwrap())
            .unwrap();
        let out = directory.path().join("out");
        fs::create_dir(&out).unwrap();
        let there = |program: &str| {
            let mut command = Command::new(program);
            command.arg("--version").stdout(Stdio::null());
            command.stderr(Stdio::null()).status().is_ok()
        };
        let mut unpack = if there("cpio") {
            let mut command = Command::new("cpio");
            command.args(["--extract", "--make-directories", "--quiet"]);
            command.stdin(fs::File::open(&image).unwrap());
            command
        } else if there("bsdtar") {
            let mut command = Command::new("bsdtar");
            command.arg("-xf").arg(&image);
            command
        } else {
            println!("skipped: neither cpio nor bsdtar is here");
            return;
        };
        assert!(unpack.current_dir(&out).status().unwrap().success());
        assert_eq!(fs::read(out.join("etc/odd")).unwrap(), b"seven b");
        assert_eq!(fs::read(out.join("a/deep/file")).unwrap(), b"1234");
        assert_eq!(fs::read(out.join("a/none")).unwrap(), b"");
        assert!(out.join("empty").is_dir());
        assert_eq!(
            fs::read_link(out.join("bin/sh")).unwrap(),
            Path::new("busybox")
        );
        let mode = |name| fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("etc/odd"), mode("a/none")), (0o640, 0o600));
    }
}
