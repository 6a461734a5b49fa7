//! The page that the secret is in, and what can be done with it by its owner.

use super::speech::{code, say, stdin, stdout};
use super::store::Store;
use super::{LENGTH, OFFSET, hash};
use strongroom_sys::memory::{self, Advice};
use strongroom_sys::{Errno, PAGE, peek};

pub(super) struct Buffer<'a> {
    pub(super) store: &'a dyn Store,
    start: *mut u8,
}

impl<'a> Buffer<'a> {
    pub(super) fn new(store: &'a dyn Store) -> Result<Self, Errno> {
        let start = store.allocate(PAGE)?;
        Ok(Self { store, start })
    }

    pub(super) fn start(&self) -> usize {
        self.start as usize
    }

    pub(super) fn secret(&self) -> *mut u8 {
        self.start.wrapping_add(OFFSET)
    }

    /// Reads the secret from standard input, straight to where it is to be.
    pub(super) fn fill(&self) -> Result<(), Errno> {
        // SAFETY: the buffer is a page, and OFFSET + LENGTH lies within it.
        unsafe { fill(self.secret()) }
    }

    pub(super) fn byte(&self, index: usize) -> u8 {
        // SAFETY: callers stay below LENGTH; volatile, as a child or a parent may have written it.
        unsafe { self.secret().wrapping_add(index).read_volatile() }
    }

    pub(super) fn set_byte(&self, index: usize, value: u8) {
        // SAFETY: as in `byte`.
        unsafe { self.secret().wrapping_add(index).write_volatile(value) };
    }

    pub(super) fn hash(&self) -> u64 {
        hash((0..LENGTH).map(|index| self.byte(index)))
    }

    /// The pages themselves into standard output, framed by lines.
    pub(super) fn vmsplice(&self) -> Result<(), Errno> {
        say(format_args!("pages"))?;
        // SAFETY: the buffer is a page of ours.
        let result = unsafe { peek::vmsplice(stdout(), self.start, PAGE) };
        say(format_args!("\nresult {}", code(result)))
    }

    /// The buffer by write(2) into standard output: what the process itself sees there.
    pub(super) fn dump(&self) -> Result<(), Errno> {
        say(format_args!("pages"))?;
        let result = peek::write_from(stdout(), self.start as usize, PAGE);
        say(format_args!("\nresult {}", code(result)))
    }

    /// An O_DIRECT write of the buffer.
    pub(super) fn direct(&self, path: &str) -> Result<usize, Errno> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::DIRECT;
        let mut name = [0u8; 512];
        let name = name.get_mut(..=path.len()).ok_or(Errno::NAMETOOLONG)?;
        name[..path.len()].copy_from_slice(path.as_bytes());
        let name = std::ffi::CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
        let file = rustix::fs::open(name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .map_err(|_| Errno::OPNOTSUPP)?;
        peek::write_from(&file, self.start as usize, PAGE)
    }

    /// A registered io_uring buffer, written from there into standard output.
    pub(super) fn io_uring(&self) -> Result<(), Errno> {
        let write = || {
            let ring = peek::Ring::new().map_err(|_| Errno::OPNOTSUPP)?;
            // SAFETY: the buffer is a page of ours.
            unsafe { ring.register_buffer(self.start, PAGE) }?;
            ring.write_fixed(stdout(), self.start, PAGE as u32)
        };
        say(format_args!("pages"))?;
        let result = write();
        say(format_args!("\nresult {}", code(result)))
    }

    pub(super) fn page_out(&self) -> Result<(), Errno> {
        // SAFETY: the buffer is a page of ours; this advice keeps its contents.
        let done = unsafe { memory::advise(self.start, PAGE, Advice::LinuxPageOut) };
        say(format_args!("MADV_PAGEOUT {}", code(done.map(|()| 0))))
    }

    pub(super) fn free(&self) {
        // SAFETY: allocated in `new` with this length; a victim is told so once, and what it is
        // asked afterwards goes through the kernel or is meant to break the rules.
        unsafe { self.store.release(self.start, PAGE) };
    }
}

/// Reads LENGTH bytes from standard input, straight to where they are to be.
///
/// # Safety
/// That much must be writable there.
pub(super) unsafe fn fill(place: *mut u8) -> Result<(), Errno> {
    let mut done = 0;
    while done < LENGTH {
        // SAFETY: the caller's promise.
        done += match unsafe { peek::read_into(stdin(), place.wrapping_add(done), LENGTH - done) } {
            Ok(0) => return Err(Errno::PIPE),
            Ok(read) => read,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(())
}
