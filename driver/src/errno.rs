//! The errors of `driver/ABI.md`, by their numbers on x86-64 (include/uapi/asm-generic/errno*.h).

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Errno {
    /// No such memory: the object is dead.
    Nxio = 6,
    /// Out of memory: the pool has none, or the kernel has none for its tables.
    Nomem = 12,
    /// A mode is set, or the object is sealed.
    Busy = 16,
    /// An argument that cannot be.
    Inval = 22,
    /// The user holds too much.
    Dquot = 122,
}

impl Errno {
    /// As the kernel returns it.
    pub const fn negative(self) -> i32 {
        -(self as i32)
    }
}

/// 0 or a negative errno.
pub fn status(result: Result<(), Errno>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.negative(),
    }
}
