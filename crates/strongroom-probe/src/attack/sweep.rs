//! A guest's page in physical memory.
//!
//! Nothing in /proc tells where a page is that no process has mapped. So root looks at all frames that
//! could be one, by what /proc/kpageflags says of them, and reads them as the kernel does.

use super::direct_map::{Pages, Reader, Refusal};
use super::search;
use crate::victim::OFFSET;
use std::fs::File;
use std::io::Read;
use strongroom_sys::PAGE;

// Documentation/admin-guide/mm/pagemap.rst.
const UPTODATE: u64 = 1 << 3;
const LRU: u64 = 1 << 5;
const SLAB: u64 = 1 << 7;
const BUDDY: u64 = 1 << 10;
const MAPPED: u64 = 1 << 11;
const ANONYMOUS: u64 = 1 << 12;
const UNEVICTABLE: u64 = 1 << 18;
const ABSENT: u64 = 1 << 20;
const PAGE_TABLE: u64 = 1 << 26;

/// What a sweep came to.
pub(super) struct Swept {
    /// The frame that holds the page.
    pub(super) frame: Option<u64>,
    /// How many were read.
    pub(super) looked: usize,
}

/// Looks for the page in which the secret is, and nothing before it: first where process `pid` has
/// something mapped, then among the frames of files in memory that nobody has mapped, those first that are
/// never evicted or were just made.
///
/// # Errors
/// Where /proc/kpageflags or the kernel's memory cannot be read.
pub(super) fn sweep(reader: &Reader, pid: i32, secret: &[u8]) -> Result<Swept, Refusal> {
    let mut swept = Swept {
        frame: None,
        looked: 0,
    };
    let mut look = |frame: u64| {
        swept.looked += 1;
        if reader.frame(frame)?.is_some_and(|page| is(&page, secret)) {
            swept.frame = Some(frame);
        }
        Ok(swept.frame.is_some())
    };
    for frame in mapped(pid)? {
        if look(frame)? {
            return Ok(swept);
        }
    }
    for frame in unmapped()?.into_iter().flatten() {
        if look(frame)? {
            return Ok(swept);
        }
    }
    Ok(swept)
}

/// Whether it is the guest's page, and not one of somebody else's who knows the secret.
fn is(page: &[u8; PAGE], secret: &[u8]) -> bool {
    let (before, rest) = page.split_at(OFFSET);
    rest.starts_with(secret) && before.iter().all(|&byte| byte == 0)
}

/// The frames behind a process's mappings.
fn mapped(pid: i32) -> Result<Vec<u64>, Refusal> {
    let pages = Pages::of(pid)?;
    let mappings = search::resident(pid).map_err(Refusal::because("/proc/PID/smaps"))?;
    let addresses = mappings
        .into_iter()
        .flat_map(|mapping| (mapping.start..mapping.end).step_by(PAGE));
    Ok(addresses.filter_map(|at| pages.frame(at).ok()).collect())
}

/// Frames of files that nobody has mapped: never evicted; in no list yet; the others.
fn unmapped() -> Result<[Vec<u64>; 3], Refusal> {
    const NAME: &str = "/proc/kpageflags";
    let mut flags = File::open(NAME).map_err(Refusal::because(NAME))?;
    let mut bytes = vec![0; 1 << 20];
    let mut frames = [Vec::new(), Vec::new(), Vec::new()];
    let mut frame = 0;
    loop {
        let read = flags.read(&mut bytes).map_err(Refusal::because(NAME))?;
        if read == 0 {
            return Ok(frames);
        }
        for flags in bytes.get(..read).unwrap_or_default().chunks_exact(8) {
            let mut word = [0; 8];
            word.copy_from_slice(flags);
            if let Some(class) = class(u64::from_ne_bytes(word)) {
                frames[class].push(frame);
            }
            frame += 1;
        }
    }
}

fn class(flags: u64) -> Option<usize> {
    const OTHERS: u64 = SLAB | BUDDY | MAPPED | ANONYMOUS | ABSENT | PAGE_TABLE;
    match flags {
        _ if flags & OTHERS != 0 || flags & UPTODATE == 0 => None,
        _ if flags & UNEVICTABLE != 0 => Some(0),
        _ if flags & LRU == 0 => Some(1),
        _ => Some(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_by_what_is_in_it_and_where() {
        let secret = [7; 16];
        let mut page = [0; PAGE];
        assert!(!is(&page, &secret));
        page[OFFSET..OFFSET + 16].fill(7);
        assert!(is(&page, &secret));
        page[5] = 1;
        assert!(!is(&page, &secret));
    }

    #[test]
    fn what_is_somebodys_is_no_file_that_nobody_maps() {
        assert_eq!(class(UPTODATE | LRU | UNEVICTABLE), Some(0));
        assert_eq!(class(UPTODATE), Some(1));
        assert_eq!(class(UPTODATE | LRU), Some(2));
        assert_eq!(class(0), None);
        assert_eq!(class(UPTODATE | LRU | MAPPED), None);
        assert_eq!(class(UPTODATE | LRU | MAPPED | ANONYMOUS), None);
    }
}
