//! The rules: who reaches a mapping.
//!
//! Each has its source in the kernel; the tests make such a mapping and try.

use super::{Adversary, Backing, CorePattern, Exposure, Finding, Mapping, Process};

/// Who reaches the mapping of this process.
pub fn of(process: &Process, mapping: &Mapping) -> Exposure {
    let backing = mapping.backing(&process.machine);
    Exposure::by(|adversary| match adversary {
        Adversary::SameUser => peek(process, mapping, backing, same_user(process)),
        Adversary::Root => peek(process, mapping, backing, root(process)),
        Adversary::CoreDump => core_dump(process, mapping, backing),
        Adversary::Swap => swap(process, mapping, backing),
        Adversary::ForkChild => fork_child(mapping, backing),
        Adversary::Pin => pin(mapping, backing),
        Adversary::DirectMap => direct_map(backing),
    })
}

const SECRET: &str = "secret memory (memfd_secret)";
/// No page of the kernel's is behind it (VM_PFNMAP), and no other address space may map it.
const DRIVER: &str = "the kernel driver's memory (/dev/strongroom)";
const PERHAPS: &str =
    "named like secret memory; memfd_secret is refused here, so that it cannot be compared";

/// Whether another process of the same user may attach: __ptrace_may_access (kernel/ptrace.c),
/// cap_ptrace_access_check (security/commoncap.c), yama_ptrace_access_check.
pub fn same_user(process: &Process) -> Finding {
    let [user, ..] = process.users;
    let [group, ..] = process.groups;
    let yama = process.machine.yama.unwrap_or_default();
    // Root's own processes may do what root may.
    if process.users == [0; 4] {
        return root(process);
    }
    // The file system's user is not compared.
    let is_one = |ids: [u32; 4], first| ids.iter().take(3).all(|id| *id == first);
    if !is_one(process.users, user) || !is_one(process.groups, group) {
        return Finding::out_of_reach("its real, effective and saved users or groups differ");
    }
    if yama >= 2 {
        return Finding::out_of_reach(format!("Yama's scope {yama} lets no ordinary user attach"));
    }
    if process.other_user_namespace {
        // The user who made a namespace has every capability in it.
        return match process.dumpable {
            Some(true) if yama == 0 => Finding::reachable("dumpable, and nothing else forbids it"),
            _ => Finding::unknown("in another user namespace, whose maker may look in"),
        };
    }
    if process.dumpable == Some(false) {
        return Finding::out_of_reach("the process is not dumpable");
    }
    if process.capabilities != 0 {
        return Finding::out_of_reach(
            "the process has capabilities, which others of its user lack",
        );
    }
    if process.dumpable.is_none() {
        return Finding::unknown("whether the process is dumpable cannot be told");
    }
    match (yama, process.ancestor) {
        (0, _) => Finding::reachable("the process is dumpable, and Yama does not forbid it"),
        (_, Some(pid)) => {
            Finding::reachable(format!("Yama's scope 1 lets its ancestor {pid} attach"))
        }
        (_, None) => Finding::out_of_reach(
            "Yama's scope 1: no ancestor is of its user (whom it names by PR_SET_PTRACER may)",
        ),
    }
}

fn root(process: &Process) -> Finding {
    match process.machine.yama {
        Some(3) => Finding::out_of_reach("Yama's scope 3 lets nobody attach, root neither"),
        _ => Finding::reachable("CAP_SYS_PTRACE overrules every check of the process"),
    }
}

