//! Where the preload object is.

use crate::failure::Failure;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const NAME: &str = "libstrongroom_preload.so";
/// The object that this command was built with.
static EMBEDDED: &[u8] = include_bytes!(env!("STRONGROOM_PRELOAD_FILE"));
/// Tells the objects of different builds apart; contents are compared, not trusted by this.
const HASH: &str = env!("STRONGROOM_PRELOAD_HASH");

/// The object's path, with no symbolic link in it and as the loader takes it.
#[derive(Debug)]
pub(super) struct Object(PathBuf);

impl Object {
    /// The path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// `path` as /proc/PID/maps will show it, where LD_PRELOAD can name it at all.
    fn at(path: &Path) -> Result<Self, Unusable> {
        let path = fs::canonicalize(path).map_err(|error| Unusable(error.to_string()))?;
        // ld.so(8): spaces and colons separate, `$` starts a dynamic string token.
        if path
            .as_os_str()
            .as_bytes()
            .iter()
            .any(|b| b" :$\n".contains(b))
        {
            return Err(Unusable(
                "LD_PRELOAD cannot name a path with a space, a colon, a `$` or a newline".into(),
            ));
        }
        Ok(Self(path))
    }
}

/// Why a place does not serve.
#[derive(Debug)]
struct Unusable(String);

/// The object: from the directory that the user names, beside the command, or the one in
/// the command, written to a private place once.
pub(super) fn object(named: Option<&Path>) -> Result<Object, Failure> {
    if let Some(directory) = named {
        let path = directory.join(NAME);
        return Object::at(&path).map_err(|Unusable(cause)| {
            Failure::new(
                format!(
                    "the preload object {} cannot be used: {cause}",
                    path.display()
                ),
                format!("name a directory that holds {NAME}, or leave --preload-dir out"),
            )
        });
    }
    if let Some(object) = installed() {
        return Ok(object);
    }
    let mut causes = Vec::new();
    for base in private_places() {
        match written(&base) {
            Ok(object) => return Ok(object),
            Err(Place::Unusable(Unusable(cause))) => {
                causes.push(format!("{}: {cause}", base.display()))
            }
            Err(Place::Tampered(failure)) => return Err(failure),
        }
    }
    Err(Failure::new(
        format!(
            "the preload object can be written nowhere: {}",
            causes.join("; ")
        ),
        format!("put {NAME} into a directory and name that by --preload-dir"),
    ))
}

/// The object of an installation, if it is the very one that this command was built with.
fn installed() -> Option<Object> {
    let command = std::env::current_exe().ok()?;
    let directory = command.parent()?;
    [
        directory.join(NAME),
        directory.join("../lib/strongroom").join(NAME),
    ]
    .iter()
    .find(|path| open_ours(path).is_ok_and(|file| file.is_some()))
    .and_then(|path| Object::at(path).ok())
}

/// Directories that only this user can write to, best first.
fn private_places() -> Vec<PathBuf> {
    let user = rustix::process::geteuid();
    let mut places: Vec<PathBuf> = if user.is_root() {
        vec!["/run/strongroom".into(), "/var/cache/strongroom".into()]
    } else {
        let variable = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let cache =
            variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        cache
            .map(|cache| cache.join("strongroom"))
            .into_iter()
            .collect()
    };
    places.push(format!("/tmp/strongroom-{}", user.as_raw()).into());
    places
}

/// Why a private place does not serve.
enum Place {
    /// Try another.
    Unusable(Unusable),
    /// Somebody has been there: go no further.
    Tampered(Failure),
}

impl From<io::Error> for Place {
    fn from(error: io::Error) -> Self {
        Place::Unusable(Unusable(error.to_string()))
    }
}

/// The object under `base`, written there if it is not yet.
fn written(base: &Path) -> Result<Object, Place> {
    let directory = base.join(HASH);
    let path = directory.join(NAME);
    if !is_private(base)? {
        return Err(Place::Unusable(Unusable(
            "it belongs to someone else".into(),
        )));
    }
    may_execute(base)?;
    if !is_private(&directory)? {
        return Err(tampered(&directory));
    }
    // Once to see, and once more where it had to be written.
    for _ in 0..2 {
        match open_ours(&path) {
            Ok(Some(_)) => return Object::at(&path).map_err(Place::Unusable),
            Err(error) if error.kind() == ErrorKind::NotFound => write(&directory, &path)?,
            Err(error) if error.raw_os_error() != Some(Errno::LOOP.raw_os_error()) => {
                return Err(error.into());
            }
            Ok(None) | Err(_) => break,
        }
    }
    Err(tampered(&path))
}

fn write(directory: &Path, path: &Path) -> io::Result<()> {
    let temporary = directory.join(format!(".{NAME}.{}", std::process::id()));
    // Left behind by a process of this number that was killed.
    let _ = fs::remove_file(&temporary);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&temporary)?;
    let done = file
        .write_all(EMBEDDED)
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o755)))
        // A link, not a rename: where two start at once the first one's file stays in place,
        // since the other may be loading it.
        .and_then(|()| match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        });
    fs::remove_file(&temporary)?;
    done
}

/// Whether `directory`, made here if it is missing, is ours and nobody else's to write to.
fn is_private(directory: &Path) -> io::Result<bool> {
    let status = match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_private(directory)?;
            fs::symlink_metadata(directory)?
        }
        status => status?,
    };
    Ok(status.is_dir() && belongs_to_us(&status))
}

fn make_private(directory: &Path) -> io::Result<()> {
    let mode = if rustix::process::geteuid().is_root() {
        0o755
    } else {
        0o700
    };
    if let Some(parent) = directory.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(parent)?;
    }
    match DirBuilder::new().mode(mode).create(directory) {
        // Programs that root starts may go on as another user, whatever root's umask is.
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(mode)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn belongs_to_us(status: &fs::Metadata) -> bool {
    let owner = status.uid();
    (owner == rustix::process::geteuid().as_raw() || owner == 0) && status.mode() & 0o022 == 0
}

/// An error where the loader could not map code from there: /run is noexec on Debian.
fn may_execute(directory: &Path) -> Result<(), Place> {
    match rustix::fs::statvfs(directory) {
        Ok(mount) if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) => {
            Err(Place::Unusable(Unusable("it is on a noexec mount".into())))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// The open file, if it belongs to us and is byte for byte the embedded one.
fn open_ours(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let status = file.metadata()?;
    if !status.is_file() || !belongs_to_us(&status) || status.len() != EMBEDDED.len() as u64 {
        return Ok(None);
    }
    let mut buffer = [0; 64 * 1024];
    for expected in EMBEDDED.chunks(buffer.len()) {
        let read = &mut buffer[..expected.len()];
        match file.read_exact(read) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        if read != expected {
            return Ok(None);
        }
    }
    Ok(Some(file))
}

fn tampered(path: &Path) -> Place {
    let path = path.display();
    Place::Tampered(Failure::new(
        format!("{path} is not what strongroom wrote there: its owner, mode or content differs"),
        format!("find out who changed it, then remove it: rm -r {path}"),
    ))
}
