//! The monitor of a guest, taken over: it looks for the guest's secret itself.
//!
//! The victim does it on the attacker's word, as [`crate::victim`] has it. It is told the secret in
//! other words, so that its memory does not hold its own question.

use super::{Attacker, Broken, Captive, Outcome, Owner, setup};
use strongroom_core::Protection;

/// One way to look.
#[derive(Clone, Copy)]
pub(super) struct Vmm {
    name: &'static str,
    protection: Protection,
    about: &'static str,
    /// What must leak on the control.
    ways: &'static [&'static str],
    /// Whether it writes to a disk.
    on_disk: bool,
}

const fn vmm(
    name: &'static str,
    protection: Protection,
    about: &'static str,
    ways: &'static [&'static str],
) -> Vmm {
    Vmm {
        name,
        protection,
        about,
        ways,
        on_disk: false,
    }
}

/// All of them, in the order of the table.
pub(super) const ALL: [Vmm; 11] = [
    vmm(
        "vmm-view",
        Protection::NoVmm,
        "the monitor loads the guest's page at the address where it has the guest's memory",
        &["a load"],
    ),
    vmm(
        "vmm-syscall",
        Protection::NoVmm,
        "it hands that address to the kernel (write, send)",
        &["write", "send"],
    ),
    vmm(
        "vmm-pointer",
        Protection::NoVmm,
        "a device thread loads by a pointer from before, all the while the page becomes private",
        &["a stale pointer"],
    ),
    vmm(
        "vmm-stale-slice",
        Protection::NoVmm,
        "a device thread keeps a slice of a page that is to become private",
        &["a stale slice"],
    ),
    vmm(
        "vmm-alias",
        Protection::NoVmm,
        "the monitor walks /proc/self/maps and loads all that is mapped anywhere",
        &["its mappings"],
    ),
    vmm(
        "vmm-steer",
        Protection::NoVmm,
        "it gives its machine another processor, with code of its own that copies the page",
        &["a processor"],
    ),
    vmm(
        "vmm-peek",
        Protection::NoPeek,
        "it reads all that is mapped by process_vm_readv of itself and by /proc/self/mem",
        &["process_vm_readv", "/proc/self/mem"],
    ),
    vmm(
        "vmm-map",
        Protection::NoFdSpill,
        "it maps every file that it has again, reads it, sends it (sendfile), duplicates and reopens it",
        &[
            "MAP_SHARED",
            "MAP_PRIVATE",
            "read(2)",
            "pread(2)",
            "sendfile",
            "dup",
            "/proc/self/fd",
        ],
    ),
    vmm(
        "vmm-vmsplice",
        Protection::NoPin,
        "its pages go into a pipe (vmsplice): before they become private, and afterwards",
        &["vmsplice before", "vmsplice after"],
    ),
    vmm(
        "vmm-io-uring",
        Protection::NoPin,
        "a registered io_uring buffer pins them: before they become private, and afterwards",
        &["io_uring before", "io_uring after"],
    ),
    Vmm {
        on_disk: true,
        ..vmm(
            "vmm-direct",
            Protection::NoPin,
            "an O_DIRECT write of them, and of its files mapped again",
            &["O_DIRECT"],
        )
    },
];

impl Attacker for Vmm {
    fn name(&self) -> &'static str {
        self.name
    }

    fn protection(&self) -> Protection {
        self.protection
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn control(&self, owner: Owner) -> Option<&'static str> {
        (owner == Owner::Guest).then(|| owner.control(""))
    }

    fn ways(&self) -> &'static [&'static str] {
        self.ways
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        if self.on_disk && !setup::is_on_a_device(victim.directory()) {
            return Ok(Outcome::Skipped(setup::NO_DEVICE.to_owned()));
        }
        let way = self.name.strip_prefix("vmm-").unwrap_or(self.name);
        let outcome = victim.look(way)?;
        victim.prove()?;
        Ok(outcome)
    }
}
