//! How the object inside a program tells a verifier outside that protection is active.
//!
//! The verifier traces the program's system calls from exec on. The object, whose
//! constructor runs before any other, arranges the protection and then calls
//! `prctl(OPTION, &handshake, size_of::<Handshake>())`. The verifier sees the
//! call, reads the [`Handshake`] from the program's memory, checks it against
//! what the kernel says of the process, and detaches. To the kernel the option
//! is unknown (EINVAL), so without a verifier the call does nothing.

/// The prctl option: "SROM".
pub const OPTION: i32 = 0x5352_4f4d;

/// The version of this exchange; command and object must agree.
pub const VERSION: u32 = 1;

/// What the object says of the process it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Handshake {
    /// [`VERSION`].
    pub version: u32,
    /// The bits of [`strongroom_core::Protections`] that are held.
    pub held: u32,
    /// Address of one region of secret memory, for the verifier to look up in
    /// /proc/PID/maps; 0 where the process has none yet.
    pub region_address: u64,
    /// Its length in bytes.
    pub region_length: u64,
    /// 1 where the region is the kernel driver's or memfd_secret memory, 0 where it is locked memory.
    pub region_is_secretmem: u32,
    /// 1 where the process was made non-dumpable.
    pub non_dumpable: u32,
}
