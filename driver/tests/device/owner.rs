//! One address space has an object: the one that set its mode.

use crate::object::{Object, alone, call, free_bytes, map, state};
use crate::process::in_child;
use std::os::fd::AsRawFd;
use strongroom_core::driver::{Mode, PAGE, SEAL, SET_MODE};

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// What a stranger gets: 0 when everything is EPERM.
fn stranger(fd: i32) -> i32 {
    let mapped = map(fd, 0, PAGE, RW, libc::MAP_SHARED).map(|_| ());
    if mapped != Err(libc::EPERM) {
        return 1;
    }
    if call(fd, SEAL, 0) != Err(libc::EPERM) {
        return 2;
    }
    let request = strongroom_core::driver::ModeRequest {
        size: 32,
        version: 1,
        bytes: PAGE,
        mode: 1,
        reserved: 0,
    };
    let at = std::ptr::from_ref(&request) as usize;
    if call(fd, SET_MODE, at) != Err(libc::EPERM) {
        return 3;
    }
    0
}

#[test]
fn a_child_has_neither_the_memory_nor_a_use_for_the_descriptor() {
    let Some(_alone) = alone() else { return };
    let refused = state("refused_owner");
    for mapped in [false, true] {
        let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
        let map = mapped.then(|| object.map().unwrap());
        if let Some(map) = &map {
            map.bytes_mut().fill(0x5a);
        }
        assert_eq!(in_child(|| stranger(object.raw())), 0);
        let Some(map) = map else { continue };
        // Nothing at this address: mincore says so, and a touch is the end.
        let status = in_child(|| {
            let mut vector = 0_u8;
            let at = map.address() as *mut _;
            // SAFETY: one byte for one page.
            let result = unsafe { libc::mincore(at, PAGE as usize, &mut vector) };
            i32::from((result, crate::object::errno()) != (-1, libc::ENOMEM))
        });
        assert_eq!(status, 0);
        let status = in_child(|| i32::from(map.bytes()[0]));
        assert_eq!(status, 128 + libc::SIGSEGV);
        assert!(map.bytes().iter().all(|&byte| byte == 0x5a));
    }
    assert!(state("refused_owner") >= refused + 6);
}

#[test]
fn a_descriptor_that_was_passed_or_taken_is_useless() {
    let Some(_alone) = alone() else { return };
    let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
    let _map = object.map().unwrap();
    let (parent, fd) = (std::process::id() as i32, object.raw());
    // Taken by a process that may trace this one.
    let status = in_child(|| {
        // SAFETY: no memory is involved.
        let taken = unsafe {
            let pidfd = libc::syscall(libc::SYS_pidfd_open, parent, 0);
            libc::close(fd);
            libc::syscall(libc::SYS_pidfd_getfd, pidfd, fd, 0)
        };
        if taken < 0 {
            10
        } else {
            stranger(taken as i32)
        }
    });
    assert_eq!(status, 0);
    // Passed over a socket.
    let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
    send(sender.as_raw_fd(), fd);
    let status = in_child(|| stranger(receive(receiver.as_raw_fd())));
    assert_eq!(status, 0);
    // Through /proc there is a new object, which has nothing of this one.
    let path = format!("/proc/{parent}/fd/{fd}\0");
    let status = in_child(|| {
        // SAFETY: a C string.
        let again = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDWR) };
        let mapped = map(again, 0, PAGE, RW, libc::MAP_SHARED).map(|_| ());
        i32::from(mapped != Err(libc::EINVAL))
    });
    assert_eq!(status, 0);
}

#[test]
fn a_program_that_is_started_has_neither() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    // The child owns an object, and then is another program with its descriptor.
    let status = in_child(|| {
        let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
        let map = object.map().unwrap();
        map.bytes_mut().fill(1);
        // SAFETY: no memory is involved.
        unsafe { libc::dup2(object.raw(), 40) };
        let me = std::env::current_exe().unwrap();
        let error = std::os::unix::process::CommandExt::exec(
            std::process::Command::new(me)
                .args(["--exact", "owner::started_with_a_descriptor", "--nocapture"])
                .env("STRONGROOM_TEST_FD", "40"),
        );
        panic!("{error}");
    });
    assert_eq!(status, 0);
    assert_eq!(free_bytes(), before);
}

/// Run by the test above.
#[test]
fn started_with_a_descriptor() {
    let Some(fd) = std::env::var_os("STRONGROOM_TEST_FD") else {
        return;
    };
    let fd = fd.to_str().unwrap().parse().unwrap();
    assert_eq!(stranger(fd), 0);
}

#[test]
fn threads_share_it() {
    let Some(_alone) = alone() else { return };
    let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let map = object.map().unwrap();
            map.bytes_mut().fill(1);
        });
    });
}

#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    fd: i32,
    padding: i32,
}

fn message<T>(
    control: &mut Control,
    byte: &mut u8,
    work: impl FnOnce(&mut libc::msghdr) -> T,
) -> T {
    let mut part = libc::iovec {
        iov_base: std::ptr::from_mut(byte).cast(),
        iov_len: 1,
    };
    // SAFETY: a msghdr of zeros is one without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(control).cast();
    message.msg_controllen = size_of::<Control>();
    work(&mut message)
}

fn send(socket: i32, fd: i32) {
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<i32>(),
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        fd,
        padding: 0,
    };
    // SAFETY: the message and what it names are alive.
    let sent = message(&mut control, &mut 1, |message| unsafe {
        libc::sendmsg(socket, message, 0)
    });
    assert_eq!(sent, 1);
}

fn receive(socket: i32) -> i32 {
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: 0,
            cmsg_level: 0,
            cmsg_type: 0,
        },
        fd: -1,
        padding: 0,
    };
    // SAFETY: as above.
    let received = message(&mut control, &mut 0, |message| unsafe {
        libc::recvmsg(socket, message, 0)
    });
    assert_eq!(received, 1);
    control.fd
}
