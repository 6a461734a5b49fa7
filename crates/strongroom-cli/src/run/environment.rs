//! The environment that the program starts with.

use super::preload::Object;
use crate::failure::Failure;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use strongroom::launch::config::{Config, Scope, VARIABLE};

const PRELOAD: &str = "LD_PRELOAD";
const PYTHON: &str = "PYTHONMALLOC";

/// This process's environment, with the settings and the preload object in it.
pub(super) fn protected(
    config: &Config<'_>,
    object: &Object,
    python: bool,
) -> Result<Vec<CString>, Failure> {
    let python = python && config.scope == Scope::Heap;
    let mut variables: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| name != PRELOAD && name != VARIABLE && !(python && name == PYTHON))
        .map(|(name, value)| assignment(name, &value))
        .collect();
    let before = std::env::var_os(PRELOAD).unwrap_or_default();
    variables.push(assignment(
        PRELOAD.into(),
        &preloads(object.path().as_os_str(), &before),
    ));
    let mut settings = config.to_string().into_bytes();
    if let Some(path) = config.receipt_path {
        settings.extend_from_slice(Config::PATH_KEY);
        settings.extend_from_slice(path);
    }
    variables.push(assignment(VARIABLE.into(), &OsString::from_vec(settings)));
    if python {
        variables.push(assignment(
            PYTHON.into(),
            &python_allocator(std::env::var_os(PYTHON)),
        ));
    }
    variables
        .into_iter()
        .map(|variable| {
            CString::new(variable)
                .map_err(|_| Failure::new("the receipt's path holds a zero byte", ""))
        })
        .collect()
}

/// This process's environment.
pub(super) fn unprotected() -> Vec<CString> {
    std::env::vars_os()
        .filter_map(|(name, value)| CString::new(assignment(name, &value)).ok())
        .collect()
}

fn assignment(name: OsString, value: &OsStr) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_bytes()].concat()
}

/// Ours first, so that its functions win and its constructor runs before others' could allocate;
/// then what was there.
fn preloads(ours: &OsStr, before: &OsStr) -> OsString {
    let others = before
        .as_bytes()
        .split(|b| matches!(b, b':' | b' '))
        .filter(|path| !path.is_empty() && *path != ours.as_bytes());
    let all: Vec<_> = std::iter::once(ours.as_bytes()).chain(others).collect();
    OsString::from_vec(all.join(&b':'))
}

/// Python's own allocator takes arenas by mmap, past malloc.
fn python_allocator(before: Option<OsString>) -> OsString {
    before
        .filter(|value| value == "malloc_debug")
        .unwrap_or_else(|| "malloc".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_preloads_stay_and_ours_is_first_and_once() {
        let ours = OsStr::new("/x/ours.so");
        assert_eq!(preloads(ours, OsStr::new("")), "/x/ours.so");
        assert_eq!(
            preloads(ours, OsStr::new("a.so b.so::/x/ours.so")),
            "/x/ours.so:a.so:b.so"
        );
    }
}
