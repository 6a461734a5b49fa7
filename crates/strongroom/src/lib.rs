//! Secret memory for Linux.
//!
//! *Say what the memory is; a keeper decides how it is kept.*
//!
//! * [`Secret`] and [`SecretBytes`]: values in secret memory, wiped on drop.
//! * [`Region`]: whole pages with guards. [`Heap`]: allocations inside secret memory, for
//!   `allocator_api2` collections, as a program's allocator ([`SecretAllocator`]), or raw.
//! * [`conceal`]: makes memory that exists already secret, at the same address.
//! * [`Policy`]: what is required and what would be preferred. [`Receipt`]: what came of it.
//! * [`fork`]: what a child sees. [`keeper`]: the mechanisms.
//!
//! Each level's protections, and what is not promised, are in the project's threat model.

pub mod conceal;
pub mod fork;
pub mod heap;
pub mod keeper;
pub mod launch;
pub mod ledger;
pub mod line;
mod policy;
mod region;
pub mod resident;
mod secret;
mod wipe;

pub use heap::{Heap, SecretAllocator};
pub use policy::{Policy, Refused};
pub use region::Region;
pub use secret::{Reading, Secret, SecretBytes, Writing, receipt, start};
pub use strongroom_core::{Level, Protection, Protections, Reason, Receipt};
pub use wipe::wipe;

/// The README's example is compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
