//! The heap as Rust's allocators: `allocator_api2::Allocator` and `GlobalAlloc`.

use super::{Heap, global};
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

fn block(heap: &Heap, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
    if layout.size() == 0 {
        let dangling = NonNull::new(core::ptr::without_provenance_mut(layout.align()));
        return dangling
            .map(|start| NonNull::slice_from_raw_parts(start, 0))
            .ok_or(AllocError);
    }
    NonNull::new(heap.allocate_aligned(layout.size(), layout.align()))
        .map(|start| NonNull::slice_from_raw_parts(start, layout.size()))
        .ok_or(AllocError)
}

// SAFETY: blocks stay where they are until they are freed, whatever becomes of the reference; a
// shared reference to a heap is the same allocator as its copies.
unsafe impl Allocator for &Heap {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        block(self, layout)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // Free memory is zero already.
        block(self, layout)
    }

    unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the caller's promise: a block of this allocator, no longer used.
            unsafe { self.free(start.as_ptr()) };
        }
    }
}

/// The process-wide heap as a program's allocator: everything it allocates is secret.
///
/// ```no_run
/// #[global_allocator]
/// static ALLOCATOR: strongroom::SecretAllocator = strongroom::SecretAllocator;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SecretAllocator;

// SAFETY: blocks are distinct, aligned and as long as asked; failure is null; nothing unwinds.
unsafe impl GlobalAlloc for SecretAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        global().allocate_aligned(layout.size(), layout.align())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // Free memory is zero already.
        global().allocate_aligned(layout.size(), layout.align())
    }

    unsafe fn dealloc(&self, start: *mut u8, _layout: Layout) {
        // SAFETY: the caller's promise: a block of this allocator, no longer used.
        unsafe { global().free(start) };
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= super::classes::UNIT {
            // SAFETY: the caller's promise.
            return unsafe { global().resize(start, size) };
        }
        let new = global().allocate_aligned(size, layout.align());
        if !new.is_null() {
            // SAFETY: both blocks are that long and differ; the old one is the caller's to give up.
            unsafe {
                core::ptr::copy_nonoverlapping(start, new, layout.size().min(size));
                global().free(start);
            }
        }
        new
    }
}
