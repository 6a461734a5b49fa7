//! A growing array whose growth can fail: the kernel has no memory that is always there.

use crate::errno::Errno;
use crate::shim::{sr_alloc, sr_free};
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::slice;

/// Values of a plain type, one after the other.
#[derive(Debug)]
pub struct Array<T: Copy> {
    memory: NonNull<T>,
    len: usize,
    capacity: usize,
}

// SAFETY: it owns its memory, as a Vec does.
unsafe impl<T: Copy + Send> Send for Array<T> {}
// SAFETY: a shared reference gives shared references to the values only.
unsafe impl<T: Copy + Sync> Sync for Array<T> {}

impl<T: Copy> Array<T> {
    /// An empty array; it takes no memory.
    pub const fn new() -> Self {
        // What `sr_alloc` gives is aligned for a u64.
        const { assert!(align_of::<T>() <= align_of::<u64>() && size_of::<T>() > 0) };
        Self {
            memory: NonNull::dangling(),
            len: 0,
            capacity: 0,
        }
    }

    /// Appends `value`. O(1) amortized.
    ///
    /// # Errors
    /// `Nomem`, and nothing changed.
    pub fn push(&mut self, value: T) -> Result<(), Errno> {
        self.insert(self.len, value)
    }

    /// Puts `value` before the one at `at`; at the end where `at` is the length or more. O(len).
    ///
    /// # Errors
    /// `Nomem`, and nothing changed.
    pub fn insert(&mut self, at: usize, value: T) -> Result<(), Errno> {
        if self.len == self.capacity {
            self.grow()?;
        }
        let at = at.min(self.len);
        // SAFETY: `at <= len < capacity`, so that the values from `at` on and the free place after
        // them are within the memory, which is ours alone.
        unsafe {
            let place = self.memory.add(at);
            ptr::copy(place.as_ptr(), place.add(1).as_ptr(), self.len - at);
            place.write(value);
        }
        self.len += 1;
        Ok(())
    }

    /// Takes out the value at `at`, if there is one. O(len).
    pub fn remove(&mut self, at: usize) {
        if at < self.len {
            // SAFETY: the values from `at + 1` up to `len` are within the memory.
            unsafe {
                let place = self.memory.add(at);
                ptr::copy(
                    place.add(1).as_ptr(),
                    place.as_ptr(),
                    self.len.saturating_sub(at).saturating_sub(1),
                );
            }
            self.len -= 1;
        }
    }

    fn grow(&mut self) -> Result<(), Errno> {
        let capacity = if self.capacity == 0 {
            4
        } else {
            self.capacity.checked_mul(2).ok_or(Errno::Nomem)?
        };
        let bytes = capacity.checked_mul(size_of::<T>()).ok_or(Errno::Nomem)?;
        // SAFETY: any size may be asked for.
        let memory = NonNull::new(unsafe { sr_alloc(bytes) }.cast::<T>()).ok_or(Errno::Nomem)?;
        // SAFETY: `len` values are in the old memory and fit into the new one, which is another.
        // The old one came from `sr_alloc`, but for the dangling one of capacity 0.
        unsafe {
            ptr::copy_nonoverlapping(self.memory.as_ptr(), memory.as_ptr(), self.len);
            if self.capacity != 0 {
                sr_free(self.memory.as_ptr().cast());
            }
        }
        self.memory = memory;
        self.capacity = capacity;
        Ok(())
    }
}

impl<T: Copy> Default for Array<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Drop for Array<T> {
    fn drop(&mut self) {
        if self.capacity != 0 {
            // SAFETY: the memory came from `sr_alloc`, and its values need no drop.
            unsafe { sr_free(self.memory.as_ptr().cast()) }
        }
    }
}

impl<T: Copy> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values were written, and the memory is aligned (dangling at length 0).
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the reference to `self` is the only one.
        unsafe { slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }
}
