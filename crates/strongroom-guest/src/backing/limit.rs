//! Who can reach a private page all the same.

use core::fmt;

/// An adversary, or a mishap, that a backing does not keep a private page from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// There are no private pages.
    NothingPrivate,
    /// The guest's own mapping lies in the monitor's address space: a monitor that is taken over
    /// looks it up and reads it, and so does another process that may look into the monitor, unless the receipt has
    /// NoPeek. What goes by the monitor's view is caught: stale pointers, overruns, system calls.
    AliasInMonitor,
    /// The page is the same memory on both sides: a pin or a DMA mapping that was taken without a guard,
    /// before it became private, still reads it. Of memory that cannot be pinned, a DMA mapping by VFIO.
    StalePin,
    /// A monitor that is taken over steers the guest, by its registers or its memory slots, into
    /// handing pages out. Confidential machines (SNP, TDX) end this.
    GuestControl,
    /// An instruction that KVM emulates goes to the shared side of a private page.
    Emulated,
    /// The pages stand in the kernel's direct map.
    DirectMap,
    /// A monitor that is killed wipes nothing: the bytes stay in free memory, until the kernel uses it for
    /// something else. So do those that are discarded, and those of `poison` at its end.
    UnwipedIfKilled,
}

impl Limit {
    /// A stable word for machines to match on.
    pub const fn word(self) -> &'static str {
        match self {
            Limit::NothingPrivate => "nothing-private",
            Limit::AliasInMonitor => "alias-in-monitor",
            Limit::StalePin => "stale-pin",
            Limit::GuestControl => "guest-control",
            Limit::Emulated => "emulated",
            Limit::DirectMap => "direct-map",
            Limit::UnwipedIfKilled => "unwiped-if-killed",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Limit::NothingPrivate => "every page is shared",
            Limit::AliasInMonitor => {
                "a monitor that is taken over finds the guest's own mapping in its address space"
            }
            Limit::StalePin => {
                "who pinned a page, or gave it to a device, without a guard before it became private still reads it"
            }
            Limit::GuestControl => {
                "a monitor that is taken over steers the guest's registers or slots to hand pages out"
            }
            Limit::Emulated => "instructions that KVM emulates go to the shared side of a page",
            Limit::DirectMap => "a kernel-mode reader finds the page in the direct map",
            Limit::UnwipedIfKilled => {
                "a monitor that is killed leaves the bytes in free memory for a while"
            }
        })
    }
}
