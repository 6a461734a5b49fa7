//! What is asked of the driver that it must refuse, and that a refusal changes nothing.

use crate::object::{Object, alone, call, errno, map};
use crate::process::{as_user, in_child};
use std::ptr::from_mut;
use strongroom_core::driver::{
    Abi, GET_ABI, GET_HOLDERS, GET_INFO, HUGE_PAGE, Holder, HoldersRequest, Info, MAX_BYTES, Mode,
    ModeRequest, PAGE, Properties, SEAL, SET_MODE, VERSION,
};

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

#[test]
fn a_mode_is_set_once_and_before_anything_is_mapped() {
    let Some(_alone) = alone() else { return };
    let mut object = Object::blank();
    let map = |object: &Object| object.map_as(0, PAGE, RW, libc::MAP_SHARED).map(|_| ());
    assert_eq!(map(&object), Err(libc::EINVAL));
    assert_eq!(object.call(SEAL, 0), Err(libc::EINVAL));
    object.set_mode(Mode::EXCLUSIVE.bits(), PAGE).unwrap();
    let again = object.set_mode(Mode::EXCLUSIVE.bits(), PAGE);
    assert_eq!(again, Err(libc::EBUSY));
    assert_eq!(map(&object), Ok(()));
    let again = object.set_mode(Mode::EXCLUSIVE.bits(), PAGE);
    assert_eq!(again, Err(libc::EBUSY));
}

#[test]
fn what_is_not_understood_changes_nothing() {
    let Some(_alone) = alone() else { return };
    let mut object = Object::blank();
    let good = ModeRequest {
        size: size_of::<ModeRequest>() as u32,
        version: VERSION,
        bytes: PAGE,
        mode: Mode::EXCLUSIVE.bits(),
        reserved: 0,
    };
    let mut bad = Vec::new();
    for size in [0, 31, 33, u32::MAX] {
        bad.push(ModeRequest { size, ..good });
    }
    for version in [0, VERSION + 1, u32::MAX] {
        bad.push(ModeRequest { version, ..good });
    }
    for bytes in [
        0,
        1,
        PAGE - 1,
        PAGE + 1,
        MAX_BYTES + PAGE,
        u64::MAX,
        1 << 63,
    ] {
        bad.push(ModeRequest { bytes, ..good });
    }
    for bit in 5..64 {
        let mode = good.mode | 1 << bit;
        bad.push(ModeRequest { mode, ..good });
    }
    let both = Mode::EXCLUSIVE | Mode::UNCACHED | Mode::WRITE_COMBINING;
    for mode in [
        Mode::empty(),
        Mode::SEALED,
        Mode::HUGE,
        both,
        Mode::EXCLUSIVE | Mode::HUGE,
    ] {
        let mode = mode.bits();
        bad.push(ModeRequest { mode, ..good });
    }
    bad.push(ModeRequest {
        reserved: 1,
        ..good
    });
    for request in &bad {
        assert_eq!(object.request(request), Err(libc::EINVAL), "{request:?}");
    }
    for address in [0, 8, usize::MAX - 7, 1 << 63] {
        assert_eq!(object.call(SET_MODE, address), Err(libc::EFAULT));
        assert_eq!(object.call(GET_ABI, address), Err(libc::EFAULT));
    }
    // All of this object is as it was.
    object.set_mode(good.mode, 2 * PAGE).unwrap();
    let first = object.map().unwrap();
    first.bytes_mut().fill(1);
}

#[test]
fn unknown_numbers_are_not_served() {
    let Some(_alone) = alone() else { return };
    let object = Object::blank();
    // The other size or direction of a number is another number.
    for number in [
        0,
        0xd640,
        0xd645,
        SET_MODE ^ 1 << 16,
        GET_ABI ^ 1 << 30,
        0xffff_ffff,
        0x5401,
    ] {
        assert_eq!(object.call(number, 0), Err(libc::ENOTTY), "{number:#x}");
    }
}

#[test]
fn mmap_takes_the_whole_object_shared_and_without_code() {
    let Some(_alone) = alone() else { return };
    let object = Object::with_mode(Mode::EXCLUSIVE, 4 * PAGE);
    let map = |offset, bytes, protection, flags| {
        let map = object.map_as(offset, bytes, protection, flags);
        map.map(|_| ())
    };
    let shared = libc::MAP_SHARED;
    assert_eq!(map(0, 4 * PAGE, RW, libc::MAP_PRIVATE), Err(libc::EINVAL));
    assert_eq!(map(0, PAGE, RW, shared), Err(libc::EINVAL));
    assert_eq!(map(PAGE, 4 * PAGE, RW, shared), Err(libc::EINVAL));
    assert_eq!(map(0, 5 * PAGE, RW, shared), Err(libc::EINVAL));
    // The largest offset that mmap itself lets through.
    assert_eq!(
        map((1 << 63) - 4 * PAGE, PAGE, RW, shared),
        Err(libc::EINVAL)
    );
    let code = libc::PROT_READ | libc::PROT_EXEC;
    assert_eq!(map(0, 4 * PAGE, code, shared), Err(libc::EPERM));
    let map = object.map().unwrap();
    // SAFETY: the test's own mapping.
    let result = unsafe { libc::mprotect(map.address() as *mut _, map.len(), code) };
    assert_eq!((result, errno()), (-1, libc::EACCES));
}

