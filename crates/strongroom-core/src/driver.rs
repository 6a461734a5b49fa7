//! The interface of the kernel driver: what `/dev/strongroom` is told and what it answers.
//!
//! The driver and its callers share these types; `driver/ABI.md` says what each call does, and
//! `driver/shim/strongroom_abi.h` is the same for C. Sizes are in bytes. Every structure begins with its
//! own size and the interface's version: a call with others fails with EINVAL and changes nothing.
//! Fields called `reserved` are zero.

use crate::Level;

/// The version of this interface.
pub const VERSION: u32 = 1;
/// The device file.
pub const DEVICE: &str = "/dev/strongroom";
/// The smallest piece of secret memory, 4 KiB: sizes and offsets are multiples of it.
pub const PAGE: u64 = 4096;
/// What one huge entry maps, 2 MiB: with [`Mode::HUGE`] sizes, offsets and addresses are multiples of it.
pub const HUGE_PAGE: u64 = 2 << 20;
/// The largest object.
pub const MAX_BYTES: u64 = 1 << 46;

/// All calls have this as their type, which Documentation/userspace-api/ioctl/ioctl-number.rst (6.12)
/// gives to nobody; their numbers stay away from FIBMAP (1) and FIGETBSZ (2).
const TYPE: u32 = 0xd6;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// As _IOC of include/uapi/asm-generic/ioctl.h.
const fn number(direction: u32, number: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | TYPE << 8 | number
}

/// `ioctl(fd, GET_ABI, &mut Abi)`: what this driver is and can do. Anyone may ask.
pub const GET_ABI: u32 = number(READ | WRITE, 0x40, size_of::<Abi>());
/// `ioctl(fd, SET_MODE, &ModeRequest)`: makes the caller's address space the owner; once for each object.
pub const SET_MODE: u32 = number(WRITE, 0x41, size_of::<ModeRequest>());
/// `ioctl(fd, SEAL)`: no further mapping of this object.
pub const SEAL: u32 = number(0, 0x42, 0);
/// `ioctl(fd, GET_INFO, &mut Info)`: the state of the pool; with CAP_SYS_ADMIN.
pub const GET_INFO: u32 = number(READ | WRITE, 0x43, size_of::<Info>());
/// `ioctl(fd, GET_HOLDERS, &mut HoldersRequest)`: who holds how much; with CAP_SYS_ADMIN.
pub const GET_HOLDERS: u32 = number(READ | WRITE, 0x44, size_of::<HoldersRequest>());
/// `ioctl(fd, HIDE, &RangeRequest)`: touches of these addresses, in a mapping of this object, raise SIGBUS from
/// now on; what is there stays, and other mappings show it. The owner.
pub const HIDE: u32 = number(WRITE, 0x45, size_of::<RangeRequest>());
/// `ioctl(fd, SHOW, &RangeRequest)`: undoes [`HIDE`]. The owner.
pub const SHOW: u32 = number(WRITE, 0x46, size_of::<RangeRequest>());

bitflags::bitflags! {
    /// What an object's memory is. Bits can be mixed, but for the two that say how it is cached.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Mode: u64 {
        /// One address space maps it, the one that set the mode. Required: there is no other kind.
        const EXCLUSIVE = 1 << 0;
        /// No processor caches it (the memory type UC).
        const UNCACHED = 1 << 1;
        /// Reads are not cached, writes are put together (WC). Not with `UNCACHED`.
        const WRITE_COMBINING = 1 << 2;
        /// It is mapped by 2 MiB entries and cannot be cut otherwise.
        const HUGE = 1 << 3;
        /// It is mapped once: sealed as soon as it is.
        const SEALED = 1 << 4;
    }
}

impl Mode {
    /// The mode that serves a level (requirement B5).
    pub const fn of_level(level: Level) -> Mode {
        match level {
            Level::Locked => Mode::EXCLUSIVE,
            Level::Hidden => Mode::EXCLUSIVE.union(Mode::SEALED),
            Level::Closed => Mode::EXCLUSIVE.union(Mode::SEALED).union(Mode::UNCACHED),
        }
    }
}

bitflags::bitflags! {
    /// What this driver found on its machine.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Properties: u64 {
        /// /dev/mem cannot reach the pool: the kernel has CONFIG_STRICT_DEVMEM and honours the claim.
        const DEV_MEM_CLOSED = 1 << 0;
        /// Write-back is reserved for the pool in the kernel's list of memory types: KVM maps it cached.
        const WRITE_BACK_RESERVED = 1 << 1;
        /// There is the second kind of pool, of pages taken out of the direct map while running.
        const DYNAMIC_POOL = 1 << 2;
    }
}

