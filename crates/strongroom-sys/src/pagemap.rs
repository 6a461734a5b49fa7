//! Which pages of a process are there: the PAGEMAP_SCAN ioctl of /proc/PID/pagemap.

use crate::{Errno, raw};
use rustix::fd::{AsFd, AsRawFd};

/// The pages have a file behind them, or are shared memory.
pub const FILE: u64 = 1 << 2;
/// The pages are in memory.
pub const PRESENT: u64 = 1 << 3;
/// The pages are in the swap.
pub const SWAPPED: u64 = 1 << 4;
/// The pages are the one page of zeros.
pub const ZERO: u64 = 1 << 5;

/// Consecutive pages that are alike (struct page_region).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// First address.
    pub start: u64,
    /// First address past them.
    pub end: u64,
    /// What they are: [`PRESENT`] and its kin.
    pub categories: u64,
}

/// struct pm_scan_arg, include/uapi/linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    found: u64,
    found_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// _IOWR('f', 16, struct pm_scan_arg)
const PAGEMAP_SCAN: usize = 0xc060_6610;

/// Fills `found` with pages of the range that are present or swapped out. Returns how many entries
/// were filled, and the address up to which the kernel looked: call again from there.
///
/// # Errors
/// ENOTTY before Linux 6.7; ESRCH where the process's memory is gone.
pub fn scan(
    pagemap: impl AsFd,
    start: u64,
    end: u64,
    found: &mut [Pages],
) -> Result<(usize, u64), Errno> {
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        start,
        end,
        found: found.as_mut_ptr() as u64,
        found_len: found.len() as u64,
        category_anyof_mask: PRESENT | SWAPPED,
        return_mask: FILE | PRESENT | SWAPPED | ZERO,
        ..Scan::default()
    };
    let pagemap = pagemap.as_fd().as_raw_fd() as usize;
    let arguments = [pagemap, PAGEMAP_SCAN, &raw mut scan as usize, 0, 0, 0];
    // SAFETY: the kernel fills at most `found_len` entries of `found`, and the structure itself.
    let count = raw::check(unsafe { raw::syscall(libc::SYS_ioctl as usize, arguments) })?;
    Ok((count.min(found.len()), scan.walk_end))
}
