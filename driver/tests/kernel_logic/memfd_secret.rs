//! The checks of the kernel's test of memfd_secret, each with a control on ordinary memory.

use crate::object::{Map, Object, alone, errno, map};
use crate::process::{as_user, in_child};
use std::os::fd::AsRawFd;
use strongroom_core::driver::{Mode, PAGE};

const P: usize = PAGE as usize;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const CONTENTS: u8 = 0x66;

fn secret() -> (Object, Map) {
    let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
    let map = object.map().unwrap();
    (object, map)
}

fn ordinary() -> Map {
    let map = map(-1, 0, PAGE, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
    map.bytes_mut().fill(CONTENTS);
    map
}

/// test_file_apis.
#[test]
fn the_file_is_neither_read_nor_written() {
    let Some(_alone) = alone() else { return };
    let (object, memory) = secret();
    memory.bytes_mut().fill(CONTENTS);
    let mut buffer = [0_u8; 64];
    let (fd, at) = (object.raw(), buffer.as_mut_ptr());
    // SAFETY: the buffer is as long as said.
    let results = unsafe {
        [
            libc::read(fd, at.cast(), 64),
            libc::write(fd, at.cast(), 64),
            libc::pread(fd, at.cast(), 64, 0),
            libc::pwrite(fd, at.cast(), 64, 0),
            libc::lseek(fd, 0, libc::SEEK_END) as isize,
            libc::sendfile(fd, fd, std::ptr::null_mut(), 64),
            libc::splice(fd, std::ptr::null_mut(), 1, std::ptr::null_mut(), 64, 0),
            libc::copy_file_range(fd, std::ptr::null_mut(), 1, std::ptr::null_mut(), 64, 0),
        ]
    };
    assert_eq!(results, [-1; 8]);
    assert_eq!(buffer, [0; 64]);
    assert!(memory.bytes().iter().all(|&byte| byte == CONTENTS));
}

/// test_mlock_limit.
#[test]
fn the_limit_of_locked_memory_is_kept_to_the_page() {
    let Some(_alone) = alone() else { return };
    let code = in_child(|| {
        let limit = libc::rlimit {
            rlim_cur: 64 << 10,
            rlim_max: 64 << 10,
        };
        // SAFETY: the limit is alive.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
        as_user();
        let take = |bytes| Object::with_mode(Mode::EXCLUSIVE, bytes).map();
        assert_eq!(take(2 * (64 << 10)).map(|_| ()), Err(libc::EAGAIN));
        assert_eq!(take((64 << 10) + PAGE).map(|_| ()), Err(libc::EAGAIN));
        let all = take(64 << 10).unwrap();
        assert_eq!(take(PAGE).map(|_| ()), Err(libc::EAGAIN));
        drop(all);
        drop(take(PAGE).unwrap());
        0
    });
    assert_eq!(code, 0);
}

#[test]
fn without_any_locked_memory_there_is_none_for_a_user_and_root_has_no_limit() {
    let Some(_alone) = alone() else { return };
    let zero = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    for user in [true, false] {
        let code = in_child(|| {
            // SAFETY: the limit is alive.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &zero) }, 0);
            if user {
                as_user();
            }
            let object = Object::with_mode(Mode::EXCLUSIVE, PAGE);
            // What fails changes nothing: it can be tried again.
            for _ in 0..2 {
                assert_eq!(object.map().err(), user.then_some(libc::EAGAIN));
            }
            0
        });
        assert_eq!(code, 0, "as a user: {user}");
    }
}

/// test_vmsplice, on a page that was touched and on one that was not: the fast and the slow path.
#[test]
fn vmsplice_is_refused() {
    let Some(_alone) = alone() else { return };
    let splice = |memory: &Map| {
        let (_reader, writer) = std::io::pipe().unwrap();
        let part = libc::iovec {
            iov_base: memory.address() as *mut _,
            iov_len: P,
        };
        // SAFETY: the part is a mapping of the test's.
        let spliced = unsafe { libc::vmsplice(writer.as_raw_fd(), &part, 1, 0) };
        if spliced < 0 {
            Err(errno())
        } else {
            Ok(spliced)
        }
    };
    assert_eq!(splice(&ordinary()), Ok(PAGE as isize));
    let (_object, memory) = secret();
    assert_eq!(splice(&memory), Err(libc::EFAULT));
    memory.bytes_mut().fill(CONTENTS);
    assert_eq!(splice(&memory), Err(libc::EFAULT));
}

/// What a child does to its parent.
fn remotely(memory: &Map, work: fn(i32, usize) -> Result<u64, i32>) -> Result<u64, i32> {
    let (parent, at) = (std::process::id() as i32, memory.address());
    // SAFETY: no memory is involved. Yama would have only descendants traced.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    let code = in_child(|| match work(parent, at) {
        Ok(word) if word == u64::from_ne_bytes([CONTENTS; 8]) => 200,
        Ok(_) => 201,
        Err(errno) => errno,
    });
    match code {
        200 => Ok(u64::from_ne_bytes([CONTENTS; 8])),
        201 => Ok(0),
        errno => Err(errno),
    }
}

