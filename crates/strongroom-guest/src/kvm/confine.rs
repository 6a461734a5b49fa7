//! Drops the monitor's ways back to private memory, once the guest is set up.
//!
//! What a backing protects from, it does not protect from a monitor that is taken over and *asks the kernel* for
//! more: another processor, registers, a debugger's view, a helper process. Of those, what a monitor does not
//! need once its guest runs is refused from here on, for all of its threads and its children, and cannot be had back:
//! a seccomp filter has no way out. What it does need stays, so that [`Limit::GuestControl`](crate::Limit) stays, too:
//! KVM_RUN, a processor's general registers (requests are answered in them), and slots (conversions change them).

use super::Machine;
use crate::{Error, GuestRam};
use rustix::fd::AsRawFd;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use strongroom_sys::{Errno, process};
use vm_memory::GuestMemoryBackend;

/// Looking into processes, this one included, and taking their files; and the parts of the kernel that
/// read memory for others or pin it.
const CALLS: [i64; 11] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
];

/// KVM's ioctls (include/uapi/linux/kvm.h), by their low 16 bits, which are enough: type and number.
const CONTROLS: [u16; 9] = [
    // KVM_CREATE_VM: a second machine around the same files.
    0xae01, // KVM_CREATE_VCPU.
    0xae41, // KVM_SET_USER_MEMORY_REGION; conversions use the second version.
    0xae46, // KVM_SET_SREGS and KVM_SET_SREGS2: page tables.
    0xae84, 0xaecc, 0xaecd, // KVM_TRANSLATE.
    0xae85, // KVM_SET_GUEST_DEBUG.
    0xae9b, // KVM_CREATE_GUEST_MEMFD.
    0xaed4,
];

/// Makes the process non-dumpable and puts up the filter. From then on
///
/// * no process of the same user can attach to it or read it, and there are no core dumps;
/// * it cannot trace, read another process's memory (or its own, that way), take its files, make an io_uring or a
///   userfaultfd, load BPF, or make itself dumpable again;
/// * it cannot make machines, processors or guest_memfds, set system registers or debug a guest;
/// * files of private memory cannot be mapped or duplicated.
///
/// All of them answer EPERM. Have everything that needs one of them before, the machine's processors for instance.
///
/// # Errors
/// What the kernel says; EINVAL where it has no seccomp. Some of it may be in force then.
pub fn confine(machine: &Machine, ram: &GuestRam) -> Result<(), Error> {
    // It is a processor, which could not be made later.
    machine.hold()?.copier()?;
    process::set_dumpable(false).map_err(Error::of("prctl"))?;
    let files: Vec<_> = ram
        .iter()
        .filter_map(|region| region.backing().private_file())
        .map(|file| file.as_raw_fd())
        .collect();
    let program = filter(&files).map_err(|_| Error::of("seccomp filter")(Errno::INVAL))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| {
        let errno = match error {
            seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error) => {
                error.raw_os_error().map(Errno::from_raw_os_error)
            }
            _ => None,
        };
        Error::of("seccomp")(errno.unwrap_or(Errno::INVAL))
    })
}

type Answer<T> = Result<T, seccompiler::BackendError>;

fn filter(files: &[i32]) -> Answer<BpfProgram> {
    let equals = |argument, value: u64| {
        SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, value & 0xffff_ffff)
    };
    let is_file = |argument| {
        files
            .iter()
            .map(|file| SeccompRule::new(vec![equals(argument, *file as u64)?]))
            .collect::<Answer<Vec<_>>>()
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.into_iter().map(|call| (call, Vec::new())).collect();
    let ioctls = CONTROLS
        .into_iter()
        .map(|control| {
            let operator = SeccompCmpOp::MaskedEq(0xffff);
            SeccompRule::new(vec![SeccompCondition::new(
                1,
                Dword,
                operator,
                control.into(),
            )?])
        })
        .collect::<Answer<Vec<_>>>()?;
    rules.insert(libc::SYS_ioctl, ioctls);
    let dumpable = vec![equals(0, libc::PR_SET_DUMPABLE as u64)?, equals(1, 1)?];
    rules.insert(libc::SYS_prctl, vec![SeccompRule::new(dumpable)?]);
    if !files.is_empty() {
        rules.insert(libc::SYS_mmap, is_file(4)?);
        for call in [libc::SYS_dup, libc::SYS_dup2, libc::SYS_dup3] {
            rules.insert(call, is_file(0)?);
        }
        let mut duplicates = Vec::new();
        for file in files {
            for command in [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC] {
                let both = vec![equals(0, *file as u64)?, equals(1, command as u64)?];
                duplicates.push(SeccompRule::new(both)?);
            }
        }
        rules.insert(libc::SYS_fcntl, duplicates);
    }
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?.try_into()
}
