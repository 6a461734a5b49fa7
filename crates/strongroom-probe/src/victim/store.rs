//! Where a victim's memory comes from.

use std::alloc::Layout;
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use strongroom_sys::memory::{self, Advice, Place};
use strongroom_sys::{Errno, PAGE, page_ceil, secret_memory};

/// A source of blocks.
pub trait Store {
    /// A block of `len` bytes: whole pages start at a page.
    ///
    /// # Errors
    /// What the kernel said.
    fn allocate(&self, len: usize) -> Result<*mut u8, Errno>;

    /// Gives a block back.
    ///
    /// # Safety
    /// It came from `allocate` with this length. A victim that breaks the rules on purpose may
    /// give it back twice where `frees_twice` says so.
    unsafe fn release(&self, block: *mut u8, len: usize);

    /// Whether a block can be given back twice at all.
    fn frees_twice(&self) -> bool {
        true
    }

    /// What is claimed for the memory, as a line of JSON; nothing where that is another's to say.
    fn receipt(&self) -> Option<String> {
        None
    }
}

/// The stores that need no library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In memory from malloc.
    Plain,
    /// As libsodium does: mmap, mlock, MADV_DONTDUMP; wiped before it is unmapped.
    Locked,
    /// In memfd_secret memory whose descriptor stays open.
    OpenFd,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Plain, Kind::Locked, Kind::OpenFd];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Locked => "locked",
            Kind::OpenFd => "open-fd",
        }
    }

    /// The store.
    pub fn store(self) -> Box<dyn Store> {
        match self {
            Kind::Plain => Box::new(Malloc),
            Kind::Locked => Box::new(Locked),
            Kind::OpenFd => Box::new(OpenFd::default()),
        }
    }
}

/// malloc and free, whoever provides them.
struct Malloc;

impl Malloc {
    fn layout(len: usize) -> Result<Layout, Errno> {
        let align = if len < PAGE { 16 } else { PAGE };
        Layout::from_size_align(len.max(1), align).map_err(|_| Errno::INVAL)
    }
}

impl Store for Malloc {
    fn allocate(&self, len: usize) -> Result<*mut u8, Errno> {
        // SAFETY: the layout's size is not 0.
        let start = unsafe { std::alloc::alloc(Self::layout(len)?) };
        if start.is_null() {
            return Err(Errno::NOMEM);
        }
        Ok(start)
    }

    unsafe fn release(&self, block: *mut u8, len: usize) {
        if let Ok(layout) = Self::layout(len) {
            // SAFETY: the caller's promise.
            unsafe { std::alloc::dealloc(block, layout) };
        }
    }
}

fn pages(len: usize) -> Result<usize, Errno> {
    page_ceil(len.max(1)).ok_or(Errno::NOMEM)
}

/// mmap, mlock, MADV_DONTDUMP.
struct Locked;

impl Store for Locked {
    fn allocate(&self, len: usize) -> Result<*mut u8, Errno> {
        let len = pages(len)?;
        // SAFETY: a new mapping replaces nothing.
        let start = unsafe { memory::map_private(Place::Anywhere, len) }?;
        // SAFETY: mapped above.
        unsafe {
            memory::lock(start, len)?;
            memory::advise(start, len, Advice::LinuxDontDump)?;
        }
        Ok(start)
    }

    fn frees_twice(&self) -> bool {
        // munmap means a range of addresses, not a block.
        false
    }

    unsafe fn release(&self, block: *mut u8, len: usize) {
        let Ok(len) = pages(len) else { return };
        // SAFETY: the caller's promise.
        unsafe {
            for index in 0..len {
                block.wrapping_add(index).write_volatile(0);
            }
            let _ = memory::unmap(block, len);
        }
    }
}

/// memfd_secret with the descriptors kept.
#[derive(Default)]
struct OpenFd {
    files: RefCell<Vec<OwnedFd>>,
}

impl Store for OpenFd {
    fn allocate(&self, len: usize) -> Result<*mut u8, Errno> {
        let len = pages(len)?;
        let file = secret_memory::create()?;
        secret_memory::set_length(&file, len)?;
        // SAFETY: a new mapping replaces nothing.
        let start = unsafe { secret_memory::map(&file, Place::Anywhere, len) }?;
        // Open past exec, too, as a descriptor is unless somebody thinks of it.
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
        self.files.borrow_mut().push(file);
        Ok(start)
    }

    fn frees_twice(&self) -> bool {
        false
    }

    unsafe fn release(&self, block: *mut u8, len: usize) {
        if let Ok(len) = pages(len) {
            // SAFETY: the caller's promise.
            let _ = unsafe { memory::unmap(block, len) };
        }
    }
}
