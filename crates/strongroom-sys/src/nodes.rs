//! NUMA nodes: where the memory comes from that this thread is given.

use crate::{Errno, raw};

/// Bits of a set of nodes, as the kernel takes it: more than any kernel has (CONFIG_NODES_SHIFT is 10 at most).
const WORDS: usize = 16;
/// The kernel reads one bit less than it is told (mm/mempolicy.c, get_nodes).
const BITS: usize = WORDS * u64::BITS as usize + 1;

/// A thread's policy: its mode, with flags, and its nodes.
type Policy = (i32, [u64; WORDS]);

fn policy() -> Result<Policy, Errno> {
    let (mut mode, mut nodes) = (0_i32, [0; WORDS]);
    let arguments = [
        &raw mut mode as usize,
        nodes.as_mut_ptr() as usize,
        BITS - 1,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes a number and as many bits as it is told, which there are.
    raw::check(unsafe { raw::syscall(libc::SYS_get_mempolicy as usize, arguments) })?;
    Ok((mode, nodes))
}

fn set((mode, nodes): &Policy) -> Result<(), Errno> {
    let arguments = match *mode {
        libc::MPOL_DEFAULT => [0; 6],
        mode => [mode as usize, nodes.as_ptr() as usize, BITS, 0, 0, 0],
    };
    // SAFETY: the kernel reads as many bits as it is told, which there are; no contents change.
    raw::check(unsafe { raw::syscall(libc::SYS_set_mempolicy as usize, arguments) })?;
    Ok(())
}

/// Puts a thread's policy back.
struct Before(Policy);

impl Drop for Before {
    fn drop(&mut self) {
        // It was in force before, and so it can be.
        let _ = set(&self.0);
    }
}

/// Does something while all memory that this thread is given comes from these nodes, where bit n is node n
/// (set_mempolicy(2), MPOL_BIND); afterwards its policy is the one that it was.
///
/// # Errors
/// EINVAL for no node, or none that is there; ENOSYS from a kernel without. Nothing was done then.
pub fn within<T>(nodes: u64, work: impl FnOnce() -> T) -> Result<T, Errno> {
    let before = policy()?;
    let mut wanted = [0; WORDS];
    wanted[0] = nodes;
    set(&(libc::MPOL_BIND, wanted))?;
    let _before = Before(before);
    Ok(work())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_lasts_as_long_as_the_work() {
        let before = match policy() {
            Ok(before) => before,
            // No such machine.
            Err(Errno::NOSYS) => return,
            Err(errno) => panic!("{errno}"),
        };
        let (mode, nodes) = within(1, policy).unwrap().unwrap();
        assert_eq!((mode, nodes[0]), (libc::MPOL_BIND, 1));
        assert_eq!(policy(), Ok(before));
        let mut done = false;
        assert_eq!(within(1 << 63, || done = true), Err(Errno::INVAL));
        assert_eq!(within(0, || done = true), Err(Errno::INVAL));
        assert!(!done);
        assert_eq!(policy(), Ok(before));
        // One that is not the default comes back, too, and after a panic.
        within(1, || {
            let inner = policy();
            let result = std::panic::catch_unwind(|| within(1, || panic!("expected")));
            assert!(result.is_err());
            assert_eq!(policy(), inner);
        })
        .unwrap();
        assert_eq!(policy(), Ok(before));
    }
}
