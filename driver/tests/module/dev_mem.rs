//! /dev/mem: what root reads of memory that was set aside and that nobody claimed, and of the pool's.

use crate::load::{Module, POOL};
use crate::object::{Object, errno, map, skip};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use strongroom_core::driver::{Mode, PAGE};

/// Of both carve-outs.
const CLAIMED: u64 = 1 << 30;
const UNCLAIMED: u64 = 1536 << 20;

#[test]
fn dev_mem_reaches_what_was_only_set_aside_and_not_the_pool() {
    let Some(module) = Module::alone() else {
        return;
    };
    let Ok(memory) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/mem")
    else {
        return skip("this kernel has no /dev/mem");
    };
    let mapped = |place: u64| {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        map(
            memory.as_raw_fd(),
            place,
            PAGE,
            protection,
            libc::MAP_SHARED,
        )
    };
    module.unload().unwrap();
    module.load("pool=1G:192M mode=0666").unwrap();
    let held = Object::with_mode(Mode::EXCLUSIVE, 192 << 20).map().unwrap();
    held.bytes_mut()[..8].copy_from_slice(b"a secret");
    // The control: it is a way to read memory of this kind, and to write it.
    let open = mapped(UNCLAIMED).unwrap();
    open.bytes_mut()[..8].copy_from_slice(b"no claim");
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, UNCLAIMED).unwrap();
    assert_eq!(&bytes, b"no claim");
    open.bytes_mut().fill(0);
    drop(open);
    for place in [CLAIMED, CLAIMED + PAGE, CLAIMED + (192 << 20) - PAGE] {
        assert_eq!(mapped(place).map(|_| ()), Err(libc::EPERM), "{place:#x}");
        let read = memory.read_at(&mut bytes, place);
        assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EPERM));
        // SAFETY: the buffer is as long as said; it is what the test writes there otherwise.
        let written = unsafe {
            libc::pwrite(
                memory.as_raw_fd(),
                b"a secret".as_ptr().cast(),
                8,
                place as i64,
            )
        };
        assert_eq!((written, errno()), (-1, libc::EPERM));
    }
    assert_eq!(&held.bytes()[..8], b"a secret");
    drop(held);
    module.unload().unwrap();
    module.load(POOL).unwrap();
}