/// test_process_vm_read.
#[test]
fn process_vm_readv_of_another_process_is_refused() {
    let Some(_alone) = alone() else { return };
    let read = |parent: i32, at: usize| {
        let mut word = 0_u64;
        let own = libc::iovec {
            iov_base: std::ptr::from_mut(&mut word).cast(),
            iov_len: 8,
        };
        let theirs = libc::iovec {
            iov_base: at as *mut _,
            iov_len: 8,
        };
        // SAFETY: the word is alive.
        let read = unsafe { libc::process_vm_readv(parent, &own, 1, &theirs, 1, 0) };
        if read == 8 { Ok(word) } else { Err(errno()) }
    };
    let plain = ordinary();
    assert_eq!(
        remotely(&plain, read),
        Ok(u64::from_ne_bytes([CONTENTS; 8]))
    );
    let (_object, memory) = secret();
    assert_eq!(remotely(&memory, read), Err(libc::EFAULT));
    memory.bytes_mut().fill(CONTENTS);
    assert_eq!(remotely(&memory, read), Err(libc::EFAULT));
}

/// test_ptrace.
#[test]
fn ptrace_of_another_process_is_refused() {
    let Some(_alone) = alone() else { return };
    // The tracer has to be another process than the one that waits for it: this thread's.
    let peek = |parent: i32, at: usize| {
        // SAFETY: no memory of this process is involved.
        unsafe {
            let nothing = std::ptr::null_mut::<libc::c_void>();
            if libc::ptrace(libc::PTRACE_ATTACH, parent, nothing, nothing) < 0 {
                return Err(errno());
            }
            libc::waitpid(parent, std::ptr::null_mut(), libc::__WALL);
            *libc::__errno_location() = 0;
            let word = libc::ptrace(
                libc::PTRACE_PEEKDATA,
                parent,
                at as *mut libc::c_void,
                nothing,
            );
            let failed = errno();
            libc::ptrace(libc::PTRACE_DETACH, parent, nothing, nothing);
            if word == -1 && failed != 0 {
                Err(failed)
            } else {
                Ok(word as u64)
            }
        }
    };
    // A process of its own is traced, as this one's main thread is the harness's.
    let code = in_child(|| {
        let plain = ordinary();
        let control = remotely(&plain, peek);
        if control != Ok(u64::from_ne_bytes([CONTENTS; 8])) {
            return control.err().unwrap_or(1);
        }
        let (_object, memory) = secret();
        memory.bytes_mut().fill(CONTENTS);
        match remotely(&memory, peek) {
            Err(libc::EIO) => 0,
            other => {
                eprintln!("{other:?}");
                2
            }
        }
    });
    assert_eq!(code, 0);
}
