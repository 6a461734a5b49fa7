//! The kernel's own ways to memory: its direct map by eBPF, /proc/kcore. What they give of ordinary memory,
//! they do not of the pool's, whether it is held or not.

use crate::memory::{Pattern, pool};
use crate::object::{Map, Object, alone, map, skip};
use std::fs::File;
use std::os::unix::fs::FileExt;
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};
use strongroom_probe::attack::direct_map::{Answer, Reader};
use strongroom_probe::attack::residue;

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn ordinary(pattern: &Pattern) -> Map {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let map = map(-1, 0, 4 * PAGE, RW, flags).unwrap();
    pattern.write(map.address(), 4);
    map
}

fn secret(pattern: &Pattern, mode: Mode, bytes: u64) -> Map {
    let map = Object::with_mode(mode, bytes).map().unwrap();
    pattern.write(map.address(), map.len() / PAGE as usize);
    map
}

fn me() -> i32 {
    std::process::id() as i32
}

#[test]
fn the_direct_map_has_ordinary_pages_and_none_of_the_pool() {
    let Some(_alone) = alone() else { return };
    let reader = match Reader::new() {
        Ok(reader) => reader,
        Err(why) => return skip(&why.to_string()),
    };
    let pattern = Pattern::new();
    // The control.
    let plain = ordinary(&pattern);
    let read = reader.read(me(), plain.address() as u64, plain.len());
    assert!(read.unwrap() == Answer::Bytes(plain.bytes().to_vec()));
    // The driver's pages are in no pagemap: wherever a secret is, it is in one of these frames.
    let none = |when: &str, step: usize| {
        for range in pool() {
            for frame in (range.start / PAGE..range.end / PAGE).step_by(step) {
                let read = reader.frame(frame).unwrap();
                assert!(read.is_none(), "{when}: frame {frame:#x}");
            }
        }
    };
    none("before", 73);
    let small = secret(&pattern, Mode::EXCLUSIVE, 9 * PAGE);
    let large = secret(&pattern, Mode::EXCLUSIVE | Mode::HUGE, 2 * HUGE_PAGE);
    let uncached = secret(&pattern, Mode::EXCLUSIVE | Mode::UNCACHED, 9 * PAGE);
    none("during", 1);
    drop((small, large, uncached));
    none("after", 1);
}

#[test]
fn kcore_has_ordinary_pages_and_none_of_the_pool() {
    let Some(_alone) = alone() else { return };
    if !std::fs::exists("/proc/kcore").unwrap() {
        return skip("this kernel has no /proc/kcore");
    }
    let pattern = Pattern::new();
    let plain = ordinary(&pattern);
    let frames = residue::frames(me(), plain.address() as u64, plain.len()).unwrap();
    let kcore = Kcore::open();
    let read = |place: u64| kcore.read(place);
    // The control.
    for (frame, page) in frames.iter().zip(plain.bytes().chunks(PAGE as usize)) {
        assert!(read(frame * PAGE).is_some_and(|read| read == page));
    }
    let _held = secret(&pattern, Mode::EXCLUSIVE, HUGE_PAGE + 5 * PAGE);
    for range in pool() {
        for place in range.step_by(PAGE as usize) {
            // It has no such segment, or no mapping there: then it gives zeros.
            let nothing = read(place).is_none_or(|page| page.iter().all(|&byte| byte == 0));
            assert!(nothing, "{place:#x}");
        }
    }
}

/// /proc/kcore: an ELF core file, of which the segments of ordinary memory say their physical addresses.
struct Kcore {
    file: File,
    /// Physical address, bytes, place in the file.
    segments: Vec<[u64; 3]>,
}

impl Kcore {
    fn open() -> Self {
        let file = File::open("/proc/kcore").unwrap();
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0).unwrap();
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        // Elf64_Ehdr: e_phoff at 32, e_phnum at 56. Elf64_Phdr: p_type at 0, p_offset at 8, p_paddr at 24,
        // p_filesz at 32.
        let table = number(&header[32..40]);
        let entries = u64::from(u16::from_le_bytes([header[56], header[57]]));
        let segments = (0..entries)
            .filter_map(|entry| {
                let mut bytes = [0; 56];
                file.read_exact_at(&mut bytes, table + entry * 56).unwrap();
                let loaded = bytes[..4] == [1, 0, 0, 0];
                let fields = [24..32, 32..40, 8..16].map(|at| number(&bytes[at]));
                loaded.then_some(fields)
            })
            .collect();
        Self { file, segments }
    }

    /// A page of physical memory, where a segment has it.
    fn read(&self, place: u64) -> Option<[u8; PAGE as usize]> {
        let [start, _, at] = self
            .segments
            .iter()
            .find(|[start, bytes, _]| place >= *start && place - start + PAGE <= *bytes)?;
        let mut page = [0; PAGE as usize];
        self.file
            .read_exact_at(&mut page, at + place - start)
            .ok()?;
        Some(page)
    }
}
