//! The victim: a process with a secret in one buffer, which does what it is told by lines on its
//! standard input.
//!
//! It reads the secret by read(2) straight into the buffer, so that no copy of it is on the stack
//! or the heap, and nothing here allocates once the buffer is there, but to start programs and to
//! break the rules of its own allocator.

mod bounds;
mod buffer;
mod cache;
mod kin;
mod monitor;
mod speech;
mod store;

pub(crate) use bounds::FILL;
pub use monitor::{Monitor, UnderSlice, live_with_guest, secret_of};
pub use store::{Kind, Store};

use buffer::Buffer;
use speech::{Line, code, say, say_all};
use strongroom_sys::peek;

/// Where in its page the secret is: past what an allocator writes into freed memory.
pub const OFFSET: usize = 1024;
/// How long the secret is, in bytes.
pub const LENGTH: usize = 64;

/// The hash by which a victim tells what is in its buffer without showing it (FNV-1a).
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Lives as a victim until it is told `end` or its standard input closes. Returns its exit status.
pub fn live(store: &dyn Store) -> u8 {
    peek::let_anyone_trace();
    let buffer = match Buffer::new(store) {
        Ok(buffer) => buffer,
        Err(error) => {
            let _ = say(format_args!("refused {}", error.raw_os_error()));
            return 1;
        }
    };
    let ready = say(format_args!(
        "ready {} {} {LENGTH}",
        strongroom_sys::process::id(),
        buffer.secret() as usize
    ));
    if ready.is_err() || buffer.fill().is_err() {
        return 1;
    }
    let mut line = Line::default();
    while line.read().is_ok() {
        let done = match line.words() {
            ("end", _) => return 0,
            ("hash", _) => say(format_args!("hash {:x}", buffer.hash())),
            ("receipt", _) => say_all(store.receipt().unwrap_or_default().as_bytes())
                .and_then(|()| say(format_args!(""))),
            ("fork", _) => kin::fork(&buffer),
            ("start-heir", _) => kin::start_heir(buffer.secret() as usize),
            ("start-grandchild", _) => kin::start_grandchild(buffer.secret() as usize),
            ("vmsplice", _) => buffer.vmsplice(),
            ("direct", path) => say(format_args!("direct {}", code(buffer.direct(path)))),
            ("io-uring", _) => buffer.io_uring(),
            ("dump", _) => buffer.dump(),
            ("page-out", _) => buffer.page_out(),
            ("load", _) => bounds::load(&buffer),
            ("over-read", _) => bounds::over_read(&buffer),
            ("over-write", _) => bounds::over_write(&buffer),
            ("double-free", _) => bounds::double_free(store),
            ("reload", _) => cache::reload(&buffer),
            ("free", _) => {
                buffer.free();
                say(format_args!("freed"))
            }
            ("abort", _) => std::process::abort(),
            _ => say(format_args!("unknown")),
        };
        if done.is_err() {
            return 1;
        }
    }
    0
}