#[test]
fn a_descriptor_that_was_opened_to_be_read_maps_nothing_to_be_written() {
    let Some(_alone) = alone() else { return };
    let mut object = Object::opened(libc::O_RDONLY);
    object.set_mode(Mode::EXCLUSIVE.bits(), PAGE).unwrap();
    let write = object.map_as(0, PAGE, RW, libc::MAP_SHARED);
    assert_eq!(write.map(|_| ()), Err(libc::EACCES));
    let read = object.map_as(0, PAGE, libc::PROT_READ, libc::MAP_SHARED);
    assert!(read.unwrap().bytes().iter().all(|&byte| byte == 0));
}

#[test]
fn a_sealed_object_is_mapped_once() {
    let Some(_alone) = alone() else { return };
    let part = |object: &Object| object.map_as(0, PAGE, RW, libc::MAP_SHARED).map(|_| ());
    let open = Object::with_mode(Mode::EXCLUSIVE, 2 * PAGE);
    let first = open.map().unwrap();
    let second = open.map_as(PAGE, PAGE, RW, libc::MAP_SHARED).unwrap();
    first.bytes_mut()[PAGE as usize] = 7;
    assert_eq!(second.bytes()[0], 7);
    open.call(SEAL, 0).unwrap();
    open.call(SEAL, 0).unwrap();
    assert_eq!(part(&open), Err(libc::EBUSY));

    let sealed = Object::with_mode(Mode::EXCLUSIVE | Mode::SEALED, 2 * PAGE);
    let map = sealed.map().unwrap();
    assert_eq!(part(&sealed), Err(libc::EBUSY));
    drop(map);
    assert_eq!(part(&sealed), Err(libc::ENXIO));
    assert_eq!(sealed.call(SEAL, 0), Err(libc::ENXIO));

    // Sealed before it was mapped: once.
    let early = Object::with_mode(Mode::EXCLUSIVE, PAGE);
    early.call(SEAL, 0).unwrap();
    let _map = early.map().unwrap();
    assert_eq!(part(&early), Err(libc::EBUSY));
}

#[test]
fn anyone_may_ask_what_the_driver_can_do() {
    let Some(_alone) = alone() else { return };
    let object = Object::blank();
    let mut abi = Abi::asked();
    object.call(GET_ABI, from_mut(&mut abi) as usize).unwrap();
    assert_eq!(Mode::from_bits(abi.modes), Some(Mode::all()));
    assert_eq!((abi.page as u64, abi.huge_page as u64), (PAGE, HUGE_PAGE));
    assert_eq!(abi.total, crate::object::state("total"));
    assert_eq!(abi.user_limit, abi.total / 2);
    let properties = Properties::from_bits(abi.properties).unwrap();
    assert!(properties.contains(Properties::DEV_MEM_CLOSED | Properties::WRITE_BACK_RESERVED));
    abi.version += 1;
    let result = object.call(GET_ABI, from_mut(&mut abi) as usize);
    assert_eq!(result, Err(libc::EINVAL));
}

#[test]
fn administrators_see_the_state_and_the_holders_and_others_do_not() {
    let Some(_alone) = alone() else { return };
    let object = Object::with_mode(Mode::EXCLUSIVE, 5 * PAGE);
    let _map = object.map().unwrap();
    let mut info = Info::asked();
    let at = from_mut(&mut info) as usize;
    object.call(GET_INFO, at).unwrap();
    assert_eq!(info.total - info.free, 5 * PAGE);
    assert_eq!((info.held, info.objects), (5 * PAGE, 1));
    assert!(info.metadata > 0 && info.metadata * 500 < info.total);
    let mut holders = [Holder::default(); 4];
    let mut request = HoldersRequest {
        size: size_of::<HoldersRequest>() as u32,
        version: VERSION,
        buffer: holders.as_mut_ptr() as u64,
        capacity: 4,
        count: 0,
    };
    let list = from_mut(&mut request) as usize;
    object.call(GET_HOLDERS, list).unwrap();
    assert_eq!(request.count, 1);
    let expected = Holder {
        pid: std::process::id(),
        uid: 0,
        bytes: 5 * PAGE,
        mode: Mode::EXCLUSIVE.bits(),
    };
    assert_eq!(holders[0], expected);
    let mut many = HoldersRequest {
        capacity: 65537,
        ..request
    };
    let refused = object.call(GET_HOLDERS, from_mut(&mut many) as usize);
    assert_eq!(refused, Err(libc::EINVAL));
    let fd = object.raw();
    let status = in_child(|| {
        as_user();
        let info = call(fd, GET_INFO, at);
        let list = call(fd, GET_HOLDERS, list);
        i32::from((info, list) != (Err(libc::EPERM), Err(libc::EPERM)))
    });
    assert_eq!(status, 0);
}

#[test]
fn there_is_nothing_to_be_read_or_written() {
    let Some(_alone) = alone() else { return };
    let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
    let _map = object.map().unwrap();
    let mut buffer = [0_u8; 16];
    // SAFETY: the buffer is alive.
    let (read, write) = unsafe {
        (
            libc::read(object.raw(), buffer.as_mut_ptr().cast(), 16),
            libc::write(object.raw(), buffer.as_ptr().cast(), 16),
        )
    };
    assert_eq!((read, write), (-1, -1));
    // Without a size: a descriptor of a file could be truncated or sent.
    // SAFETY: no memory is involved.
    let truncated = unsafe { libc::ftruncate(object.raw(), 0) };
    assert_eq!(truncated, -1);
    assert!(map(object.raw(), 1 << 40, PAGE, RW, libc::MAP_SHARED).is_err());
}
