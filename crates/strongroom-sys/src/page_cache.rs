//! cachestat(2): how much of a file is in memory.

use crate::{Errno, raw};
use rustix::fd::{AsFd, AsRawFd};

/// The same number everywhere (Linux 6.5).
const CACHESTAT: usize = 451;

/// How many pages of a range of a file are in memory. In bytes; a length of 0 reaches to the end.
///
/// # Errors
/// ENOSYS before Linux 6.5, EOPNOTSUPP for hugetlbfs, EPERM for a file that is not the caller's.
pub fn resident(file: impl AsFd, offset: u64, len: u64) -> Result<u64, Errno> {
    // struct cachestat_range: off, len. struct cachestat: cached, dirty, writeback, evicted, recently evicted.
    let range = [offset, len];
    let mut counts = [0u64; 5];
    let arguments = [
        file.as_fd().as_raw_fd() as usize,
        range.as_ptr() as usize,
        counts.as_mut_ptr() as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel reads the range and writes the counts, which outlive the call.
    raw::check(unsafe { raw::syscall(CACHESTAT, arguments) })?;
    let [cached, ..] = counts;
    Ok(cached)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE;
    use rustix::fs::MemfdFlags;

    #[test]
    fn pages_that_were_written_are_counted() {
        let file = rustix::fs::memfd_create(c"resident", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 16 * PAGE as u64).unwrap();
        rustix::io::pwrite(&file, &[1], 5 * PAGE as u64).unwrap();
        let count = |from: usize, pages: usize| {
            resident(&file, (from * PAGE) as u64, (pages * PAGE) as u64)
        };
        match count(0, 16) {
            Err(Errno::NOSYS) => (),
            whole => {
                assert_eq!(whole, Ok(1));
                assert_eq!((count(5, 1), count(6, 10)), (Ok(1), Ok(0)));
            }
        }
    }
}
