//! The direct map: the kernel reads a page through its own mapping of all memory.
//!
//! The page's frame is in /proc/PID/pagemap; an eBPF program reads the kernel address at
//! which the direct map has that frame. Where the direct map begins is found by looking for
//! a page of our own through it, filled with random bytes: so nothing is believed that was
//! not read before, and a reader that sees nothing at all cannot pass for protection.
//!
//! Frames that held the kernel's start-up code are freed with a second mapping left in place,
//! that of the kernel's image (arch/x86/mm/init.c, `free_kernel_image_pages`, unless page-table
//! isolation is on). memfd_secret takes a page out of the direct map only, so the reader looks there too.
//!
//! A process in which the kernel touched a frame that was secret once, while it was free, may go
//! on reading it for up to seconds after it became secret again. After its first use as secret
//! memory the kernel maps a frame without the global bit (seen in its page tables, 6.18), and without
//! page-table isolation it flushes such a mapping for the running process only. See [`Reader::fades`].

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use strongroom_sys::bpf::{KernelCounter, KernelReader};
use strongroom_sys::{Errno, PAGE};

/// What a read through the kernel gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The bytes. Where some pages of several faulted, theirs are zero.
    Bytes(Vec<u8>),
    /// The kernel itself has none of those pages mapped.
    Fault,
}

/// The attack could not be made: nothing is known of the victim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    /// What was missing, for a person.
    pub what: String,
}

impl Refusal {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }

    /// For `map_err`: what was tried, and the error that ended it.
    pub(super) fn because<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::new(format!("{what}: {error}"))
    }
}

/// Reads `len` bytes of process `pid` at `address` through the kernel's direct map.
///
/// # Errors
/// Where the attack could not be made, or the page is not in memory.
pub fn read(pid: i32, address: u64, len: usize) -> Result<Answer, Refusal> {
    Reader::new()?.read(pid, address, len)
}

/// Reads `len` bytes of process `pid` at `address` through /proc/kcore, which gives zeros
/// where the kernel has no mapping.
///
/// # Errors
/// Where the attack could not be made (there is no /proc/kcore), or the page is not in memory.
pub fn read_kcore(pid: i32, address: u64, len: usize) -> Result<Answer, Refusal> {
    Kcore::new()?.read(pid, address, len)
}

