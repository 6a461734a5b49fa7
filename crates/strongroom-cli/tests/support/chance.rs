//! Random bytes.

use std::io::Read;
use std::path::{Path, PathBuf};

/// `N` random bytes, none of them zero, newline or carriage return: they are at
/// home in C strings and in lines of text.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut random = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut urandom| urandom.read_exact(&mut random))
        .expect("/dev/urandom");
    random.map(|b| {
        if matches!(b, 0 | b'\n' | b'\r') {
            b'x'
        } else {
            b
        }
    })
}

/// `N` random lower-case letters: they survive every program's idea of text.
pub(crate) fn letters<const N: usize>() -> String {
    bytes::<N>()
        .iter()
        .map(|b| char::from(b'a' + b % 26))
        .collect()
}

/// Writes `contents` to a new file that anybody may read.
pub(crate) fn file(directory: &Path, name: &str, contents: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, contents).expect("a file in the test's own directory");
    path
}
