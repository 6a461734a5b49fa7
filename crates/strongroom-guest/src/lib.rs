//! Guest memory for virtual machine monitors.
//!
//! Every page is *private* (the guest's alone; the monitor is out of the trusted base) or *shared*
//! (handed out to the monitor and its devices). [`GuestRegion`] is a range of guest physical
//! memory whose pages are one or the other. Who touches a shared page holds a guard meanwhile;
//! a conversion to private waits for the guards that are out, and tells which page is held where
//! they do not go in time. How private is kept is a [`Backing`]'s business, and its
//! [receipt](GuestRegion::receipt) says what that protects from and what not.
//!
//! * [`region`]: guest physical ranges, guards, conversions.
//! * [`backing`]: how the pages are kept.
//! * [`page_table`]: address spaces of the guest, each with its own secrets.
//! * [`ram`]: the same as `vm-memory`'s traits, for everything that is written against those.

mod access;
pub mod backing;
mod dirty;
mod error;
mod futex;
mod guard;
pub mod kvm;
mod mapping;
pub mod page_table;
pub mod ram;
mod read_only;
mod record;
pub mod region;
mod slice;

pub use backing::{Backing, Limit};
pub use error::Error;
pub use futex::Futex;
pub use guard::{CountedGuard, Guard};
pub use ram::GuestRam;
pub use read_only::ReadOnly;
pub use region::{Contents, GuestRegion, Sigbus};
pub use strongroom_core::page::{PageState, Refused, Side, Why};
pub use strongroom_sys::PAGE;