/// /proc/PID/mem and its kin: access_remote_vm and process_vm_rw, by get_user_pages, which overrules the
/// access of the mapping (FOLL_FORCE) but refuses secret memory and devices (check_vma_flags, mm/gup.c).
fn peek(process: &Process, mapping: &Mapping, backing: Backing, gate: Finding) -> Finding {
    match backing {
        Backing::Secret if process.has_open(mapping.device, mapping.inode) => Finding {
            why: format!(
                "its descriptor is open in the process: pidfd_getfd ({})",
                gate.why
            )
            .into(),
            ..gate
        },
        Backing::Secret => match &process.descriptors_unread {
            Some(error) => {
                Finding::unknown(format!("{SECRET}; open descriptors not seen: {error}"))
            }
            None => Finding::out_of_reach(SECRET),
        },
        Backing::Driver => Finding::out_of_reach(DRIVER),
        Backing::SecretPerhaps => Finding::unknown(PERHAPS),
        Backing::Device => Finding::unknown("a device's memory: its driver decides"),
        Backing::Kernel => Finding::unknown("the kernel's own page, with nothing of the process"),
        _ => gate,
    }
}

/// Whether the kernel writes a dump when the process crashes (vfs_coredump, fs/coredump.c), or another
/// process of the same user can bring it to.
pub fn kernel_dump(process: &Process) -> Finding {
    if process.dumpable == Some(false) && process.machine.suid_dumpable != 2 {
        return Finding::out_of_reach("not dumpable: the kernel writes no dump");
    }
    match (
        &process.machine.core_pattern,
        process.core_soft,
        process.core_hard,
    ) {
        (CorePattern::None, ..) => Finding::out_of_reach("kernel.core_pattern is empty"),
        // "This is needed to prevent a recursive dump": the limit 1 is for the program itself.
        (CorePattern::Program(_), Some(1), _) => Finding::out_of_reach("the core limit is 1"),
        (CorePattern::Program(_), ..) => {
            Finding::reachable("a crash sends it to core_pattern's program, whatever the limit is")
        }
        (CorePattern::File(_), _, Some(0)) => Finding::out_of_reach("the hard core limit is 0"),
        (CorePattern::File(_), Some(0), _) => Finding::reachable(
            "the core limit is 0, but its user can raise it from outside (prlimit) and kill it",
        ),
        (CorePattern::File(_), ..) => Finding::reachable("a crash writes it to a core file"),
    }
}

fn core_dump(process: &Process, mapping: &Mapping, backing: Backing) -> Finding {
    let left_out = match backing {
        Backing::Secret => Some(SECRET.into()),
        Backing::Driver => Some(DRIVER.into()),
        Backing::SecretPerhaps => return Finding::unknown(PERHAPS),
        Backing::Device => Some("a device's memory".into()),
        Backing::Kernel => return Finding::unknown("the kernel's own page"),
        _ if mapping.has(b"dd") => {
            Some("MADV_DONTDUMP (gcore -a of root's does not heed it)".into())
        }
        _ => filtered(process, mapping, backing),
    };
    if let Some(why) = left_out {
        return Finding {
            reach: super::Reach::OutOfReach,
            why,
        };
    }
    let kernel = kernel_dump(process);
    if kernel.reach == super::Reach::Reachable {
        return kernel;
    }
    let gcore = same_user(process);
    match gcore.reach {
        super::Reach::OutOfReach => {
            Finding::out_of_reach(format!("{}; gcore: {}", kernel.why, gcore.why))
        }
        _ => Finding {
            why: format!("gcore by its user: {}", gcore.why).into(),
            ..gcore
        },
    }
}

/// vma_dump_size of fs/coredump.c, by the bits of core(5). gcore heeds them too.
fn filtered(
    process: &Process,
    mapping: &Mapping,
    backing: Backing,
) -> Option<std::borrow::Cow<'static, str>> {
    // What Linux has by default, where the file cannot be read.
    const DEFAULT: u64 = 0x33;
    let filter = process.coredump_filter.unwrap_or(DEFAULT);
    let shared = mapping.is_shared();
    let bit = if mapping.has(b"ht") {
        if shared { 6 } else { 5 }
    } else if shared {
        if backing == Backing::SharedMemory {
            1
        } else {
            3
        }
    } else if backing == Backing::Anonymous || mapping.anonymous + mapping.swap > 0 {
        // A file mapping with a changed page is dumped whole.
        0
    } else {
        2
    };
    // A shared file that is deleted counts as shared memory, and a file in /dev/shm is a file.
    let bit = match backing {
        Backing::File if shared && mapping.name.ends_with(b" (deleted)") => 1,
        Backing::SharedMemory if mapping.name.starts_with(b"/dev/shm/") => {
            if mapping.name.ends_with(b" (deleted)") {
                1
            } else {
                3
            }
        }
        _ => bit,
    };
    (filter & (1 << bit) == 0)
        .then(|| format!("coredump_filter {filter:#x} leaves its kind out (bit {bit})").into())
}

