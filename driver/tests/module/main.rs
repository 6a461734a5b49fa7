//! The module itself: loaded, refused, unloaded, in a virtual machine of `cargo xtask driver test`.
//!
//! STRONGROOM_MODULE names the file. The memory behind 1 GiB (192 MiB) and 1536 MiB (64 MiB) is set aside;
//! what lies between is the kernel's own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own helpers fail the test"
)]

mod dev_mem;
mod load;
#[allow(dead_code, reason = "the device's own tests use the rest")]
#[path = "../device/object.rs"]
mod object;
mod parameters;
#[allow(dead_code, reason = "as above")]
#[path = "../device/process.rs"]
mod process;

use load::{Module, POOL};
use object::{Object, errno, state};
use process::{start, until, wait};
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// The object, mapped, with something in all of it.
fn use_it(bytes: u64) {
    let object = Object::with_mode(Mode::EXCLUSIVE, bytes);
    let map = object.map().unwrap();
    assert!(map.bytes().iter().all(|&byte| byte == 0));
    map.bytes_mut().fill(0x77);
    assert!(map.bytes().iter().all(|&byte| byte == 0x77));
    drop(object);
    map.unmap(0, PAGE as usize).unwrap();
}

#[test]
fn a_hundred_times_loaded_used_and_unloaded() {
    let Some(module) = Module::alone() else {
        return;
    };
    for time in 0..100 {
        module.unload().unwrap();
        assert!(!std::fs::exists("/dev/strongroom").unwrap(), "time {time}");
        module.load(POOL).unwrap();
        until(|| std::fs::exists("/dev/strongroom").unwrap());
        assert_eq!(state("free"), state("total"), "time {time}");
        assert_eq!(state("total"), 256 << 20);
        use_it(if time % 2 == 0 {
            5 * PAGE
        } else {
            HUGE_PAGE + PAGE
        });
        assert_eq!(state("free"), state("total"), "time {time}");
    }
}

#[test]
fn what_is_in_use_is_not_unloaded() {
    let Some(module) = Module::alone() else {
        return;
    };
    let busy = |what: &str| {
        let refused = module.unload().unwrap_err();
        assert!(
            matches!(refused, libc::EBUSY | libc::EWOULDBLOCK),
            "{what}: errno {refused}"
        );
    };
    let object = Object::with_mode(Mode::EXCLUSIVE, 2 * PAGE);
    busy("open");
    let map = object.map().unwrap();
    map.bytes_mut().fill(9);
    drop(object);
    busy("mapped, without a descriptor");
    map.unmap(0, PAGE as usize).unwrap();
    busy("mapped in part");
    drop(map);
    // In another process, which is killed.
    let child = start(|| {
        let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
        std::mem::forget(object.map().unwrap());
        drop(object);
        loop {
            std::thread::park();
        }
    });
    until(|| state("held") == PAGE);
    busy("mapped elsewhere");
    // SAFETY: the test's own child.
    unsafe { libc::kill(child, libc::SIGKILL) };
    assert_eq!(wait(child), 128 + libc::SIGKILL);
    module.unload().unwrap();
    module.load(POOL).unwrap();
    use_it(PAGE);
}

#[test]
fn what_one_load_left_no_later_one_has() {
    let Some(module) = Module::alone() else {
        return;
    };
    let fill = || {
        let map = Object::with_mode(Mode::EXCLUSIVE, state("largest_free"))
            .map()
            .unwrap();
        let (_, words, _) = {
            // SAFETY: any bytes are words.
            unsafe { map.bytes().align_to::<u64>() }
        };
        assert!(words.iter().all(|&word| word == 0));
        for page in map.bytes_mut().chunks_mut(PAGE as usize) {
            page[..8].copy_from_slice(b"left now");
        }
        map
    };
    drop(fill());
    module.unload().unwrap();
    module.load(POOL).unwrap();
    drop(fill());
    // Another division of the same memory.
    module.unload().unwrap();
    module.load("pool=1G:64M,1088M:128M").unwrap();
    assert_eq!(state("total"), 192 << 20);
    drop(fill());
    module.unload().unwrap();
    module.load(POOL).unwrap();
}

#[test]
fn an_object_of_before_does_not_outlive_the_module() {
    let Some(module) = Module::alone() else {
        return;
    };
    // A descriptor of the device that is not open any more cannot be; its directory entry can.
    module.unload().unwrap();
    // SAFETY: a C string.
    let fd = unsafe { libc::open(c"/dev/strongroom".as_ptr(), libc::O_RDWR) };
    assert_eq!((fd, errno()), (-1, libc::ENOENT));
    module.load(POOL).unwrap();
    let map = object::map(-1, 0, PAGE, RW, libc::MAP_SHARED).map(|_| ());
    assert_eq!(map, Err(libc::EBADF));
}
