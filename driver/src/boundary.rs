//! What the C shim calls. `shim/strongroom.h` declares it; each function says which locks it needs.
//!
//! There is one room. Everything that changes or reads it runs under the room's lock; everything that
//! changes an object, under the object's; [`strongroom_run_at`] needs none.

use crate::coverage::Span;
use crate::errno::{Errno, status};
use crate::object::{Mapping, Object};
use crate::room::Room;
use crate::runs::Runs;
use crate::shim;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ptr;
use strongroom_core::driver::{Mode, ModeRequest};

struct TheRoom(UnsafeCell<Room>);

// SAFETY: it is reached under the room's lock only, which each function asks for.
unsafe impl Sync for TheRoom {}

static ROOM: TheRoom = TheRoom(UnsafeCell::new(Room::new()));

/// Lends the room.
///
/// # Safety
/// Under the room's lock, and not within another call of this.
unsafe fn room<T>(work: impl FnOnce(&mut Room) -> T) -> T {
    // SAFETY: the lock makes this the only reference, the caller says.
    work(unsafe { &mut *ROOM.0.get() })
}

/// The state of the room, in pages; metadata in bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RoomState {
    /// All.
    pub total: u64,
    /// Not given out.
    pub free: u64,
    /// The largest free run.
    pub largest_free: u64,
    /// What describes the pages, in bytes.
    pub metadata: u64,
    /// Objects that hold pages.
    pub objects: u64,
    /// The most for one user.
    pub user_limit: u64,
    /// What the kernel has lent.
    pub lent: u64,
    /// The most that it is to lend.
    pub lent_limit: u64,
}

/// Adds pages to the room: 0 or -EINVAL, -ENOMEM. The room's lock.
///
/// # Safety
/// Under the room's lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_add(pfn: u64, pages: usize, node: i32) -> i32 {
    // SAFETY: the caller's word.
    status(unsafe { room(|room| room.add(pfn, pages, node)) })
}

/// Has the kernel lend at most `limit` pages, of numbers below `end`: 0 or -EINVAL, -ENOMEM. The room's lock.
///
/// # Safety
/// Under the room's lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_lend(end: u64, limit: usize) -> i32 {
    // SAFETY: the caller's word.
    status(unsafe { room(|room| room.lend(end, limit)) })
}

/// How many blocks the kernel is to lend before the object is filled. The object's and the room's lock.
///
/// # Safety
/// Under both locks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_lacking(object: *const Object) -> usize {
    // SAFETY: the caller's word.
    unsafe { room(|room| (*object).lacking(room)) }
}

/// A block that the kernel lends, wiped; false where it is not taken. The room's lock.
///
/// # Safety
/// Under the room's lock. The block has no kernel mapping and is the driver's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_add_block(pfn: u64) -> bool {
    // SAFETY: the caller's word.
    unsafe { room(|room| room.add_block(pfn)) }
}

/// A lent block that nobody holds a page of, which is the kernel's from now on; false where there is none. The room's lock.
///
/// # Safety
/// Under the room's lock; `pfn` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_spare_block(pfn: *mut u64) -> bool {
    // SAFETY: the caller's word.
    let Some(block) = (unsafe { room(Room::spare_block) }) else {
        return false;
    };
    // SAFETY: the caller's word.
    unsafe { *pfn = block };
    true
}

/// Sets the limit of users, in percent of the pool. The room's lock.
///
/// # Safety
/// Under the room's lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_limit_users(percent: u32) {
    // SAFETY: the caller's word.
    unsafe { room(|room| room.limit_users(percent)) }
}

/// Empties the room and gives its tables back. The room's lock; no object may be left.
///
/// # Safety
/// Under the room's lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_clear() {
    // SAFETY: the caller's word.
    unsafe { room(|room| *room = Room::new()) }
}

/// The state of the room. The room's lock.
///
/// # Safety
/// Under the room's lock; `state` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_state(state: *mut RoomState) {
    // SAFETY: the caller's word.
    unsafe {
        *state = room(|room| RoomState {
            total: room.pages() as u64,
            free: room.free_pages() as u64,
            largest_free: room.largest_free_run() as u64,
            metadata: room.metadata_bytes() as u64,
            objects: room.objects() as u64,
            user_limit: room.user_limit() as u64,
            lent: room.lent_pages() as u64,
            lent_limit: room.lent_limit() as u64,
        });
    }
}

/// The carve-outs' pages of a NUMA node, and in `free` how many are; 0 where it has none. The room's lock.
///
/// # Safety
/// Under the room's lock; `free` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_node(node: i32, free: *mut u64) -> u64 {
    // SAFETY: the caller's word.
    unsafe {
        let (pages, there) = room(|room| room.node(node));
        *free = there as u64;
        pages as u64
    }
}

/// A new object, or null. No lock.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_object_new() -> *mut Object {
    const { assert!(align_of::<Object>() <= align_of::<u64>()) };
    // SAFETY: any size may be asked for.
    let object = unsafe { shim::sr_alloc(size_of::<Object>()) }.cast::<Object>();
    if !object.is_null() {
        // SAFETY: it is as large as asked, aligned for a u64, and ours.
        unsafe { object.write(Object::new()) };
    }
    object
}

/// The end of an object without mappings. No lock: nobody else may know it.
///
/// # Safety
/// `object` is of `strongroom_object_new` and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_object_free(object: *mut Object) {
    // SAFETY: the caller's word; it was written there by `strongroom_object_new`.
    unsafe {
        ptr::drop_in_place(object);
        shim::sr_free(object.cast());
    }
}

