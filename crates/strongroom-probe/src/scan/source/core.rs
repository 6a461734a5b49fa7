//! An ELF core: its segments, at the addresses that they had.

use super::window::Window;
use super::{Outcome, Place};
use crate::scan::Step;
use crate::scan::find::Memory;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// The longest table or list that is read at once, in bytes. The kernel's own are below 8 MiB.
const MOST: u64 = 32 << 20;

/// A core's segments, in the order of their addresses.
pub(in crate::scan) struct Core {
    file: File,
    segments: Vec<Segment>,
    /// How much the heads promise that the file does not have.
    cut: u64,
}

struct Segment {
    place: Place,
    offset: u64,
    /// How much of it is in the file.
    size: u64,
}

/// What a file is.
pub(in crate::scan) enum Kind {
    Core(Core),
    /// A core whose heads cannot be parsed.
    Broken,
    /// Something else.
    Other,
}

/// Looks whether a file is a core.
///
/// # Errors
/// Those of stat and dup.
pub(in crate::scan) fn open(file: &File) -> io::Result<Kind> {
    let mut head = [0; 18];
    let is_elf = file.read_exact_at(&mut head, 0).is_ok() && head.starts_with(&elf::ELFMAG);
    let [.., low, high] = head;
    // e_type, in the order that byte 5 tells.
    let kind = match head.get(5) {
        Some(2) => u16::from_be_bytes([low, high]),
        _ => u16::from_le_bytes([low, high]),
    };
    if !is_elf || kind != elf::ET_CORE.0 {
        return Ok(Kind::Other);
    }
    let length = file.metadata()?.len();
    let cache = ReadCache::new(file.try_clone()?);
    let segments = if head.get(4) == Some(&1) {
        segments::<elf::FileHeader32<Endianness>, _>(&cache)
    } else {
        segments::<elf::FileHeader64<Endianness>, _>(&cache)
    };
    let Some(mut segments) = segments else {
        return Ok(Kind::Broken);
    };
    segments.sort_by_key(|segment| segment.place.start);
    let mut cut = 0u64;
    for segment in &mut segments {
        let there = length.saturating_sub(segment.offset).min(segment.size);
        cut = cut.saturating_add(segment.size - there);
        segment.size = there;
    }
    Ok(Kind::Core(Core {
        file: file.try_clone()?,
        segments,
        cut,
    }))
}

fn segments<'data, Elf, R>(data: R) -> Option<Vec<Segment>>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let count = header.phnum(endian, data).ok()? as u64;
    if count.saturating_mul(size_of::<Elf::ProgramHeader>() as u64) > MOST {
        return None;
    }
    let heads = header.program_headers(endian, data).ok()?;
    let mut segments = Vec::new();
    let mut files = Vec::new();
    for head in heads {
        let size: u64 = head.p_filesz(endian).into();
        if head.p_type(endian) == elf::PT_NOTE && size <= MOST {
            let Ok(Some(mut notes)) = head.notes(endian, data) else {
                continue;
            };
            while let Ok(Some(note)) = notes.next() {
                if note.n_type(endian) == elf::NT_FILE {
                    files.extend(mapped_files::<Elf>(note.desc(), endian));
                }
            }
        }
        if head.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        let flags = head.p_flags(endian).0;
        let access = [(4, 'r'), (2, 'w'), (1, 'x')]
            .map(|(bit, letter)| if flags & bit == 0 { '-' } else { letter });
        let start: u64 = head.p_vaddr(endian).into();
        let memory: u64 = head.p_memsz(endian).into();
        segments.push(Segment {
            place: Place {
                start,
                end: start.saturating_add(memory.max(size)),
                access: access.iter().collect(),
                name: String::new(),
                exposure: None,
            },
            offset: head.p_offset(endian).into(),
            size,
        });
    }
    for segment in &mut segments {
        let place = &mut segment.place;
        let file = files
            .iter()
            .find(|(range, _)| range.start <= place.start && place.start < range.end);
        if let Some((_, name)) = file {
            place.name.clone_from(name);
        }
    }
    Some(segments)
}

/// NT_FILE: a count, the size of a page, so many times start, end and offset, and so many names.
fn mapped_files<Elf: FileHeader<Endian = Endianness>>(
    note: &[u8],
    endian: Endianness,
) -> Vec<(std::ops::Range<u64>, String)> {
    let size = if size_of::<Elf::Word>() == 4 { 4 } else { 8 };
    let word = |index: usize| -> Option<u64> {
        let bytes = note.get(index.checked_mul(size)?..)?.get(..size)?;
        let mut wide = [0; 8];
        match endian {
            Endianness::Little => wide.get_mut(..size)?.copy_from_slice(bytes),
            Endianness::Big => wide.get_mut(8 - size..)?.copy_from_slice(bytes),
        }
        Some(match endian {
            Endianness::Little => u64::from_le_bytes(wide),
            Endianness::Big => u64::from_be_bytes(wide),
        })
    };
    let count = word(0).and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|&count| count <= note.len() / size / 3);
    let Some(count) = count else {
        return Vec::new();
    };
    let names = note.get(size * (2 + 3 * count)..).unwrap_or_default();
    names
        .split(|&byte| byte == 0)
        .take(count)
        .enumerate()
        .filter_map(|(index, name)| {
            let range = word(2 + 3 * index)?..word(3 + 3 * index)?;
            Some((range, String::from_utf8_lossy(name).into_owned()))
        })
        .collect()
}

impl Core {
    /// Reads all segments.
    ///
    /// # Errors
    /// Those of read.
    pub(in crate::scan) fn read(
        &self,
        window: &mut Window<'_>,
        step: Step<'_>,
    ) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let total = self.segments.iter().map(|segment| segment.size).sum();
        let mut seen = 0;
        for segment in &self.segments {
            let mut at = 0;
            while at < segment.size {
                let room = window.room(segment.place.start.wrapping_add(at));
                let most = usize::try_from(segment.size - at).unwrap_or(usize::MAX);
                let most = most.min(room.len());
                let room = room.get_mut(..most).unwrap_or_default();
                match self.file.read_at(room, segment.offset.wrapping_add(at)) {
                    // It was cut just now.
                    Ok(0) => break,
                    Ok(count) => {
                        window.fill(count);
                        at += count as u64;
                        seen += count as u64;
                        step(seen, total);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            let length = segment.place.end - segment.place.start;
            outcome.coverage.absent += length.saturating_sub(segment.size);
            outcome.places.push(segment.place.clone());
        }
        if self.cut > 0 {
            let gap = format!(
                "the core is cut: it lacks {} bytes of its segments",
                self.cut
            );
            outcome.gaps.push(gap);
        }
        Ok(outcome)
    }
}

impl Memory for Core {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let mut at = 0;
        while at < into.len() {
            let wanted = address.wrapping_add(at as u64);
            let segment = self.segments.iter().find(|segment| {
                let place = wanted.checked_sub(segment.place.start);
                place.is_some_and(|place| place < segment.size)
            });
            let Some(segment) = segment else { return false };
            let place = wanted - segment.place.start;
            let most = usize::try_from(segment.size - place).unwrap_or(usize::MAX);
            let end = into.len().min(at.saturating_add(most));
            let part = into.get_mut(at..end).unwrap_or_default();
            let offset = segment.offset.wrapping_add(place);
            if self.file.read_exact_at(part, offset).is_err() {
                return false;
            }
            at = end;
        }
        true
    }
}
