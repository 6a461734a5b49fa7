//! Which pages of a mapping are there, from /proc/PID/pagemap, in bounded pieces.

use crate::exposure::Mapping;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use strongroom_sys::pagemap::{self, PRESENT, Pages, SWAPPED, ZERO};
use strongroom_sys::{Errno, PAGE};

/// Entries of one look: 24 bytes each.
const PIECE: usize = 512;
/// Bytes of one read of the file where there is no ioctl: 16 MiB of address space.
const READ: usize = 32 << 10;

/// What is there of a mapping.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// In memory, in pages; pages of zeros that were only read are none.
    pub(super) present: u64,
    /// In the swap, in pages.
    pub(super) swapped: u64,
    /// Addresses of some present pages.
    pub(super) samples: Vec<u64>,
}

/// The pagemap of a process.
#[derive(Debug)]
pub(super) struct Pagemap {
    file: File,
    /// Whether the kernel has the ioctl (Linux 6.7).
    scans: bool,
}

impl Pagemap {
    pub(super) fn open(pid: i32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/pagemap"))?;
        Ok(Self { file, scans: true })
    }

    /// Looks at a mapping, and picks at most `samples` of its present pages.
    pub(super) fn look(&mut self, mapping: &Mapping, samples: usize) -> io::Result<Found> {
        let mut found = Found::default();
        // A reservation of many GiB with nothing in it costs nothing.
        if mapping.rss + mapping.swap + mapping.hugetlb == 0 || mapping.end > 1 << 63 {
            return Ok(found);
        }
        if self.scans {
            match self.scan(mapping, samples, &mut found) {
                Ok(()) => return Ok(found),
                Err(Errno::NOTTY | Errno::INVAL) => self.scans = false,
                Err(error) => return Err(error.into()),
            }
            found = Found::default();
        }
        self.read(mapping, samples, &mut found)?;
        Ok(found)
    }

    fn scan(&self, mapping: &Mapping, samples: usize, found: &mut Found) -> Result<(), Errno> {
        let mut pieces = [Pages::default(); PIECE];
        let mut at = mapping.start;
        while at < mapping.end {
            let (count, next) = pagemap::scan(&self.file, at, mapping.end, &mut pieces)?;
            for pages in pieces.get(..count).unwrap_or_default() {
                found.add(pages, samples);
            }
            if next <= at {
                break;
            }
            at = next;
        }
        Ok(())
    }

    fn read(&self, mapping: &Mapping, samples: usize, found: &mut Found) -> io::Result<()> {
        // Documentation/admin-guide/mm/pagemap.rst.
        const IS_PRESENT: u64 = 1 << 63;
        const IS_SWAPPED: u64 = 1 << 62;
        let mut piece = vec![0; READ];
        let mut at = mapping.start;
        while at < mapping.end {
            let pages = ((mapping.end - at) / PAGE as u64).min((READ / 8) as u64);
            let Some(piece) = piece.get_mut(..pages as usize * 8) else {
                break;
            };
            let read = self.file.read_at(piece, at / PAGE as u64 * 8)?;
            if read < 8 {
                break;
            }
            for entry in piece.get(..read).unwrap_or_default().chunks_exact(8) {
                let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
                let present = if entry & IS_PRESENT != 0 { PRESENT } else { 0 };
                let swapped = if entry & IS_SWAPPED != 0 { SWAPPED } else { 0 };
                let pages = Pages {
                    start: at,
                    end: at + PAGE as u64,
                    categories: present | swapped,
                };
                found.add(&pages, samples);
                at += PAGE as u64;
            }
        }
        Ok(())
    }
}

impl Found {
    fn add(&mut self, pages: &Pages, samples: usize) {
        let count = (pages.end - pages.start) / PAGE as u64;
        if pages.categories & SWAPPED != 0 {
            self.swapped += count;
        } else if pages.categories & PRESENT != 0 && pages.categories & ZERO == 0 {
            self.present += count;
            // The ends of each run: what is next to something else differs first.
            for address in [pages.start, pages.end - PAGE as u64] {
                if self.samples.len() < samples && self.samples.last() != Some(&address) {
                    self.samples.push(address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposure;

    /// The two ways agree on memory of which every other page of some is there.
    #[test]
    fn the_ioctl_and_the_file_tell_the_same() {
        const LEN: usize = 1 << 30;
        // SAFETY: a new mapping.
        let start = unsafe {
            strongroom_sys::memory::map_private(strongroom_sys::memory::Place::Anywhere, LEN)
        }
        .unwrap();
        // SAFETY: within the mapping; small pages, so that none comes with its neighbours.
        unsafe {
            rustix::mm::madvise(start.cast(), LEN, rustix::mm::Advice::LinuxNoHugepage).unwrap();
            for page in (0..4096).step_by(2) {
                start.add(page * PAGE).write_volatile(1);
            }
            // Read only: a page of zeros.
            std::hint::black_box(start.add(LEN / 2).read_volatile());
        }
        let pid = std::process::id() as i32;
        let mapping = exposure::mappings(pid)
            .unwrap()
            .map(Result::unwrap)
            .find(|mapping| mapping.start <= start as u64 && (start as u64) < mapping.end)
            .unwrap();
        let part = Mapping {
            start: start as u64,
            end: start as u64 + LEN as u64,
            ..mapping
        };
        let mut pagemap = Pagemap::open(pid).unwrap();
        let scanned = pagemap.look(&part, 4).unwrap();
        let by_ioctl = pagemap.scans;
        pagemap.scans = false;
        let read = pagemap.look(&part, 4).unwrap();
        assert_eq!(scanned.samples.len(), 4);
        assert_eq!(scanned.samples, read.samples);
        if by_ioctl {
            assert_eq!(scanned.present, 2048);
        }
        // The file does not tell zeros from others.
        assert_eq!(read.present, 2049);
        // SAFETY: mapped above.
        unsafe { strongroom_sys::memory::unmap(start, LEN) }.unwrap();
    }
}
