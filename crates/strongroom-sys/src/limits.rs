//! Resource limits and the sysctls that bound memory.

use crate::Errno;
use rustix::fs::{Mode, OFlags};
pub use rustix::process::{Resource, Rlimit};

/// getrlimit(2); `None` is unlimited.
pub fn get(resource: Resource) -> Rlimit {
    rustix::process::getrlimit(resource)
}

/// setrlimit(2).
///
/// # Errors
/// EPERM for raising a hard limit without CAP_SYS_RESOURCE.
pub fn set(resource: Resource, limit: Rlimit) -> Result<(), Errno> {
    rustix::process::setrlimit(resource, limit)
}

/// A file of /proc or /sys that holds one number, without allocating.
///
/// # Errors
/// Those of open and read; EINVAL where the file holds no number.
pub fn number_in(path: &core::ffi::CStr) -> Result<u64, Errno> {
    let mut text = [0u8; 32];
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let len = rustix::io::read(&file, &mut text)?;
    core::str::from_utf8(&text[..len])
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or(Errno::INVAL)
}

/// Calls `open`, and where the process has used up its descriptors (EMFILE), once more with the
/// soft limit lifted for that moment, as far as the hard one allows.
///
/// # Errors
/// Those of `open`.
pub fn with_one_more_descriptor<T>(open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    let result = open();
    if !matches!(result, Err(Errno::MFILE)) {
        return result;
    }
    let before = get(Resource::Nofile);
    let lifted = before.current.map(|soft| soft.saturating_add(64));
    let current = match (lifted, before.maximum) {
        (Some(lifted), Some(hard)) => Some(lifted.min(hard)),
        (lifted, _) => lifted,
    };
    set(Resource::Nofile, Rlimit { current, ..before })?;
    let result = open();
    // Back to a lower soft limit: that is always allowed.
    set(Resource::Nofile, before)?;
    result
}
