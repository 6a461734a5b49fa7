//! Address spaces of a guest: x86-64 page tables in guest memory, each a context of its own in which
//! only its secrets are mapped.
//!
//! [`Tables`] has a pool of guest pages for tables and knows which physical pages are mapped where.
//! A [`Context`] is one address space: [map](Context::map), [protect](Context::protect),
//! [restrict](Context::restrict), [unmap](Context::unmap), [copy](Context::try_clone), [copy in
//! parts](Context::restricted_to), [switch to](Context::switch). A page that is mapped
//! [`Sharing::Exclusive`] is in one context, once, and in no copy of it.
//!
//! # What is the truth
//!
//! What a context maps is kept in the monitor, as runs of pages, and its tables are made from that: which
//! tables there are and what is in them depends on the mapped pages alone, not on how they came
//! to be mapped. So a part of a 2 MiB or 1 GiB entry that is changed splits it, and what becomes
//! equal again becomes one entry again. Nothing is ever read from guest memory to decide anything: a guest
//! that can write to its tables confuses itself, and [`Context::check`] finds where. No context may map
//! a page of the pool. Bits for accessed and dirty are set beforehand, so that the processor does not
//! write to tables either.
//!
//! # When things take effect
//!
//! Changes are all or nothing. Before the first entry is written, all new tables are taken from
//! the pool and all tables that change are held by guards, so that a pool that is too small and a
//! table that is private already are errors which change nothing. Entries are written as whole words,
//! a new table before the entry that leads to it. A processor that runs the context meanwhile sees the
//! old or the new entry, or goes on with what it has cached, which nobody outside can flush: what was
//! unmapped from a context that may have run stays taken, tables and exclusive pages alike, until
//! [`Context::flushed`] or [`Context::flush`] says that the processors have forgotten it.
//!
//! All this is so where the processor walks the tables (nested paging). Where KVM shadows them it goes on with what it
//! remembers, whatever CR3 is loaded, as it sees a guest's writes to tables and not the monitor's (measured: a
//! page that was unmapped and flushed was read). With [`Features::shadowed`] a context that may have run can
//! only be added to or dropped, and its tables do not go back to the pool.
//!
//! # Who can change a context
//!
//! The monitor, while the pool's pages are shared. Made private, they stay as they are: contexts can be
//! switched to and dropped, and everything else is refused. A guest kernel can load any tables
//! that it makes itself; contexts confine what runs in user mode.
//!
//! # The monitor's own mappings
//!
//! This type does not describe them. The tables of a process are the kernel's, made from its list of
//! mappings (VMAs), which user space changes by mmap(2) and mprotect(2) and reads in /proc/self/maps. A
//! second list here would be one more truth, wrong as soon as a library maps anything. What serves in user
//! space is one mapping with an owner, which is what regions, guards and backings are. What the two
//! have in common, runs of pages with rights that split and join, is [`Context::runs`].

mod context;
mod entry;
mod error;
mod extent;
mod switch;
mod tables;
mod tree;
mod uses;
mod walk;

pub use context::{Context, Difference, Run};
pub use entry::{Access, Size};
pub use error::Error;
pub use switch::shadowed;
pub use tables::{Features, Tables};
pub use walk::{Fault, Translation, translate};

use core::fmt;

/// Which context; never used again after it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(u64);

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "context {}", self.0)
    }
}

/// In how many contexts a page may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Any number, any number of times.
    Common,
    /// One, once.
    Exclusive,
}
