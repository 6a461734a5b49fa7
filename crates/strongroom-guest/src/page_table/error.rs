//! Why a context was not changed.

use super::ContextId;

/// Why a context was not changed. None of these leaves anything changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address or a length is not a multiple of 4 KiB.
    #[error("{0:#x} is not a multiple of 4096")]
    Misaligned(u64),
    /// No bytes, or not all of them at addresses that the tables translate: in the lower or the upper
    /// 128 TiB.
    #[error("no such virtual addresses: {length:#x} bytes from {start:#x}")]
    NotCanonical {
        /// The first address.
        start: u64,
        /// How many bytes.
        length: u64,
    },
    /// Past the last physical address that the processor has.
    #[error("no such physical addresses: {length:#x} bytes from {start:#x}")]
    Beyond {
        /// The first address.
        start: u64,
        /// How many bytes.
        length: u64,
    },
    /// Something is mapped there already.
    #[error("{0:#x} is mapped already")]
    Mapped(u64),
    /// Nothing is mapped there.
    #[error("{0:#x} is not mapped")]
    NotMapped(u64),
    /// A table would be reachable by a context, which could then change itself.
    #[error("physical {0:#x} is of the pool of tables, which no context may map")]
    TablePage(u64),
    /// The page is in another context's, or this one's, exclusive use.
    #[error("physical {physical:#x} is exclusive to {owner}")]
    Exclusive {
        /// Its physical address.
        physical: u64,
        /// Who has it.
        owner: ContextId,
    },
    /// It cannot become exclusive: it is mapped already.
    #[error("physical {physical:#x} is mapped {times} times already and cannot be exclusive")]
    Common {
        /// Its physical address.
        physical: u64,
        /// How often, in all contexts.
        times: u32,
    },
    /// The context may have run, and KVM would go on with what it remembers of its tables.
    #[error("KVM shadows the tables here: {0} may have run, and can only be added to or dropped")]
    Shadowed(ContextId),
    /// The pool has too few pages for the tables.
    #[error("{needed} or more tables are needed, and the pool has {free}")]
    Exhausted {
        /// At least so many.
        needed: usize,
        /// How many there are.
        free: usize,
    },
    /// A page of the pool is not there to be written: private, for instance.
    #[error("a table cannot be written: {0}")]
    Table(#[from] crate::Error),
    /// KVM said no.
    #[error("{call}: error {errno}")]
    Kvm {
        /// The call.
        call: &'static str,
        /// What it said.
        errno: i32,
    },
}
