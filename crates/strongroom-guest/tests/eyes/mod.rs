//! What a system call of the monitor's sees.

#![allow(clippy::unwrap_used)]

use rustix::io::Errno;

/// What the kernel says to a system call that reads a byte there.
pub(crate) fn read_by_kernel(address: *const u8) -> Result<u8, Errno> {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // SAFETY: the kernel looks at the byte, and says EFAULT where it cannot.
    let byte = unsafe { std::slice::from_raw_parts(address, 1) };
    rustix::io::write(&writer, byte)?;
    let mut got = [0];
    rustix::io::read(&reader, &mut got)?;
    Ok(got[0])
}
