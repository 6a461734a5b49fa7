//! Residue: the physical pages of a secret are read again after it was freed or its process ended.

use super::direct_map::{Pages, Reader, Refusal, spanned};

/// The frames of physical memory behind `len` bytes of process `pid` at `address`, in order.
///
/// # Errors
/// Where pagemap is not to be had or a page is not in memory.
pub fn frames(pid: i32, address: u64, len: usize) -> Result<Vec<u64>, Refusal> {
    let pages = Pages::of(pid)?;
    spanned(address, len)
        .map(|page| pages.frame(page))
        .collect()
}

/// What the frames hold now, a page each; `None` where the kernel has the frame not mapped.
///
/// # Errors
/// Where the kernel's memory cannot be read at all.
pub fn reread(frames: &[u64]) -> Result<Vec<Option<Vec<u8>>>, Refusal> {
    reread_with(&Reader::new()?, frames)
}

/// [`reread`] by a reader made before: sooner, so that less of the memory is used again meanwhile.
///
/// # Errors
/// Where a read itself failed.
pub fn reread_with(reader: &Reader, frames: &[u64]) -> Result<Vec<Option<Vec<u8>>>, Refusal> {
    frames
        .iter()
        .map(|&frame| Ok(reader.frame(frame)?.map(|page| page.to_vec())))
        .collect()
}
