//! Reasons: why a protection is missing or memory was refused.

use core::fmt;

/// Why something that was asked for is not there. It prints the cause and the fix.
///
/// Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The kernel answers ENOSYS: memfd_secret is absent or switched off.
    NoSecretMemory,
    /// The kernel answers EPERM or EACCES, as a seccomp filter does.
    NotPermitted,
    /// There is no device of the kernel driver's.
    NoDriver,
    /// The device of the kernel driver's may not be opened.
    DriverNotPermitted,
    /// The kernel driver that is loaded has another interface than this library.
    DriverDiffers,
    /// The kernel driver cannot keep root from reading its memory by /dev/mem.
    DriverExposed,
    /// The kernel driver's pool has too little left.
    PoolFull {
        /// How much was wanted at once.
        need: u64,
    },
    /// The kernel driver gives this user no more.
    PoolLimit {
        /// How much was wanted at once.
        need: u64,
    },
    /// RLIMIT_MEMLOCK leaves too little.
    LockLimit {
        /// How much was wanted at once.
        need: u64,
        /// The soft limit.
        limit: u64,
    },
    /// The machine or the control group has no memory left.
    OutOfMemory,
    /// RLIMIT_NOFILE or the system's file table is full.
    TooManyFiles,
    /// vm.max_map_count is reached.
    TooManyMappings {
        /// vm.max_map_count, or 0 where it could not be read.
        limit: u64,
    },
    /// The reserved address range is used up.
    ReservationFull {
        /// The size of the range.
        limit: u64,
    },
    /// The keeper at work does not offer it.
    KeeperLacks {
        /// The keeper's name.
        keeper: &'static str,
    },
    /// Nobody has arranged it: a later use of the memory would have to.
    NotArranged,
    /// `--dumpable` was given.
    Dumpable,
    /// The process may not be made non-dumpable.
    CannotHide,
    /// The process is traced by another one.
    Traced,
    /// Between exec and the start of protection the process is dumpable, and no Yama keeps
    /// processes of the same user out meanwhile.
    StartUnguarded,
    /// This kind of mapping cannot be concealed in place: a stack, a shared or an executable mapping.
    NotConcealable,
    /// The object that would protect the program cannot be loaded into it.
    CannotPreload,
    /// The program brings its own malloc.
    OwnAllocator,
    /// Whoever runs a guest on an ordinary machine steers its processors and memory slots.
    GuestSteered,
    /// Another answer of the kernel.
    Kernel {
        /// The call that failed.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

impl Reason {
    /// A stable word for machines to match on.
    pub const fn word(&self) -> &'static str {
        match self {
            Reason::NoSecretMemory => "no-secret-memory",
            Reason::NotPermitted => "not-permitted",
            Reason::NoDriver => "no-driver",
            Reason::DriverNotPermitted => "driver-not-permitted",
            Reason::DriverDiffers => "driver-differs",
            Reason::DriverExposed => "driver-exposed",
            Reason::PoolFull { .. } => "pool-full",
            Reason::PoolLimit { .. } => "pool-limit",
            Reason::LockLimit { .. } => "lock-limit",
            Reason::OutOfMemory => "out-of-memory",
            Reason::TooManyFiles => "too-many-files",
            Reason::TooManyMappings { .. } => "too-many-mappings",
            Reason::ReservationFull { .. } => "reservation-full",
            Reason::KeeperLacks { .. } => "keeper-lacks",
            Reason::NotArranged => "not-arranged",
            Reason::Dumpable => "dumpable",
            Reason::CannotHide => "cannot-hide",
            Reason::Traced => "traced",
            Reason::StartUnguarded => "start-unguarded",
            Reason::NotConcealable => "not-concealable",
            Reason::CannotPreload => "cannot-preload",
            Reason::OwnAllocator => "own-allocator",
            Reason::GuestSteered => "guest-steered",
            Reason::Kernel { .. } => "kernel",
        }
    }

    /// What to do about it, or an empty text where there is nothing to be done.
    pub const fn fix(&self) -> &'static str {
        match self {
            Reason::NoSecretMemory => {
                "boot with secretmem.enable=1 on a kernel with CONFIG_SECRETMEM (5.14 or newer)"
            }
            Reason::NotPermitted => {
                "allow the memfd_secret system call: systemd SystemCallFilter=memfd_secret; Docker 22, containerd 1.6 or newer"
            }
            Reason::NoDriver => "load the kernel driver: `modprobe strongroom`",
            Reason::DriverNotPermitted => {
                "add the user to the group of /dev/strongroom: `strongroom doctor` names it"
            }
            Reason::DriverDiffers => "load the module that belongs to this version of strongroom",
            Reason::DriverExposed => {
                "boot a kernel with CONFIG_STRICT_DEVMEM and CONFIG_IO_STRICT_DEVMEM"
            }
            Reason::PoolFull { .. } => {
                "end a process that holds much of it (`strongroom doctor` as root), or set more aside at boot (memmap=)"
            }
            Reason::PoolLimit { .. } => "raise the module's parameter user_percent",
            Reason::LockLimit { .. } => {
                "raise it: `ulimit -l unlimited`; systemd LimitMEMLOCK=infinity; docker run --ulimit memlock=-1"
            }
            Reason::OutOfMemory => "free memory or raise the control group's memory.max",
            Reason::TooManyFiles => "raise the open-file limit: `ulimit -n`; systemd LimitNOFILE=",
            Reason::TooManyMappings { .. } => "sysctl vm.max_map_count=262144",
            Reason::ReservationFull { .. } => {
                "raise the address-space limit: `ulimit -v unlimited`"
            }
            Reason::Dumpable => "run without --dumpable",
            Reason::Traced => "end the debugger or tracer that is attached",
            Reason::StartUnguarded => {
                "sysctl kernel.yama.ptrace_scope=1, on a kernel with CONFIG_SECURITY_YAMA"
            }
            Reason::CannotPreload => {
                "use a dynamically linked glibc build of the program that is not setuid"
            }
            Reason::OwnAllocator => {
                "use --scope locked, or a build of the program with the system's malloc"
            }
            Reason::GuestSteered => "run the guest on a confidential machine (SEV-SNP, TDX)",
            Reason::KeeperLacks { .. }
            | Reason::NotArranged
            | Reason::CannotHide
            | Reason::NotConcealable
            | Reason::Kernel { .. } => "",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Reason::NoSecretMemory => f.write_str("the kernel has no memfd_secret (ENOSYS)"),
            Reason::NotPermitted => f.write_str("memfd_secret is not permitted here (EPERM)"),
            Reason::NoDriver => f.write_str("there is no /dev/strongroom"),
            Reason::DriverNotPermitted => {
                f.write_str("/dev/strongroom may not be opened by this user (EACCES)")
            }
            Reason::DriverDiffers => {
                f.write_str("the strongroom module that is loaded has another interface (EINVAL)")
            }
            Reason::DriverExposed => {
                f.write_str("this kernel lets root read the memory of /dev/strongroom by /dev/mem")
            }
            Reason::PoolFull { need } => write!(
                f,
                "the pool of /dev/strongroom is full: {need} more bytes were needed (ENOMEM)"
            ),
            Reason::PoolLimit { need } => write!(
                f,
                "/dev/strongroom gives this user no more: {need} bytes were needed (EDQUOT)"
            ),
            Reason::LockLimit { need, limit } => write!(
                f,
                "the locked-memory limit (RLIMIT_MEMLOCK) is {limit} bytes and {need} more were needed (EAGAIN)"
            ),
            Reason::OutOfMemory => f.write_str("out of memory (ENOMEM)"),
            Reason::TooManyFiles => f.write_str("no file descriptor is free (EMFILE)"),
            Reason::TooManyMappings { limit } => {
                write!(
                    f,
                    "the process has too many mappings (vm.max_map_count is {limit})"
                )
            }
            Reason::ReservationFull { limit } => {
                write!(f, "the reserved address range of {limit} bytes is used up")
            }
            Reason::KeeperLacks { keeper } => write!(f, "the keeper `{keeper}` does not offer it"),
            Reason::NotArranged => f.write_str("it was not arranged"),
            Reason::Dumpable => {
                f.write_str("the process stays dumpable because --dumpable was given")
            }
            Reason::CannotHide => f.write_str("the process could not be made non-dumpable"),
            Reason::Traced => f.write_str("another process traces this one"),
            Reason::StartUnguarded => f.write_str(
                "a process of the same user could open /proc/PID/mem in the instant between exec and the start of protection",
            ),
            Reason::NotConcealable => {
                f.write_str("stacks, shared and executable mappings cannot be concealed in place")
            }
            Reason::CannotPreload => {
                f.write_str("the preload object cannot be loaded into this program")
            }
            Reason::OwnAllocator => f.write_str("the program brings its own malloc"),
            Reason::GuestSteered => f.write_str(
                "the program that runs the guest can give it a processor, or code, that hands its pages out",
            ),
            Reason::Kernel { call, errno } => write!(f, "{call} failed with errno {errno}"),
        }
    }
}

impl core::error::Error for Reason {}

#[cfg(feature = "serde")]
impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut object = s.serialize_struct("Reason", 3)?;
        object.serialize_field("reason", self.word())?;
        object.serialize_field("cause", &format_args!("{self}"))?;
        object.serialize_field("fix", self.fix())?;
        object.end()
    }
}
