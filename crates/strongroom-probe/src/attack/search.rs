//! Looking through all of a process's memory, piece by piece.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use strongroom_core::driver::DEVICE;

/// How much is read at once, in bytes.
const PIECE: usize = 1 << 20;

/// A mapping that has pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// What /proc/PID/smaps calls it; empty for anonymous memory.
    pub(crate) name: String,
}

/// The readable mappings of a process that have pages: a reservation has none, in any number of
/// gigabytes.
///
/// # Errors
/// Where /proc/PID/smaps may not be read, or the process has ended.
pub(crate) fn resident(pid: i32) -> io::Result<Vec<Mapping>> {
    Ok(parse(&std::fs::read_to_string(format!(
        "/proc/{pid}/smaps"
    ))?))
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(head) = head(line) {
            current = Some(head);
            continue;
        }
        let Some(rss) = line.strip_prefix("Rss:") else {
            continue;
        };
        // Of a device's memory, the driver's for one, the kernel counts no pages.
        if let Some((mapping, true)) = current.take()
            && (rss.trim() != "0 kB" || mapping.name == DEVICE)
        {
            found.push(mapping);
        }
    }
    found
}

/// The line that a mapping begins with, and whether it can be read.
fn head(line: &str) -> Option<(Mapping, bool)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let access = fields.next()?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let mapping = Mapping {
        start: number(start)?,
        end: number(end)?,
        name: fields.skip(3).collect::<Vec<_>>().join(" "),
    };
    // What the kernel maps there is not the process's.
    let readable = access.starts_with('r') && !mapping.name.starts_with("[v");
    Some((mapping, readable))
}

/// Reads mappings by `read`, which says how many bytes it got, and calls `hit` with the address of
/// each piece and its bytes until that says to stop. Pieces overlap by `overlap` bytes.
pub(crate) fn pieces(
    mappings: &[Mapping],
    overlap: usize,
    mut read: impl FnMut(u64, &mut [u8]) -> usize,
    mut hit: impl FnMut(&Mapping, u64, &[u8]) -> bool,
) {
    let mut bytes = vec![0; PIECE + overlap];
    for mapping in mappings {
        let mut at = mapping.start;
        while at < mapping.end {
            let want = (mapping.end - at).min(bytes.len() as u64) as usize;
            let got = read(at, bytes.get_mut(..want).unwrap_or_default());
            if hit(mapping, at, bytes.get(..got).unwrap_or_default()) {
                return;
            }
            // Past what was read; past a page that could not be.
            at += match got {
                0 => 4096,
                got if got < want => (got as u64).next_multiple_of(4096),
                _ => PIECE as u64,
            };
        }
    }
}

/// /proc/PID/mem, to be read by [`pieces`].
pub(crate) fn by_mem(pid: i32) -> io::Result<impl FnMut(u64, &mut [u8]) -> usize> {
    let mem = File::open(format!("/proc/{pid}/mem"))?;
    Ok(move |at, place: &mut [u8]| mem.read_at(place, at).unwrap_or(0))
}

/// Where the first copy of `needle` is that can be read from outside, and in what mapping.
///
/// # Errors
/// Where the process may not be looked into.
pub(crate) fn first(pid: i32, needle: &[u8]) -> io::Result<Option<(u64, String)>> {
    let mappings = resident(pid)?;
    let mut found = None;
    pieces(
        &mappings,
        needle.len(),
        by_mem(pid)?,
        |mapping, at, bytes| {
            found =
                position(bytes, needle).map(|offset| (at + offset as u64, mapping.name.clone()));
            found.is_some()
        },
    );
    Ok(found)
}

/// The first place of `needle` in `haystack`.
pub(crate) fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
5000-7000 r--p 00000000 00:1f 77                 /usr/lib/a file.so
Size:                  8 kB
Rss:                   4 kB
8000-9000 rw-p 00000000 00:00 0
Rss:                   0 kB
9000-a000 ---p 00000000 00:00 0
Rss:                   4 kB
7ffd5000-7ffd7000 r--p 00000000 00:00 0          [vvar]
Rss:                   4 kB
a000-c000 rw-p 00000000 00:00 0                  [stack]
Rss:                   8 kB
d000-e000 rw-s 00000000 00:05 9                  /dev/strongroom
Rss:                   0 kB
";

    #[test]
    fn mappings_that_have_pages_and_can_be_read() {
        let found = parse(SMAPS);
        let names: Vec<_> = found.iter().map(|mapping| mapping.name.as_str()).collect();
        assert_eq!(names, ["/usr/lib/a file.so", "[stack]", "/dev/strongroom"]);
        assert_eq!((found[1].start, found[1].end), (0xa000, 0xc000));
    }

    #[test]
    fn what_lies_across_two_pieces_is_found_and_holes_are_passed() {
        let start = 1 << 30;
        let mapping = Mapping {
            start,
            end: start + 3 * PIECE as u64,
            name: String::new(),
        };
        let needle = b"across";
        let place = start + PIECE as u64 + 4096 * 2 - 3;
        // The first page of the second piece cannot be read.
        let hole = start + PIECE as u64;
        let read = |at: u64, bytes: &mut [u8]| {
            if at == hole {
                return 0;
            }
            let end = if at < hole { hole } else { u64::MAX };
            let len = bytes.len().min((end - at) as usize);
            for (index, byte) in bytes[..len].iter_mut().enumerate() {
                let offset = (at + index as u64).wrapping_sub(place) as usize;
                *byte = needle.get(offset).copied().unwrap_or(0);
            }
            len
        };
        let mut found = None;
        pieces(&[mapping], needle.len(), read, |_, at, bytes| {
            found = position(bytes, needle).map(|offset| at + offset as u64);
            found.is_some()
        });
        assert_eq!(found, Some(place));
    }
}
