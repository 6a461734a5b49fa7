//! Which file a command names, as execvp(3) decides it.

use crate::failure::Failure;
use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use std::env;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The exit status for a program that is there and cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The exit status for a program that is not there.
pub(crate) const NOT_FOUND: u8 = 127;

/// Where execvp(3) looks without PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
const SHELL: &CStr = c"/bin/sh";

/// A file and the arguments to start it with.
#[derive(Debug)]
pub(crate) struct Executable {
    /// The file.
    pub(crate) path: CString,
    /// argv, with the name that the user gave in front.
    pub(crate) arguments: Vec<OsString>,
}

impl Executable {
    /// The path for people to read.
    pub(crate) fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// The shell that runs the file.
    pub(crate) fn by_shell(self) -> Self {
        let file = OsString::from_vec(self.path.into_bytes());
        let arguments = [OsString::from("/bin/sh"), file]
            .into_iter()
            .chain(self.arguments.into_iter().skip(1));
        Self {
            path: SHELL.to_owned(),
            arguments: arguments.collect(),
        }
    }
}

/// Finds the file of `command`, whose first element is the name.
pub(crate) fn find(command: &[OsString]) -> Result<Executable, Failure> {
    let name = command.first().map_or(OsStr::new(""), OsString::as_os_str);
    let search = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let path = in_path(name, &search)?;
    Ok(Executable {
        path,
        arguments: command.to_vec(),
    })
}

fn in_path(name: &OsStr, search: &OsStr) -> Result<CString, Failure> {
    let not_found = |cause: &str, fix: &'static str| {
        let name = name.to_string_lossy();
        Failure::new(format!("cannot run {name}: {cause}"), fix).with_status(NOT_FOUND)
    };
    if name.is_empty() {
        return Err(not_found("the name is empty", ""));
    }
    let c_string = |bytes: Vec<u8>| {
        CString::new(bytes).map_err(|_| not_found("its name holds a zero byte", ""))
    };
    if name.as_bytes().contains(&b'/') {
        return c_string(name.as_bytes().to_vec());
    }
    let mut denied = None;
    for directory in search.as_bytes().split(|&b| b == b':') {
        let directory = if directory.is_empty() {
            b"."
        } else {
            directory
        };
        let path = c_string([directory, b"/", name.as_bytes()].concat())?;
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(Errno::ACCESS) => denied = denied.or(Some(path)),
            Err(_) => {}
        }
    }
    match denied {
        Some(path) => {
            let path = path.to_string_lossy();
            Err(Failure::new(
                format!("cannot run {path}: permission denied"),
                "see that it is executable (chmod +x) and that its directory may be searched",
            )
            .with_status(NOT_EXECUTABLE))
        }
        None => Err(not_found(
            "no such program in PATH",
            "give its path, or install it",
        )),
    }
}

fn executable(path: &CStr) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    match FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(Errno::ACCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn status(name: &str, search: &str) -> u8 {
        in_path(name.as_ref(), search.as_ref())
            .unwrap_err()
            .status()
    }

    #[test]
    fn the_first_that_can_be_executed_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let first = directory.path().join("first");
        fs::create_dir_all(first.join("a-directory")).unwrap();
        fs::write(first.join("sh"), "").unwrap();
        fs::write(first.join("only-text"), "").unwrap();
        let search = format!("/nonexistent:{}:/bin", first.display());
        assert_eq!(
            in_path("sh".as_ref(), search.as_ref()).unwrap().as_c_str(),
            c"/bin/sh"
        );
        assert_eq!(
            in_path("./sh".as_ref(), search.as_ref())
                .unwrap()
                .as_c_str(),
            c"./sh"
        );
        assert_eq!(status("only-text", &search), NOT_EXECUTABLE);
        assert_eq!(status("a-directory", &search), NOT_EXECUTABLE);
        assert_eq!(status("no-such-program", &search), NOT_FOUND);
        assert_eq!(status("", &search), NOT_FOUND);
    }
}
