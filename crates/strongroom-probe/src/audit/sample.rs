//! Pages of a process, read through the kernel's direct map.
//!
//! A few of each mapping, and so many in all: an audit tells in seconds what a whole attack would. What
//! is read stays in the kernel; whether it could be read is all that is learnt.

use super::Kind;
use crate::attack::direct_map::{Reader, Refusal};
use crate::exposure::{Finding, Mapping};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use strongroom_sys::PAGE;

/// The most pages of a mapping.
const OF_ONE: usize = 4;
/// The most pages of secret memory, and as many again of all other.
const OF_ALL: usize = 4096;
/// How many pages pagemap is asked about at once.
const WINDOW: u64 = 512;
/// At how many places of a large mapping it is asked.
const WINDOWS: u64 = 16;
/// How often a stale translation is waited for.
const WAITS: usize = 8;

/// A proven reader of the direct map, and a process's pages.
#[derive(Debug)]
pub(super) struct Sampler {
    reader: Reader,
    pagemap: File,
    pid: i32,
    /// Pages that may still be read: secret, other.
    left: [usize; 2],
    waits: usize,
}

impl Sampler {
    /// # Errors
    /// Where there is no way to read the direct map.
    pub(super) fn new(pid: i32) -> Result<Self, Refusal> {
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).map_err(|error| Refusal {
            what: format!("/proc/{pid}/pagemap: {error}"),
        })?;
        Ok(Self {
            reader: Reader::new()?,
            pagemap,
            pid,
            left: [OF_ALL; 2],
            waits: WAITS,
        })
    }

    /// What a few pages of the mapping say; none where none could be tried.
    pub(super) fn direct_map(&mut self, mapping: &Mapping, kind: Kind) -> Option<Finding> {
        let [secret, other] = &mut self.left;
        let left = if kind == Kind::Secret { secret } else { other };
        let most = OF_ONE.min(*left);
        if most == 0 {
            return None;
        }
        let pages = present(&self.pagemap, mapping, most);
        *left -= pages.len();
        let (mut tried, mut seen) = (0, 0);
        for page in pages {
            // One that was freed or moved meanwhile tells nothing.
            let Ok(sees) = self.reader.sees(self.pid, page) else {
                continue;
            };
            tried += 1;
            // Frames of secret memory are seen for a while where the translation was not flushed.
            let stale = sees && kind == Kind::Secret && self.fades(page);
            seen += usize::from(sees && !stale);
        }
        match (tried, seen) {
            (0, _) => None,
            (_, 0) => Some(Finding::out_of_reach(format!(
                "{tried} of its pages were tried: the kernel itself cannot read them"
            ))),
            _ => Some(Finding::reachable(format!(
                "{tried} of its pages were tried: the kernel reads {}",
                if seen == tried {
                    "all".to_owned()
                } else {
                    seen.to_string()
                }
            ))),
        }
    }

    fn fades(&mut self, page: u64) -> bool {
        const PATIENCE: Duration = Duration::from_secs(1);
        let Some(left) = self.waits.checked_sub(1) else {
            return false;
        };
        self.waits = left;
        self.reader
            .sight_fades(self.pid, page, PATIENCE)
            .unwrap_or(false)
    }
}

/// Addresses of at most `most` pages of the mapping that are present, from all over it.
fn present(pagemap: &File, mapping: &Mapping, most: usize) -> Vec<u64> {
    const PRESENT: u64 = 1 << 63;
    let page = PAGE as u64;
    let first = mapping.start / page;
    let count = mapping.len() / page;
    let mut found = Vec::new();
    for start in windows(count) {
        let mut bytes = [0; WINDOW as usize * 8];
        let len = (count - start).min(WINDOW) as usize * 8;
        let read = bytes
            .get_mut(..len)
            .and_then(|bytes| pagemap.read_at(bytes, (first + start) * 8).ok());
        let entries = bytes.get(..read.unwrap_or_default()).unwrap_or_default();
        let pages = (start..).zip(entries.chunks_exact(8)).filter(|(_, entry)| {
            let entry: [u8; 8] = (*entry).try_into().unwrap_or_default();
            u64::from_ne_bytes(entry) & PRESENT != 0
        });
        found.extend(pages.map(|(at, _)| (first + at) * page));
    }
    if found.len() <= most {
        return found;
    }
    // The first, the last, and some between.
    (0..most)
        .filter_map(|at| found.get(at * (found.len() - 1) / most.saturating_sub(1).max(1)))
        .copied()
        .collect()
}

/// Where windows begin in a mapping of so many pages: all of a small one, some of a large one.
fn windows(pages: u64) -> impl Iterator<Item = u64> {
    let all = pages.div_ceil(WINDOW);
    let asked = all.min(WINDOWS);
    (0..asked).map(move |at| at * (all - 1) / asked.saturating_sub(1).max(1) * WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_what_is_small_and_both_ends_of_what_is_large() {
        assert_eq!(windows(0).count(), 0);
        assert_eq!(windows(1).collect::<Vec<_>>(), [0]);
        assert_eq!(windows(WINDOW + 1).collect::<Vec<_>>(), [0, WINDOW]);
        let large: Vec<u64> = windows(1 << 24).collect();
        assert_eq!(large.len(), WINDOWS as usize);
        assert_eq!(large.first(), Some(&0));
        assert_eq!(large.last(), Some(&((1 << 24) - WINDOW)));
    }

    #[test]
    fn what_is_present_is_found() {
        let mut memory = vec![0u8; 64 * PAGE];
        let page = memory.as_ptr().align_offset(PAGE);
        let start = memory.as_ptr() as u64 + page as u64;
        for at in [page, page + 40 * PAGE] {
            memory[at] = 1;
        }
        std::hint::black_box(&memory);
        let mapping = Mapping {
            start,
            end: start + 60 * PAGE as u64,
            ..Mapping::default()
        };
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let found = present(&pagemap, &mapping, 60);
        assert!(found.contains(&start), "{found:x?}");
        assert!(found.contains(&(start + 40 * PAGE as u64)), "{found:x?}");
        assert!(present(&pagemap, &mapping, 1).len() == 1);
    }
}
