//! malloc and its kin.
//!
//! C11 7.22.3, POSIX.1-2017 and glibc's manual say what each does at the edges; where
//! they differ this is glibc's way, which programs on it expect.

use crate::real::{Real, set_errno};
use crate::start::{HEAP, source};
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};
use strongroom::heap::{self, Heap};
use strongroom::line;
use strongroom_sys::{Errno, PAGE};

unsafe extern "C" {
    // glibc's own allocator under its second names (GLIBC_2.2.5).
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
    fn __libc_free(block: *mut c_void);
}

#[inline(always)]
fn heap() -> &'static Heap {
    heap::global()
}

/// The largest size that C allows an object to have.
const MOST: usize = isize::MAX as usize;

#[inline(always)]
fn allocate(size: usize) -> *mut c_void {
    if size <= MOST {
        let block = heap().allocate(size);
        if !block.is_null() {
            return block.cast();
        }
    }
    fail(size)
}

/// Null and ENOMEM; the first time, one line that says why.
#[cold]
#[inline(never)]
fn fail(size: usize) -> *mut c_void {
    static SAID: AtomicBool = AtomicBool::new(false);
    // Sizes that no machine has are a program's way to ask, not a limit's doing.
    if size <= heap().capacity()
        && !SAID.swap(true, Ordering::Relaxed)
        && let Some(reason) = heap().last_refusal()
    {
        line::complain_of(format_args!("no secret memory left, malloc fails"), reason);
    }
    set_errno(Errno::NOMEM);
    ptr::null_mut()
}

/// malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    if source() == HEAP {
        return allocate(size);
    }
    // SAFETY: no preconditions.
    unsafe { __libc_malloc(size) }
}

/// calloc(3). Free memory of the heap is zero already.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    if source() == HEAP {
        return count
            .checked_mul(size)
            .map_or_else(|| fail(usize::MAX), allocate);
    }
    // SAFETY: no preconditions.
    unsafe { __libc_calloc(count, size) }
}

/// realloc(3). A size of 0 frees, as glibc does.
///
/// # Safety
/// `block` must be null or a block in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(size);
    }
    if source() != HEAP || !heap().contains(block.cast()) {
        // SAFETY: the caller's promise; a block that is not the heap's is glibc's.
        return unsafe { realloc_in_libc(block, size) };
    }
    if size == 0 {
        // SAFETY: the caller's promise.
        unsafe { heap().free(block.cast()) };
        return ptr::null_mut();
    }
    if size > MOST {
        return fail(size);
    }
    // SAFETY: the caller's promise.
    let new = unsafe { heap().resize(block.cast(), size) };
    if new.is_null() {
        fail(size)
    } else {
        new.cast()
    }
}

/// glibc's realloc. A large block that the program locked may have a mapping of its own, which glibc
/// would stretch by mremap past the end of the secret file; such a block moves instead.
///
/// # Safety
/// As [`realloc`].
unsafe fn realloc_in_libc(block: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller's promise: a block of glibc's.
    unsafe {
        let old = malloc_usable_size(block);
        let kept = crate::locking::pages(block as usize, old)
            .is_some_and(|range| crate::mapping::touches_kept(&range));
        if !kept || size == 0 {
            return __libc_realloc(block, size);
        }
        let new = __libc_malloc(size);
        if !new.is_null() {
            ptr::copy_nonoverlapping(block.cast::<u8>(), new.cast(), old.min(size));
            block.cast::<u8>().write_bytes(0, old);
            __libc_free(block);
        }
        new
    }
}

/// reallocarray(3).
///
/// # Safety
/// As [`realloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(
    block: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's promise.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => {
            set_errno(Errno::NOMEM);
            ptr::null_mut()
        }
    }
}

/// free(3). errno stays as it is.
///
/// # Safety
/// `block` must be null or a block in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller's promise; a block that is not the heap's is glibc's.
    unsafe {
        if block.is_null() || heap().free_if_ours(block.cast()) {
            return;
        }
        __libc_free(block);
    }
}

/// free_sized (C23 7.24.3.4). The size is known better here.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { free(block) };
}

/// free_aligned_sized (C23 7.24.3.5).
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _align: usize, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { free(block) };
}

fn aligned(align: usize, size: usize) -> *mut c_void {
    if source() != HEAP {
        // SAFETY: no preconditions.
        return unsafe { __libc_memalign(align, size) };
    }
    if size > MOST || align > MOST / 2 {
        return fail(usize::MAX);
    }
    let block = heap().allocate_aligned(size, align);
    if block.is_null() {
        fail(size)
    } else {
        block.cast()
    }
}

/// posix_memalign(3). errno stays as it is.
///
/// # Safety
/// `place` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(
    place: *mut *mut c_void,
    align: usize,
    size: usize,
) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    // SAFETY: libc's errno of this thread.
    let errno = unsafe { *libc::__errno_location() };
    let block = aligned(align, size);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { *place = block };
    0
}

/// aligned_alloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        set_errno(Errno::INVAL);
        return ptr::null_mut();
    }
    aligned(align, size)
}

/// memalign(3). glibc rounds the alignment up to a power of two.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(power) => aligned(power, size),
        None => {
            set_errno(Errno::INVAL);
            ptr::null_mut()
        }
    }
}

/// valloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    aligned(PAGE, size)
}

/// pvalloc(3): whole pages.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    match strongroom_sys::page_ceil(size.max(1)) {
        Some(size) => aligned(PAGE, size),
        None => fail(usize::MAX),
    }
}

/// malloc_usable_size(3).
///
/// # Safety
/// `block` must be null or a block in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    if block.is_null() {
        return 0;
    }
    if heap().contains(block.cast()) {
        // SAFETY: the caller's promise.
        return unsafe { heap().usable_size(block.cast()) };
    }
    static REAL: Real = Real::new(c"malloc_usable_size");
    let real = REAL.address();
    if real.is_null() {
        return 0;
    }
    // SAFETY: libc's function of that name and type; the caller's promise.
    unsafe {
        let real: unsafe extern "C" fn(*mut c_void) -> usize = core::mem::transmute(real);
        real(block)
    }
}
