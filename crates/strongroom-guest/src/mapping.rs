//! Mappings that are unmapped when they are dropped. Unsafe code of this crate that is about
//! addresses lives here.

use crate::Error;
use core::ops::Range;
use core::sync::atomic::AtomicU32;
use rustix::fd::{AsFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};
use strongroom_sys::memory::{self, Advice};
use strongroom_sys::{Errno, PAGE, driver};

/// A range of this process's address space.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: it is a range of addresses; whoever reads or writes there is responsible for how.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Where a backing's view is, which is the backing's own as long as it lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View(pub(crate) *mut u8);

// SAFETY: an address; whoever reads or writes there is responsible for how.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl Mapping {
    /// Private zero memory that is there when it is touched and charged then. In bytes.
    pub(crate) fn sparse(len: usize) -> Result<Self, Error> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping replaces nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(core::ptr::null_mut(), len.max(PAGE), access, flags)
        }
        .map_err(Error::of("mmap"))?;
        let start = start.cast();
        Ok(Self {
            start,
            len: len.max(PAGE),
        })
    }

    /// The same from a multiple of 2 MiB, in pages of that size where the kernel has them: a flip of slots can
    /// make KVM forget its mappings, and one is found again sooner than 512.
    pub(crate) fn large(len: usize) -> Result<Self, Error> {
        const LARGE: usize = 2 << 20;
        let wide = Self::sparse(len + LARGE)?;
        let before = wide.start.align_offset(LARGE);
        let start = wide.start.wrapping_add(before);
        let large = Self { start, len };
        let (after, rest) = (start.wrapping_add(len), LARGE - before);
        // SAFETY: of the new mapping, what is not among the bytes that stay.
        unsafe {
            if before > 0 {
                let _ = memory::unmap(wide.start, before);
            }
            if rest > 0 {
                let _ = memory::unmap(after, rest);
            }
            // A kernel without such pages refuses.
            let _ = memory::advise(start, len, Advice::LinuxHugepage);
        }
        // All of it has gone, or is `large`'s.
        core::mem::forget(wide);
        Ok(large)
    }

    /// A file, shared with everything else that maps it. In bytes.
    pub(crate) fn shared(file: impl AsFd, offset: u64, len: usize) -> Result<Self, Error> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping replaces nothing.
        let start =
            unsafe { rustix::mm::mmap(core::ptr::null_mut(), len, access, flags, file, offset) }
                .map_err(Error::of("mmap"))?;
        let start = start.cast();
        Ok(Self { start, len })
    }

    /// The whole of a driver's object, from a multiple of 2 MiB where it is as long. In bytes.
    pub(crate) fn of_driver(object: &OwnedFd, len: usize) -> Result<Self, Error> {
        // SAFETY: a new mapping replaces nothing.
        let start = unsafe { driver::map(object, memory::Place::Anywhere, len) };
        let start = start.map_err(Error::of("mmap(/dev/strongroom)"))?;
        Ok(Self { start, len })
    }

    /// Maps pages of a file anew that this is a mapping of, to be read only.
    pub(crate) fn map_read_only(&self, file: impl AsFd, pages: Range<usize>) -> Result<(), Error> {
        let (start, len) = self.range(pages.clone()).map_err(Error::of("mmap"))?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
        let offset = (pages.start * PAGE) as u64;
        // SAFETY: the pages are the mapping's own, and of the same file, so that whoever reads them goes on.
        unsafe { rustix::mm::mmap(start.cast(), len, ProtFlags::READ, flags, file, offset) }
            .map_err(Error::of("mmap"))?;
        Ok(())
    }

    /// Addresses that nothing is at: whoever uses them fails. In bytes.
    pub(crate) fn nothing(len: usize) -> Result<Self, Error> {
        // SAFETY: a new mapping replaces nothing.
        let start = unsafe { memory::reserve(memory::Place::Anywhere, len) };
        let start = start.map_err(Error::of("mmap"))?;
        Ok(Self { start, len })
    }

    /// Whether its first byte can be read. The kernel tries, which raises no signal.
    pub(crate) fn readable(&self) -> Result<bool, Error> {
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::of("pipe"))?;
        // SAFETY: the byte is the mapping's own, and only the kernel looks at it.
        let byte = unsafe { core::slice::from_raw_parts(self.start, 1) };
        let result = rustix::io::write(&writer, byte);
        drop(reader);
        match result {
            Ok(_) => Ok(true),
            Err(Errno::FAULT) => Ok(false),
            Err(errno) => Err(Error::of("write")(errno)),
        }
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where a page of it is.
    pub(crate) fn page(&self, page: usize) -> *mut u8 {
        self.start.wrapping_add(page * PAGE)
    }

    /// Addresses and length of pages of it.
    fn range(&self, pages: Range<usize>) -> Result<(*mut u8, usize), Errno> {
        if pages.end > self.len / PAGE {
            return Err(Errno::INVAL);
        }
        Ok((self.page(pages.start), pages.len() * PAGE))
    }

    /// Drops the page-table entries of pages of a file's mapping, poison markers too; the file keeps
    /// what is in them.
    pub(crate) fn forget(&self, pages: Range<usize>) -> Result<(), Errno> {
        let (start, len) = self.range(pages)?;
        // SAFETY: the pages are the mapping's own. Of a shared file nothing is lost, and whoever
        // touches one finds it in the file again.
        unsafe { memory::advise(start, len, Advice::LinuxDontNeed) }
    }

    /// Frees pages of a file in memory: they are zero for all who map it (MADV_REMOVE).
    pub(crate) fn remove(&self, pages: Range<usize>) -> Result<(), Errno> {
        let (start, len) = self.range(pages)?;
        // SAFETY: the pages are the mapping's own, and used as raw memory only.
        unsafe { memory::advise(start, len, Advice::LinuxRemove) }
    }

    /// A child that is forked has nothing at these addresses.
    pub(crate) fn keep_from_children(&self) -> Result<(), Errno> {
        // SAFETY: the mapping's own; it changes no contents.
        unsafe { memory::advise(self.start, self.len, Advice::LinuxDontFork) }
    }

    /// Core dumps leave it out.
    pub(crate) fn keep_from_dumps(&self) -> Result<(), Errno> {
        // SAFETY: as above.
        unsafe { memory::advise(self.start, self.len, Advice::LinuxDontDump) }
    }

    /// Has pages be there, writable (MADV_POPULATE_WRITE, Linux 5.14).
    pub(crate) fn populate(&self, pages: Range<usize>) -> Result<(), Errno> {
        let (start, len) = self.range(pages)?;
        // SAFETY: the pages are the mapping's own, and keep what is in them.
        unsafe { memory::advise(start, len, Advice::LinuxPopulateWrite) }
    }

    /// Keeps pages in memory, from their first touch on.
    pub(crate) fn lock(&self, pages: Range<usize>) -> Result<(), Errno> {
        let (start, len) = self.range(pages)?;
        // SAFETY: the pages are the mapping's own.
        unsafe { memory::lock_on_fault(start, len) }
    }

    /// Takes the memory of pages from these NUMA nodes.
    pub(crate) fn bind(&self, pages: Range<usize>, nodes: u64) -> Result<(), Errno> {
        let (start, len) = self.range(pages)?;
        // SAFETY: the pages are the mapping's own, and keep what is in them.
        unsafe { memory::bind(start, len, nodes) }
    }

    /// Whether bytes are the mapping's own.
    fn has(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Copies bytes from one mapping to another. Both may be shared with a guest: what is copied
    /// is what was there at some moment.
    pub(crate) fn copy(&self, offset: usize, from: &Mapping, start: usize, len: usize) {
        assert!(self.has(offset, len) && from.has(start, len));
        // SAFETY: the bytes are the mappings' own, and they are used as raw memory only.
        unsafe { core::ptr::copy(from.start.add(start), self.start.add(offset), len) };
    }

    /// Makes the first bytes what another mapping's are, and writes only the words that differ: a machine that
    /// translates code has to do so again for a page that is written. Whole words.
    pub(crate) fn restore(&self, from: &Mapping, len: usize) {
        assert!(self.has(0, len) && from.has(0, len));
        let (this, from) = (self.start.cast::<u64>(), from.start.cast::<u64>());
        for word in 0..len / size_of::<u64>() {
            // SAFETY: as above, and aligned to pages.
            unsafe {
                let right = from.add(word).read_volatile();
                if this.add(word).read_volatile() != right {
                    this.add(word).write_volatile(right);
                }
            }
        }
    }

    /// Makes pages present and writable, all at once, where the kernel does that for them; otherwise
    /// they are when they are touched.
    pub(crate) fn try_to_populate(&self, offset: usize, len: usize) {
        assert!(self.has(offset, len));
        // SAFETY: the pages are the mapping's own, and it changes no contents.
        let _ = unsafe { memory::advise(self.start.add(offset), len, Advice::LinuxPopulateWrite) };
    }

    /// Sets bytes to zero.
    pub(crate) fn wipe(&self, offset: usize, len: usize) {
        assert!(self.has(offset, len));
        // SAFETY: as above. The memory is mapped elsewhere, too, so that the writes stay.
        unsafe { core::ptr::write_bytes(self.start.add(offset), 0, len) };
    }

    /// Writes bytes.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(self.has(offset, bytes.len()));
        // SAFETY: as above.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(offset), bytes.len());
        };
    }

    /// Eight bytes, at a multiple of that.
    pub(crate) fn word(&self, offset: usize) -> u64 {
        assert!(self.has(offset, size_of::<u64>()) && offset.is_multiple_of(size_of::<u64>()));
        // SAFETY: as above, and aligned.
        unsafe { self.start.add(offset).cast::<u64>().read_volatile() }
    }

    /// Writes them.
    pub(crate) fn set_word(&self, offset: usize, value: u64) {
        assert!(self.has(offset, size_of::<u64>()) && offset.is_multiple_of(size_of::<u64>()));
        // SAFETY: as above.
        unsafe { self.start.add(offset).cast::<u64>().write_volatile(value) };
    }

    /// The mapping as words, whatever is in it. Only for one that nothing but words is in.
    #[inline]
    pub(crate) fn words(&self, count: usize) -> &[AtomicU32] {
        let count = count.min(self.len / size_of::<AtomicU32>());
        // SAFETY: aligned to pages and mapped for as long as `self`; all bits make a word.
        unsafe { core::slice::from_raw_parts(self.start.cast(), count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by the constructor, and borrowed by nobody any more.
        let _ = unsafe { memory::unmap(self.start, self.len) };
    }
}