/// Reclaim takes anonymous memory and shared memory (mm/vmscan.c); locked memory is not evictable, but
/// is part of a hibernation image.
fn swap(process: &Process, mapping: &Mapping, backing: Backing) -> Finding {
    let machine = &process.machine;
    match backing {
        Backing::Secret => return Finding::out_of_reach(SECRET),
        Backing::Driver => return Finding::out_of_reach(DRIVER),
        Backing::SecretPerhaps => return Finding::unknown(PERHAPS),
        Backing::Device => return Finding::out_of_reach("a device's memory"),
        Backing::Kernel => return Finding::out_of_reach("the kernel's own page"),
        _ => {}
    }
    if mapping.swap > 0 {
        return Finding::reachable("a part is in the swap now");
    }
    if machine.hibernates {
        return Finding::reachable("hibernation writes all memory to the swap, locked or not");
    }
    if mapping.has(b"lo") {
        return Finding::out_of_reach("locked");
    }
    if mapping.has(b"ht") {
        return Finding::out_of_reach("huge pages of hugetlbfs are not swapped");
    }
    if backing == Backing::File && (mapping.is_shared() || mapping.anonymous == 0) {
        return Finding::out_of_reach("its pages go back to their file, not to the swap");
    }
    if machine.swaps.is_empty() {
        return Finding::out_of_reach("this machine has no swap in use now");
    }
    if process.swap_forbidden {
        return Finding::out_of_reach("its control group may have no swap (memory.swap.max is 0)");
    }
    Finding::reachable("neither locked nor secret, and there is swap")
}

/// dup_mmap and copy_page_range (kernel/fork.c, mm/memory.c).
fn fork_child(mapping: &Mapping, backing: Backing) -> Finding {
    if mapping.has(b"dc") {
        Finding::out_of_reach("MADV_DONTFORK: a child has no such mapping")
    } else if mapping.has(b"wf") {
        Finding::out_of_reach("MADV_WIPEONFORK: a child finds zeros")
    } else if backing == Backing::Kernel {
        Finding::unknown("the kernel's own page, with nothing of the process")
    } else if mapping.is_shared() {
        Finding::reachable("a child shares it, and writes it too")
    } else {
        Finding::reachable("a child has a copy")
    }
}

/// check_vma_flags, mm/gup.c: without FOLL_FORCE the access of the mapping counts.
fn pin(mapping: &Mapping, backing: Backing) -> Finding {
    match backing {
        Backing::Secret => Finding::out_of_reach(SECRET),
        Backing::Driver => Finding::out_of_reach(DRIVER),
        Backing::SecretPerhaps => Finding::unknown(PERHAPS),
        Backing::Device => Finding::out_of_reach("a device's memory has no pages to pin"),
        Backing::Kernel => Finding::unknown("the kernel's own page, with nothing of the process"),
        _ if !mapping.is_readable() && !mapping.is_writable() => {
            Finding::out_of_reach("no access (PROT_NONE), as long as that lasts")
        }
        _ => Finding::reachable("ordinary pages can be pinned"),
    }
}

/// mm/secretmem.c takes its pages out, and the kernel driver's memory was never in; all other is.
fn direct_map(backing: Backing) -> Finding {
    match backing {
        Backing::Secret => Finding::out_of_reach(SECRET),
        Backing::Driver => Finding::out_of_reach(DRIVER),
        Backing::SecretPerhaps => Finding::unknown(PERHAPS),
        Backing::Device => Finding::unknown("a device's memory: its driver decides"),
        _ => Finding::reachable("the kernel maps all ordinary memory"),
    }
}
