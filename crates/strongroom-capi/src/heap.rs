//! Heaps: allocations inside secret memory, wiped when they are freed.

use crate::error::{self, Failure};
use crate::handle;
use crate::policy::{self, strongroom_policy};
use crate::receipt::{Document, Text};
use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use strongroom::keeper::KEEPERS;
use strongroom::{Heap, Reason, Refused};

/// `strongroom_heap`, opaque in C: the crate's own.
#[allow(non_camel_case_types, reason = "its name in C")]
pub type strongroom_heap = Heap;

const NO_HEAP: &str = "the heap is NULL; strongroom_heap_new failed, or was not called";
/// What every block is aligned to, in bytes.
const ALIGNMENT: usize = 16;

/// A heap of its own, under a policy; null where it cannot be had.
///
/// Thread safe.
///
/// # Safety
/// `policy` must be null or lead to a policy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_new(
    policy: *const strongroom_policy,
) -> *mut strongroom_heap {
    // SAFETY: the caller's promise.
    unsafe { policy::read(policy) }
        .and_then(|policy| handle::made(Heap::new(policy)?))
        .unwrap_or_else(null)
}

/// Gives a heap back with all that is in it; nothing for null. The process-wide heap is refused.
///
/// Thread safe, but only once for a heap, and while nothing uses it.
///
/// # Safety
/// `heap` must be null or a heap that is not given back, and nothing may use it, or a block of it, afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_delete(heap: *mut strongroom_heap) -> c_int {
    if ptr::eq(heap, strongroom::heap::global()) {
        return error::note(Failure::Argument(
            "the process-wide heap cannot be deleted; free its blocks",
        ));
    }
    if !heap.is_null() {
        let errno = error::errno();
        // SAFETY: the caller's promise.
        unsafe { handle::unmake(heap) };
        error::set_errno(errno);
    }
    error::SR_OK
}

/// Notes why there is no pointer.
pub(crate) fn null<T>(failure: Failure) -> *mut T {
    error::note(failure);
    ptr::null_mut()
}

/// Why the heap's last allocation failed.
fn refusal(heap: &Heap) -> Failure {
    let reason = heap.last_refusal().unwrap_or(Reason::OutOfMemory);
    match heap.policy() {
        Some(policy) => Failure::Refused(Refused {
            level: policy.required(),
            reason,
        }),
        None => Failure::Reason(reason),
    }
}

pub(crate) fn allocate(heap: &Heap, size: usize, alignment: usize) -> Result<*mut c_void, Failure> {
    if !alignment.is_power_of_two() {
        return Err(Failure::Argument(
            "the alignment is not a power of two; use 16 or more",
        ));
    }
    let block = heap.allocate_aligned(size, alignment);
    if block.is_null() {
        Err(refusal(heap))
    } else {
        Ok(block.cast())
    }
}

pub(crate) fn allocate_array(
    heap: &Heap,
    count: usize,
    size: usize,
) -> Result<*mut c_void, Failure> {
    let size = count.checked_mul(size).ok_or(Failure::Argument(
        "count times size is more than there are addresses; ask for less",
    ))?;
    // Blocks are zero when they are handed out.
    allocate(heap, size, ALIGNMENT)
}

/// # Safety
/// `block` must be null or a block in use of the heap, which is not used where another one is returned.
pub(crate) unsafe fn resize(
    heap: &Heap,
    block: *mut c_void,
    size: usize,
) -> Result<*mut c_void, Failure> {
    if block.is_null() {
        return allocate(heap, size, ALIGNMENT);
    }
    // Of a size of 0 the first byte would be lost, and the block does not go.
    // SAFETY: the caller's promise.
    let block = unsafe { heap.resize(block.cast(), size.max(1)) };
    if block.is_null() {
        Err(refusal(heap))
    } else {
        Ok(block.cast())
    }
}

/// # Safety
/// `block` must be null or a block in use of the heap, which nothing uses afterwards.
pub(crate) unsafe fn free(heap: &Heap, block: *mut c_void) {
    if !block.is_null() {
        let errno = error::errno();
        // SAFETY: the caller's promise.
        unsafe { heap.free(block.cast()) };
        error::set_errno(errno);
    }
}

/// # Safety
/// `block` must be null or a block in use of the heap.
pub(crate) unsafe fn usable_size(heap: &Heap, block: *mut c_void) -> usize {
    if block.is_null() {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { heap.usable_size(block.cast()) }
}

/// Asks a heap something; `otherwise` where it is null, which is noted.
///
/// # Safety
/// `heap` must be null or a heap that is not given back.
unsafe fn ask<T>(heap: *const strongroom_heap, otherwise: T, what: impl FnOnce(&Heap) -> T) -> T {
    // SAFETY: the caller's promise.
    match unsafe { handle::get(heap, NO_HEAP) } {
        Ok(heap) => what(heap),
        Err(failure) => {
            error::note(failure);
            otherwise
        }
    }
}

/// A zeroed block of at least `size` bytes, aligned to 16; null where memory is refused.
///
/// Thread safe.
///
/// # Safety
/// `heap` must be null or a heap that is not given back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_malloc(
    heap: *mut strongroom_heap,
    size: usize,
) -> *mut c_void {
    let allocate = |heap: &Heap| allocate(heap, size, ALIGNMENT).unwrap_or_else(null);
    // SAFETY: the caller's promise.
    unsafe { ask(heap, ptr::null_mut(), allocate) }
}

