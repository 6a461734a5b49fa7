//! A file that is whole or not there.

use crate::failure::Failure;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a file beside `file` and renames it over it. Only its owner can read it: it tells the addresses
/// of a live process. What is no regular file (a pipe, a terminal) is written as it is.
pub(super) fn replace<T>(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> Result<T, Failure> {
    let shown = file.display();
    match fs::metadata(file) {
        Ok(there) if there.is_dir() => Err(Failure::new(
            format!("{shown} is a directory"),
            format!("name a file: --html {}", file.join("audit.html").display()),
        )),
        Ok(there) if !there.is_file() => File::options()
            .write(true)
            .open(file)
            .and_then(|out| Ok(through(out, write)?.1))
            .map_err(|error| Failure::new(format!("{shown} cannot be written: {error}"), "")),
        Ok(_) => {
            // A symbolic link stays one: what it leads to is replaced.
            let target = fs::canonicalize(file).map_err(|error| refused(file, &error))?;
            beside(&target, write)
        }
        Err(_) => beside(file, write),
    }
}

fn beside<T>(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> Result<T, Failure> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let new = tempfile::Builder::new()
        .prefix(".strongroom-audit-")
        .suffix(".html")
        .tempfile_in(&directory)
        .map_err(|error| refused(file, &error))?;
    // Where it fails the new file goes and the old one stays.
    through(new, write)
        .and_then(|(new, written)| {
            new.persist(file).map_err(|error| error.error)?;
            Ok(written)
        })
        .map_err(|error| refused(file, &error))
}

fn through<W: Write, T>(
    out: W,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> io::Result<(W, T)> {
    let mut out = BufWriter::new(out);
    let written = write(&mut out)?;
    let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok((out, written))
}

fn refused(file: &Path, error: &io::Error) -> Failure {
    let shown = file.display();
    // In words of our own where it can be: tempfile's errors name the path of its own file.
    let (cause, fix) = match error.kind() {
        io::ErrorKind::NotFound => (
            "its directory is not there".to_owned(),
            "name a directory that exists",
        ),
        io::ErrorKind::PermissionDenied => (
            "this user may not write in its directory".to_owned(),
            "name a directory that you may write",
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
            "there is no room left".to_owned(),
            "make room there, or name another directory",
        ),
        _ => (error.to_string(), ""),
    };
    Failure::new(format!("{shown} cannot be written: {cause}"), fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn text(text: &str) -> impl FnOnce(&mut dyn Write) -> io::Result<()> {
        move |out| out.write_all(text.as_bytes())
    }

    fn entries(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_beside_it() {
        let room = tempfile::tempdir().unwrap();
        let file = room.path().join("a.html");
        replace(&file, text("old")).unwrap();
        let failure = replace(&file, |out| {
            out.write_all(b"half")?;
            Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(failure.unwrap_err().to_string().contains("make room"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(entries(room.path()), 1);
        replace(&file, text("new")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(entries(room.path()), 1);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_stays_a_link_and_a_device_a_device() {
        let room = tempfile::tempdir().unwrap();
        let (file, link) = (room.path().join("file"), room.path().join("link"));
        fs::write(&file, "old").unwrap();
        symlink("file", &link).unwrap();
        replace(&link, text("new")).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        replace(Path::new("/dev/null"), text("gone")).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_directory_and_a_missing_one_are_refused_by_name() {
        let room = tempfile::tempdir().unwrap();
        let failure = replace(room.path(), text("")).unwrap_err().to_string();
        assert!(failure.contains("is a directory"), "{failure}");
        let lost = room.path().join("no").join("a.html");
        let failure = replace(&lost, text("")).unwrap_err().to_string();
        assert!(
            failure.contains(&format!("{} cannot be written", lost.display())),
            "{failure}"
        );
        assert!(
            failure.contains("name a directory that exists"),
            "{failure}"
        );
    }
}