/// SET_MODE: 0 or a negative errno. The object's lock.
///
/// # Safety
/// Under the object's lock; `request` may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_set_mode(
    object: *mut Object,
    request: *const ModeRequest,
    served: u64,
) -> i32 {
    // SAFETY: the caller's word.
    let (object, request) = unsafe { (&mut *object, &*request) };
    status(object.set_mode(request, Mode::from_bits_truncate(served)))
}

/// Bits of the object's mode; 0 without. The object's lock, or after it was mapped.
///
/// # Safety
/// `object` is alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_mode(object: *const Object) -> u64 {
    // SAFETY: the caller's word.
    unsafe { &*object }.mode().bits()
}

/// SEAL: 0 or a negative errno. The object's lock.
///
/// # Safety
/// Under the object's lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_seal(object: *mut Object) -> i32 {
    // SAFETY: the caller's word.
    status(unsafe { &mut *object }.seal())
}

/// The mappings of an object, as the shim's list has them.
struct Mappings {
    list: *const c_void,
    cursor: *const c_void,
}

impl Mappings {
    fn new(list: *const c_void) -> Self {
        Self {
            list,
            cursor: ptr::null(),
        }
    }
}

impl Iterator for Mappings {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let (mut first, mut end) = (0, 0);
        // SAFETY: the list is the shim's own, and the object's lock, under which this iterator
        // lives, keeps it as it is.
        self.cursor =
            unsafe { shim::sr_next_mapping(self.list, self.cursor, &mut first, &mut end) };
        (!self.cursor.is_null()).then_some(Span {
            first: first as usize,
            end: end as usize,
        })
    }
}

/// Whether these pages may be mapped: 0 for the first mapping, 1 for a further one, or a negative
/// errno. The object's lock.
///
/// # Safety
/// Under the object's lock; `mappings` is its list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_may_map(
    object: *const Object,
    mappings: *const c_void,
    first: u64,
    end: u64,
) -> i32 {
    let span = Span {
        first: first as usize,
        end: end as usize,
    };
    // SAFETY: the caller's word.
    match unsafe { &*object }.may_map(span, || Mappings::new(mappings)) {
        Ok(Mapping::First) => 0,
        Ok(Mapping::Further) => 1,
        Err(errno) => Errno::negative(errno),
    }
}

/// Takes the object's pages: 0 or a negative errno. The object's and the room's lock.
///
/// # Safety
/// Under both locks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_fill(
    object: *mut Object,
    uid: u32,
    unlimited: bool,
    node: i32,
) -> i32 {
    // SAFETY: the caller's word.
    let filled = unsafe { room(|room| (*object).fill(room, uid, unlimited, node)) };
    status(filled)
}

/// Where the object's pages are, for `strongroom_run_at`; null before it has any. They stay as long as the object. The
/// object's lock.
///
/// # Safety
/// Under the object's lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_runs(object: *const Object) -> *const Runs {
    // SAFETY: the caller's word.
    let runs = unsafe { &*object }.runs();
    runs.map_or(ptr::null(), |placed| placed.as_ptr())
}

/// Pages that an object still holds. No lock.
///
/// # Safety
/// `runs` is of `strongroom_runs`, of an object that is alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_held(runs: *const Runs) -> u64 {
    // SAFETY: the caller's word; runs do not change but for an atomic count.
    unsafe { &*runs }.held() as u64
}

/// Neighbouring pages, for the shim.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RunAt {
    /// The first one's number in the object.
    pub first: u64,
    /// The number after the last one's.
    pub end: u64,
    /// The first one's page frame number.
    pub pfn: u64,
}

/// The run that holds a page of the object; false where there is none. No lock.
///
/// # Safety
/// `runs` is of `strongroom_runs`, of an object that is alive; `run` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_run_at(runs: *const Runs, page: u64, run: *mut RunAt) -> bool {
    // SAFETY: the caller's word; runs do not change but for an atomic count.
    let Some(found) = unsafe { &*runs }.at(page as usize) else {
        return false;
    };
    // SAFETY: the caller's word.
    unsafe {
        *run = RunAt {
            first: found.page as u64,
            end: found.end() as u64,
            pfn: found.pfn,
        };
    }
    true
}

/// A mapping has gone from the list: wipes what no other one has and gives it back; how many pages
/// that were. The object's lock, and not the room's.
///
/// # Safety
/// Under the object's lock; `mappings` is its list. No entry leads to the pages of this mapping any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_unmapped(
    object: *mut Object,
    mappings: *const c_void,
    first: u64,
    end: u64,
) -> u64 {
    let gone = Span {
        first: first as usize,
        end: end as usize,
    };
    // SAFETY: the pages are the room's, taken for this object, and no entry leads to them.
    let wipe = |pfn, pages| unsafe { shim::sr_wipe(pfn, pages) };
    let back = |work: &mut dyn FnMut(&mut Room)| {
        // SAFETY: the lock is taken around it, and `work` of `unmapped` does not call this again.
        unsafe {
            shim::sr_room_lock();
            room(|room| work(room));
            shim::sr_room_unlock();
        }
    };
    // SAFETY: the caller's word.
    let object = unsafe { &mut *object };
    object.unmapped(gone, || Mappings::new(mappings), wipe, back) as u64
}
