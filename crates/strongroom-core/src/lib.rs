//! The words of strongroom, for user space and kernel alike.
//!
//! This crate allocates nothing, calls nothing and knows no operating system: it
//! is what the library, the command, the preload object and the kernel driver
//! agree on.
//!
//! * [`Protection`]: one thing an adversary cannot do; [`Protections`] is a set of them.
//! * [`Level`]: a named set of protections.
//! * [`Reason`]: why a protection is missing, with the cause and the fix in words.
//! * [`Receipt`]: asked, held, missing and why.
//! * [`driver`]: what the kernel driver is told and what it answers.
//! * [`pool::RunPool`]: which pages of an address range are free, in O(log n).
//! * [`pool::ChunkPool`]: the same for 2 MiB chunks that are cut into pages and joined again.
//! * [`page::PageStates`]: which pages of a guest are private, shared, or on the way.
//! * [`gate::Gate`]: holds virtual processors out of a guest.

#![no_std]

pub mod driver;
pub mod gate;
pub mod level;
pub mod page;
pub mod pool;
pub mod protection;
pub mod reason;
pub mod receipt;

pub use level::Level;
pub use protection::{Protection, Protections};
pub use reason::Reason;
pub use receipt::Receipt;
