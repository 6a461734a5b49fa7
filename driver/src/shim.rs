//! What the C shim offers to this crate; `shim/strongroom.h` declares the same. User-space tests bring their own.

use core::ffi::c_void;

unsafe extern "C" {
    /// `bytes` of zeros, aligned for `u64`, or null. May sleep.
    pub fn sr_alloc(bytes: usize) -> *mut c_void;
    /// Gives back what `sr_alloc` gave; null is nothing.
    pub fn sr_free(memory: *mut c_void);
    /// Wipes pages of the pool. May sleep.
    pub fn sr_wipe(pfn: u64, pages: usize);
    /// Takes the lock of the room. May sleep.
    pub fn sr_room_lock();
    /// Gives it back.
    pub fn sr_room_unlock();
    /// The mapping after `cursor` (null: the first) of an object, as pages of the object from `first`
    /// up to `end`; null when there is no further one. Under the object's lock.
    pub fn sr_next_mapping(
        mappings: *const c_void,
        cursor: *const c_void,
        first: *mut u64,
        end: *mut u64,
    ) -> *const c_void;
    /// Stops the thread.
    #[cfg(strongroom_kernel)]
    pub fn sr_bug() -> !;
}