/// A zeroed block for `count` things of `size` bytes; null where that overflows or memory is refused.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_heap_malloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_calloc(
    heap: *mut strongroom_heap,
    count: usize,
    size: usize,
) -> *mut c_void {
    let allocate = |heap: &Heap| allocate_array(heap, count, size).unwrap_or_else(null);
    // SAFETY: the caller's promise.
    unsafe { ask(heap, ptr::null_mut(), allocate) }
}

/// A block with another size, at the same address or at another; null, with the block as it was, where
/// memory is refused.
///
/// Thread safe; a block is one thread's at a time.
///
/// # Safety
/// As [`strongroom_heap_malloc`]; `block` must be null or a block in use of this heap, and is not used any more where
/// another one is returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_realloc(
    heap: *mut strongroom_heap,
    block: *mut c_void,
    size: usize,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    let resize = |heap: &Heap| unsafe { resize(heap, block, size) }.unwrap_or_else(null);
    // SAFETY: the caller's promise.
    unsafe { ask(heap, ptr::null_mut(), resize) }
}

/// As [`strongroom_heap_malloc`], aligned to `alignment` bytes, a power of two.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_heap_malloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_aligned_alloc(
    heap: *mut strongroom_heap,
    alignment: usize,
    size: usize,
) -> *mut c_void {
    let allocate = |heap: &Heap| allocate(heap, size, alignment).unwrap_or_else(null);
    // SAFETY: the caller's promise.
    unsafe { ask(heap, ptr::null_mut(), allocate) }
}

/// Wipes a block and takes it back; nothing for a null block. errno stays as it is.
///
/// What is no block in use of this heap ends the process with a message.
///
/// Thread safe; a block is one thread's at a time.
///
/// # Safety
/// As [`strongroom_heap_malloc`]; `block` must be null or a block in use of this heap, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_free(heap: *mut strongroom_heap, block: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { ask(heap, (), |heap| free(heap, block)) }
}

/// How many bytes a block holds; 0 for a null one.
///
/// What is no block in use of this heap ends the process with a message.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_heap_malloc`]; `block` must be null or a block in use of this heap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_usable_size(
    heap: *mut strongroom_heap,
    block: *mut c_void,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe { ask(heap, 0, |heap| usable_size(heap, block)) }
}

/// Gives what the heap has free back to the kernel.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_heap_malloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_trim(heap: *mut strongroom_heap) {
    // SAFETY: the caller's promise.
    unsafe { ask(heap, (), Heap::trim) }
}

/// The protections that the heap is held under, as a set; 0 for null, and for the process-wide heap before
/// its first use.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_heap_malloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_held(heap: *const strongroom_heap) -> u32 {
    let held = |heap: &Heap| heap.receipt().map_or(0, |receipt| receipt.held().bits());
    // SAFETY: the caller's promise.
    unsafe { ask(heap, 0, held) }
}

/// The heap's receipt as JSON, into `buffer` as snprintf(3) would put it. Returns its length in bytes,
/// without the terminating zero; 0 for null, and for the process-wide heap before its first use, with
/// nothing written.
///
/// Thread safe.
///
/// # Safety
/// As [`strongroom_heap_malloc`]; `len` bytes from `buffer` must be writable, unless it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_heap_receipt(
    heap: *const strongroom_heap,
    buffer: *mut c_char,
    len: usize,
) -> usize {
    let write = |heap: &Heap| {
        let (Some(receipt), Some(keeper)) = (heap.receipt(), heap.keeper()) else {
            error::note(Failure::Argument(
                "the process-wide heap does not run yet; call strongroom_start first",
            ));
            return 0;
        };
        let by_keeper = KEEPERS.map(|keeper| keeper.name());
        let mut kept = heap.kept().map(|bytes| ("", bytes));
        for (place, name) in kept.iter_mut().zip(by_keeper) {
            place.0 = name;
        }
        let usage = heap.usage();
        let document = Document {
            schema: 1,
            keeper,
            kept: &kept,
            receipt,
            bytes: usage.mapped,
            chunks: usage.chunks,
        };
        // SAFETY: the caller's promise.
        document.write(unsafe { Text::new(buffer, len) })
    };
    // SAFETY: the caller's promise.
    unsafe { ask(heap, 0, write) }
}