/// Whether /proc/kcore shows these bytes in one of the frames.
///
/// # Errors
/// Where there is no /proc/kcore, or the read itself failed.
pub(super) fn kcore_has(frames: Range<u64>, needle: &[u8]) -> Result<bool, Refusal> {
    let kcore = Kcore::new()?;
    for frame in frames {
        let page = kcore.frame(frame)?;
        if page.is_some_and(|page| super::contains(&page, needle)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Physical memory, by frame.
trait Frames {
    /// The contents of a frame; `None` where the kernel cannot read it.
    fn frame(&self, frame: u64) -> Result<Option<[u8; PAGE]>, Refusal>;

    fn read(&self, pid: i32, address: u64, len: usize) -> Result<Answer, Refusal> {
        let pages = Pages::of(pid)?;
        let mut bytes = Vec::new();
        let mut any = false;
        for page in spanned(address, len) {
            let contents = pages.steady(page, |frame| self.frame(frame))?;
            any |= contents.is_some();
            bytes.extend(contents.unwrap_or([0; PAGE]));
        }
        if !any {
            return Ok(Answer::Fault);
        }
        let start = address as usize % PAGE;
        Ok(Answer::Bytes(
            bytes.get(start..start + len).unwrap_or(&[]).to_vec(),
        ))
    }
}

/// A reader of physical memory, proven to read.
#[derive(Debug)]
pub struct Reader {
    kernel: KernelReader,
    /// Where the direct map begins.
    base: u64,
    image: Image,
}

impl Reader {
    /// Loads the program and proves it on a page of this process.
    ///
    /// # Errors
    /// Where there is no eBPF, no pagemap or too few privileges for either, or the proof failed.
    pub fn new() -> Result<Self, Refusal> {
        let kernel = KernelReader::load().map_err(Refusal::because("an eBPF program"))?;
        let mark = Mark::new()?;
        let base = Pages::of_self()?.steady(mark.address(), |frame| {
            direct_map_base(&kernel, &mark, frame)
        })?;
        let base = base.ok_or_else(|| {
            Refusal::new("a page of this process was not found in the kernel's direct map")
        })?;
        let image = Image::find()?;
        Ok(Self {
            kernel,
            base,
            image,
        })
    }

    /// The contents of a frame of physical memory; `None` where the kernel has it not mapped.
    ///
    /// # Errors
    /// Where the read itself failed.
    pub fn frame(&self, frame: u64) -> Result<Option<[u8; PAGE]>, Refusal> {
        match read_page(&self.kernel, linear(self.base, frame))? {
            Some(page) => Ok(Some(page)),
            None => match self.image.address(frame)? {
                Some(address) => read_page(&self.kernel, address),
                None => Ok(None),
            },
        }
    }

    /// Whether the kernel has any of the frames mapped.
    ///
    /// # Errors
    /// Where the read itself failed.
    pub(super) fn has_any(&self, frames: Range<u64>) -> Result<bool, Refusal> {
        let counter = KernelCounter::load().map_err(Refusal::because("an eBPF program"))?;
        for first in frames.clone().step_by(KernelCounter::PAGES) {
            let address = linear(self.base, first);
            let unreadable = counter.unreadable(address);
            if unreadable.map_err(|error| unread(address, error))? == KernelCounter::PAGES {
                continue;
            }
            // Some of them, or what comes after the last.
            let end = frames.end.min(first + KernelCounter::PAGES as u64);
            for frame in first..end {
                if reaches(&self.kernel, linear(self.base, frame))? {
                    return Ok(true);
                }
            }
        }
        // The kernel's image is far smaller.
        let of_image =
            self.image.frames.start.max(frames.start)..self.image.frames.end.min(frames.end);
        for frame in of_image {
            if self.has(frame)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn has(&self, frame: u64) -> Result<bool, Refusal> {
        Ok(reaches(&self.kernel, linear(self.base, frame))?
            || match self.image.address(frame)? {
                Some(address) => reaches(&self.kernel, address)?,
                None => false,
            })
    }

    /// Whether the kernel can read the page of process `pid` at `address`; what it reads stays there.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn sees(&self, pid: i32, address: u64) -> Result<bool, Refusal> {
        Pages::of(pid)?.steady(address, |frame| self.has(frame))
    }

    /// [`Self::fades`] for the page of process `pid` at `address`.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn sight_fades(&self, pid: i32, address: u64, patience: Duration) -> Result<bool, Refusal> {
        self.fades(Pages::of(pid)?.frame(address)?, patience)
    }

    /// Whether a frame that was read is read no longer within `patience`: then it was by a
    /// translation that the kernel did not flush, which was pushed out here.
    ///
    /// # Errors
    /// Where the read itself failed.
    pub fn fades(&self, frame: u64, patience: Duration) -> Result<bool, Refusal> {
        // More pages than a processor's translation buffers have entries.
        const PAGES: usize = 8192;
        let started = Instant::now();
        let mut memory = vec![0u8; PAGES * PAGE];
        loop {
            for byte in memory.iter_mut().step_by(PAGE) {
                *byte = std::hint::black_box(byte.wrapping_add(1));
            }
            if self.frame(frame)?.is_none() {
                return Ok(true);
            }
            if started.elapsed() >= patience {
                return Ok(false);
            }
        }
    }

    /// Whether the frame once held a part of the kernel's image, which may still map it.
    pub fn is_of_kernel_image(&self, frame: u64) -> bool {
        self.image.frames.contains(&frame)
    }

    /// Reads `len` bytes of process `pid` at `address`.
    ///
    /// # Errors
    /// Where the process or its pagemap is not to be had, or the page is not in memory.
    pub fn read(&self, pid: i32, address: u64, len: usize) -> Result<Answer, Refusal> {
        Frames::read(self, pid, address, len)
    }
}

impl Frames for Reader {
    fn frame(&self, frame: u64) -> Result<Option<[u8; PAGE]>, Refusal> {
        Reader::frame(self, frame)
    }
}

/// Where a mapping of all frames in order has a frame.
fn linear(base: u64, frame: u64) -> u64 {
    base.wrapping_add(frame.wrapping_mul(PAGE as u64))
}

fn reaches(kernel: &KernelReader, address: u64) -> Result<bool, Refusal> {
    match kernel.reach(address) {
        Ok(()) => Ok(true),
        Err(Errno::FAULT) => Ok(false),
        Err(error) => Err(unread(address, error)),
    }
}

fn unread(address: u64, error: Errno) -> Refusal {
    Refusal::new(format!("the kernel's read of {address:#x}: {error}"))
}

fn read_page(kernel: &KernelReader, address: u64) -> Result<Option<[u8; PAGE]>, Refusal> {
    let mut page = [0; PAGE];
    match kernel.read(address, &mut page) {
        Ok(()) => Ok(Some(page)),
        Err(Errno::FAULT) => Ok(None),
        Err(error) => Err(unread(address, error)),
    }
}

/// The direct map begins at a multiple of 1 GiB (arch/x86/mm/kaslr.c), at most the size of
/// memory below any address in it. The kernel's structure for this task is such an address.
/// The lowest candidates come first: below the direct map nothing is mapped, above it may be devices.
fn direct_map_base(kernel: &KernelReader, mark: &Mark, frame: u64) -> Result<Option<u64>, Refusal> {
    const STEP: u64 = 1 << 30;
    let task = kernel
        .current_task()
        .map_err(Refusal::because("the eBPF program"))?;
    let highest = task & !(STEP - 1);
    for below in (0..=memory_end()?.div_ceil(STEP)).rev() {
        let candidate = highest.wrapping_sub(below * STEP);
        let mut page = [0; PAGE];
        // What is no address at all is no candidate either.
        if kernel.read(linear(candidate, frame), &mut page) == Ok(()) && mark.is(&page) {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// The physical address at which memory ends, in bytes.
fn memory_end() -> Result<u64, Refusal> {
    Ok(physical("System RAM")?.end)
}

/// What /proc/iomem has between the first and the last range of a name, in bytes.
fn physical(name: &str) -> Result<Range<u64>, Refusal> {
    let map = std::fs::read_to_string("/proc/iomem").map_err(Refusal::because("/proc/iomem"))?;
    let ranges = || {
        map.lines().filter_map(|line| {
            let (range, what) = line.trim().split_once(" : ")?;
            let (first, last) = range.split_once('-').filter(|_| what.starts_with(name))?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(first)?, number(last)?))
        })
    };
    let first = ranges().map(|(first, _)| first).min();
    let last = ranges().map(|(_, last)| last).max();
    match (first, last) {
        (Some(first), Some(last)) if last != 0 => Ok(first..last + 1),
        _ => Err(Refusal::new(
            "/proc/iomem shows no addresses (not CAP_SYS_ADMIN)",
        )),
    }
}

/// The kernel's own mapping of its image.
#[derive(Debug)]
struct Image {
    frames: Range<u64>,
    /// Where it is mapped; unknown where /proc/kallsyms hides it.
    start: Option<u64>,
}

impl Image {
    fn find() -> Result<Self, Refusal> {
        // Large pages map it, and a little is behind what /proc/iomem names.
        const LARGE: u64 = 2 << 20;
        // "Kernel code", "Kernel rodata", "Kernel data", "Kernel bss".
        let memory = physical("Kernel ")?;
        let symbols = std::fs::read_to_string("/proc/kallsyms")
            .map_err(Refusal::because("/proc/kallsyms"))?;
        let start = symbols
            .lines()
            .find_map(|line| line.strip_suffix(" T _text"))
            .and_then(|address| u64::from_str_radix(address, 16).ok())
            .filter(|&address| address != 0);
        Ok(Self {
            frames: memory.start / PAGE as u64..memory.end.next_multiple_of(LARGE) / PAGE as u64,
            start,
        })
    }

    /// Where the image has the frame; an error where it may have it at an address that is not known.
    fn address(&self, frame: u64) -> Result<Option<u64>, Refusal> {
        if !self.frames.contains(&frame) {
            return Ok(None);
        }
        let start = self.start.ok_or_else(|| {
            Refusal::new("/proc/kallsyms does not show where the kernel's image is mapped")
        })?;
        Ok(Some(linear(start, frame - self.frames.start)))
    }
}

/// A page of this process with random contents.
struct Mark {
    memory: Vec<u8>,
    start: usize,
}

impl Mark {
    fn new() -> Result<Self, Refusal> {
        let mut memory = vec![0; 2 * PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        let page = memory.get_mut(start..start + PAGE);
        let page = page.ok_or_else(|| Refusal::new("no page of its own to be had"))?;
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(page))
            .map_err(Refusal::because("/dev/urandom"))?;
        Ok(Self { memory, start })
    }

    fn address(&self) -> u64 {
        (self.memory.as_ptr() as usize + self.start) as u64
    }

    fn is(&self, page: &[u8; PAGE]) -> bool {
        std::hint::black_box(&self.memory).get(self.start..self.start + PAGE) == Some(page)
    }
}

/// The addresses of the pages that `len` bytes at `address` lie in.
pub(super) fn spanned(address: u64, len: usize) -> impl Iterator<Item = u64> {
    let first = address - address % PAGE as u64;
    let end = address.saturating_add(len as u64);
    (first..end).step_by(PAGE)
}

/// /proc/PID/pagemap: which frame is behind which page.
pub(super) struct Pages {
    map: File,
    name: String,
}

impl Pages {
    pub(super) fn of(pid: i32) -> Result<Self, Refusal> {
        Self::open(format!("/proc/{pid}/pagemap"))
    }

    fn of_self() -> Result<Self, Refusal> {
        Self::open("/proc/self/pagemap".into())
    }

    fn open(name: String) -> Result<Self, Refusal> {
        let map = File::open(&name).map_err(Refusal::because(&name))?;
        Ok(Self { map, name })
    }

    /// The frame of the page at `address`.
    pub(super) fn frame(&self, address: u64) -> Result<u64, Refusal> {
        // Documentation/admin-guide/mm/pagemap.rst.
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const FRAME: u64 = (1 << 55) - 1;
        let name = &self.name;
        let mut entry = [0; 8];
        self.map
            .read_exact_at(&mut entry, address / PAGE as u64 * 8)
            .map_err(Refusal::because(format!("{name} at {address:#x}")))?;
        let entry = u64::from_ne_bytes(entry);
        match entry & FRAME {
            _ if entry & SWAPPED != 0 => Err(format!("the page at {address:#x} is swapped out")),
            _ if entry & PRESENT == 0 => Err(format!("no page is present at {address:#x}")),
            0 => Err(format!("{name} shows no frames (not CAP_SYS_ADMIN)")),
            frame => Ok(frame),
        }
        .map_err(Refusal::new)
    }

    /// Reads the page's frame, again where the page moved to another meanwhile.
    fn steady<T>(
        &self,
        address: u64,
        read: impl Fn(u64) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            let frame = self.frame(address)?;
            let result = read(frame)?;
            if self.frame(address)? == frame {
                return Ok(result);
            }
        }
        Err(Refusal::new(format!(
            "the page at {address:#x} keeps moving"
        )))
    }
}

/// /proc/kcore: an ELF core file of the kernel's memory, proven to be read.
struct Kcore {
    file: File,
    /// Physical start, length and place in the file of what it has of memory, in bytes.
    segments: Vec<(u64, u64, u64)>,
}

impl Kcore {
    fn new() -> Result<Self, Refusal> {
        let file = File::open("/proc/kcore").map_err(Refusal::because("/proc/kcore"))?;
        let segments = segments(&file).map_err(Refusal::because("/proc/kcore"))?;
        let kcore = Self { file, segments };
        let mark = Mark::new()?;
        match Pages::of_self()?.steady(mark.address(), |frame| kcore.frame(frame))? {
            Some(page) if mark.is(&page) => Ok(kcore),
            _ => Err(Refusal::new(
                "a page of this process was not found in /proc/kcore",
            )),
        }
    }
}

impl Frames for Kcore {
    fn frame(&self, frame: u64) -> Result<Option<[u8; PAGE]>, Refusal> {
        let physical = frame * PAGE as u64;
        let mut seen = None;
        // The direct map and the kernel's image may both have it.
        for &(start, len, offset) in &self.segments {
            if !(start..start.saturating_add(len)).contains(&physical) {
                continue;
            }
            let mut page = [0; PAGE];
            match self
                .file
                .read_exact_at(&mut page, offset + physical - start)
            {
                Ok(()) if page != [0; PAGE] => return Ok(Some(page)),
                Ok(()) => seen = Some(page),
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {}
                Err(error) => return Err(Refusal::because("/proc/kcore")(error)),
            }
        }
        Ok(seen)
    }
}

/// The PT_LOAD segments of an ELF core file that say their physical address.
fn segments(file: &File) -> io::Result<Vec<(u64, u64, u64)>> {
    const PT_LOAD: u32 = 1;
    const NO_PHYSICAL: u64 = u64::MAX;
    let u16_at = |at| {
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, at)
            .map(|()| u16::from_ne_bytes(bytes))
    };
    let u64_at = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at)
            .map(|()| u64::from_ne_bytes(bytes))
    };
    // Elf64_Ehdr: e_phoff, e_phentsize, e_phnum. Elf64_Phdr: p_type (and p_flags), p_offset, p_vaddr, p_paddr, p_filesz.
    let (headers, size, count) = (u64_at(0x20)?, u16_at(0x36)?, u16_at(0x38)?);
    let mut segments = Vec::new();
    for header in (0..u64::from(count)).map(|index| headers + index * u64::from(size)) {
        let (physical, len, offset) = (
            u64_at(header + 0x18)?,
            u64_at(header + 0x20)?,
            u64_at(header + 0x08)?,
        );
        if u64_at(header)? as u32 == PT_LOAD && physical != NO_PHYSICAL {
            segments.push((physical, len, offset));
        }
    }
    Ok(segments)
}