/// The answer to [`GET_ABI`]; `size` and `version` are the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Abi {
    /// `size_of::<Abi>()`.
    pub size: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Bits of [`Mode`] that this driver serves here.
    pub modes: u64,
    /// Bits of [`Properties`].
    pub properties: u64,
    /// [`PAGE`].
    pub page: u32,
    /// [`HUGE_PAGE`]; 0 where the kernel's page tables do not take such entries.
    pub huge_page: u32,
    /// All of the pool.
    pub total: u64,
    /// The most that one user may hold.
    pub user_limit: u64,
}

impl Abi {
    /// What the caller fills in of it.
    pub fn asked() -> Self {
        Self {
            size: size_of::<Self>() as u32,
            version: VERSION,
            ..Self::default()
        }
    }
}

/// What [`SET_MODE`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ModeRequest {
    /// `size_of::<ModeRequest>()`.
    pub size: u32,
    /// [`VERSION`].
    pub version: u32,
    /// The object's size: a multiple of [`PAGE`], or of [`HUGE_PAGE`] with [`Mode::HUGE`]; not 0.
    pub bytes: u64,
    /// Bits of [`Mode`].
    pub mode: u64,
    /// 0.
    pub reserved: u64,
}

/// What [`HIDE`] and [`SHOW`] take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RangeRequest {
    /// `size_of::<RangeRequest>()`.
    pub size: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Where it begins: a multiple of [`PAGE`].
    pub address: u64,
    /// Its length: a multiple of [`PAGE`]; not 0.
    pub bytes: u64,
    /// 0.
    pub reserved: u64,
}

/// The answer to [`GET_INFO`]; `size` and `version` are the caller's. Counters are since the driver was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Info {
    /// `size_of::<Info>()`.
    pub size: u32,
    /// [`VERSION`].
    pub version: u32,
    /// All of the pool.
    pub total: u64,
    /// What can be given out.
    pub free: u64,
    /// The largest free run.
    pub largest_free: u64,
    /// What objects hold.
    pub held: u64,
    /// The memory that describes the pool.
    pub metadata: u64,
    /// Objects that hold memory.
    pub objects: u64,
    /// 4 KiB entries made.
    pub small_entries: u64,
    /// 2 MiB entries made.
    pub huge_entries: u64,
    /// Faults served.
    pub faults: u64,
    /// Bytes wiped.
    pub wiped: u64,
    /// Mappings refused because the pool was full (ENOMEM).
    pub refused_full: u64,
    /// Mappings refused because of RLIMIT_MEMLOCK (EAGAIN) or the limit of a user (EDQUOT).
    pub refused_limit: u64,
    /// Calls refused to an address space that is not the owner (EPERM).
    pub refused_owner: u64,
}

impl Info {
    /// What the caller fills in of it.
    pub fn asked() -> Self {
        Self {
            size: size_of::<Self>() as u32,
            version: VERSION,
            ..Self::default()
        }
    }
}

/// What [`GET_HOLDERS`] takes and answers; `size`, `version`, `buffer` and `capacity` are the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HoldersRequest {
    /// `size_of::<HoldersRequest>()`.
    pub size: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Where the [`Holder`]s go.
    pub buffer: u64,
    /// How many fit there; at most 65536.
    pub capacity: u32,
    /// Answer: how many there are, which may be more than fit.
    pub count: u32,
}

/// An object that holds memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Holder {
    /// The process that mapped it, as the initial namespace numbers it.
    pub pid: u32,
    /// Its real user, as the initial namespace numbers it.
    pub uid: u32,
    /// What it holds now.
    pub bytes: u64,
    /// Bits of [`Mode`].
    pub mode: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_c_header() {
        // As the macros _IOWR, _IOW and _IO give them.
        assert_eq!(GET_ABI, 0xc030_d640);
        assert_eq!(SET_MODE, 0x4020_d641);
        assert_eq!(SEAL, 0x0000_d642);
        assert_eq!(GET_INFO, 0xc070_d643);
        assert_eq!(GET_HOLDERS, 0xc018_d644);
        assert_eq!(size_of::<Holder>(), 24);
    }

    #[test]
    fn a_higher_level_has_all_of_a_lower_ones_mode() {
        let modes = Level::ALL.map(Mode::of_level);
        for pair in modes.windows(2) {
            assert!(pair[1].contains(pair[0]));
        }
        assert!(modes[0].contains(Mode::EXCLUSIVE));
    }
}
