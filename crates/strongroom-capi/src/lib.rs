//! The C library: `libstrongroom.so`, `libstrongroom.a` and `strongroom.h` over the crate `strongroom`.
//!
//! Each exported function checks what it was given, calls the crate, and says by a code and a text what
//! became of it: no mechanism of its own. `include/strongroom.h` is the manual; what is here says why.
//!
//! * [`error`]: codes, and the last failure of each thread.
//! * [`policy`], [`region`], [`heap`], [`malloc`], [`conceal`], [`mod@wipe`]: the crate's parts.
//! * [`receipt`]: receipts as text. [`version`]: which library this is.
//!
//! **Nothing unwinds into C.** Every function is `extern "C"`, out of which a panic cannot unwind: it ends
//! the process, as the heap itself does where its user broke it. Turned into an error code it would let a
//! program go on with a lock or a heap in an unknown state. No path here is meant to panic: the lints below
//! deny what could.
//!
//! **Nothing is done until the first call.** There is no constructor, no thread and no allocator of the
//! program's: what the library needs for itself, it takes from the program's `malloc`, and no secret is in it.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::missing_safety_doc
)]

pub mod conceal;
pub mod error;
mod handle;
pub mod heap;
pub mod malloc;
pub mod policy;
pub mod receipt;
pub mod region;
pub mod version;
pub mod wipe;
