//! Steps with another process: one that has the descriptor and not the address space, and one that has both.

use crate::calls::{close, ioctl, mmap, munmap, violation};
use crate::model::{P, State};
use crate::steps::{RW, anywhere};
use crate::touch::load;
use crate::worker::Thread;
use strongroom_core::driver::SEAL;

/// A fork child has neither the memory nor a use for the descriptors.
pub(crate) fn fork(t: &mut Thread<'_>) {
    let mut places: Vec<usize> = (0..4)
        .filter_map(|_| t.some_piece().map(|piece| piece.at))
        .collect();
    places.push(t.common.at);
    let fds: Vec<(i32, bool)> = t
        .model
        .things
        .iter()
        .filter_map(|thing| Some((*thing.fds.first()?, thing.state == State::Blank)))
        .collect();
    let killed = t.random.one_in(3);
    // SAFETY: the child calls the kernel, and ends by _exit.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return;
    }
    if child == 0 {
        for place in places {
            if load(place).is_some() {
                violation("a fork child reads secret memory");
            }
        }
        for (fd, blank) in fds {
            let expected = if blank { libc::EINVAL } else { libc::EPERM };
            let mapped = mmap(0, P, RW, libc::MAP_SHARED, fd, 0);
            let sealed = ioctl(fd, SEAL, 0);
            for answer in [mapped, sealed] {
                match answer {
                    Err(errno) if errno == expected => {}
                    Err(libc::EACCES) => {}
                    Err(libc::ENOMEM | libc::EPERM | libc::EINVAL) if t.failing => {}
                    other => violation(&format!("a fork child's use of a descriptor: {other:?}")),
                }
            }
        }
        // SAFETY: these end the process.
        unsafe {
            if killed {
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
            libc::_exit(0)
        }
    }
    wait(t, child, "a fork child");
}

fn wait(t: &Thread<'_>, child: i32, who: &str) {
    let mut status = 0;
    loop {
        // SAFETY: the status is alive. A clone's end is told by SIGCHLD, as a fork's.
        let waited = unsafe { libc::waitpid(child, &mut status, 0) };
        if waited == child {
            break;
        }
        if crate::object::errno() != libc::EINTR {
            t.wrong(&format!("waitpid: {}", crate::object::errno()));
        }
    }
    let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
    if status != 0 && !killed {
        t.wrong(&format!("{who} ended with {status:#x}"));
    }
}

/// What a vfork child is told and what it found.
struct Errand {
    fd: i32,
    first: usize,
    pages: usize,
    readable: Option<usize>,
    mapped: Result<usize, i32>,
    read: bool,
}

extern "C" fn errand(argument: *mut libc::c_void) -> i32 {
    // SAFETY: the parent waits, and the errand is its own.
    let errand = unsafe { &mut *argument.cast::<Errand>() };
    let (bytes, offset) = (errand.pages * P, errand.first * P);
    errand.mapped = mmap(
        0,
        bytes,
        libc::PROT_READ,
        libc::MAP_SHARED,
        errand.fd,
        offset,
    );
    errand.read = errand.readable.is_none_or(|at| load(at).is_some());
    if let Ok(at) = errand.mapped {
        errand.read &= load(at).is_some();
        let _ = munmap(at, bytes);
    }
    0
}

/// A vfork child has the address space, and is as good as a thread.
pub(crate) fn vfork(t: &mut Thread<'_>) {
    let Some((id, fd)) = t.some_fd() else { return };
    let thing = t.model.thing(id);
    // A first mapping would take the pages, and its end be that of the object.
    if thing.state != State::Mapped || thing.is_huge() {
        return;
    }
    let first = t.random.below(thing.pages);
    let pages = 1 + t.random.below((thing.pages - first).min(8));
    let expected = t.model.answer_to_mmap(id, first, pages, None);
    let readable = t
        .some_piece()
        .filter(|piece| piece.protection & libc::PROT_READ != 0);
    let mut told = Errand {
        fd,
        first,
        pages,
        readable: readable.map(|piece| piece.at),
        mapped: Err(0),
        read: false,
    };
    let mut stack = vec![0_u8; 64 << 10];
    let top = (stack.as_mut_ptr() as usize + stack.len()) & !15;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument = std::ptr::from_mut(&mut told).cast();
    // SAFETY: this thread waits for the child, which has a stack of its own and what it is told.
    let child = anywhere(|| unsafe { libc::clone(errand, top as *mut _, flags, argument) });
    if child < 0 {
        return;
    }
    wait(t, child, "a vfork child");
    let good = match (told.mapped, expected) {
        (Ok(_), Ok(_)) | (Err(libc::ENOMEM), _) => true,
        (Err(errno), Err(wanted)) => errno == wanted,
        (Err(_), _) => t.failing,
        (Ok(_), Err(_)) => false,
    };
    if !good || !(told.read || t.failing) {
        t.wrong(&format!(
            "a vfork child's mmap: {:?}, expected {expected:?}; read {}",
            told.mapped, told.read
        ));
    }
}

#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    fd: i32,
    padding: i32,
}

/// Passes a descriptor to whoever of the round takes it, and takes one.
pub(crate) fn pass(t: &mut Thread<'_>) {
    let socket = t.orders.socket;
    if let Some((_, fd)) = t.some_fd() {
        let number = t.orders.number as u8;
        transfer(number, fd, |message| {
            // SAFETY: the message is whole.
            unsafe { libc::sendmsg(socket, message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) }
        });
    }
    let received = transfer(0, -1, |message| {
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: as above.
        unsafe { libc::recvmsg(socket, message, flags) }
    });
    let Some((sender, fd)) = received.filter(|&(_, fd)| fd >= 0) else {
        return;
    };
    if u64::from(sender) != t.orders.number {
        let mapped = anywhere(|| mmap(0, P, libc::PROT_READ, libc::MAP_SHARED, fd, 0));
        t.refused(
            "mmap of another's descriptor",
            mapped,
            &[libc::EPERM, libc::EINVAL],
        );
        let sealed = ioctl(fd, SEAL, 0);
        t.refused(
            "SEAL of another's descriptor",
            sealed,
            &[libc::EPERM, libc::EINVAL],
        );
    }
    let _ = close(fd);
}

/// A byte and a descriptor, there or back.
fn transfer(byte: u8, fd: i32, work: impl FnOnce(&mut libc::msghdr) -> isize) -> Option<(u8, i32)> {
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<i32>(),
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        fd,
        padding: 0,
    };
    let mut byte = byte;
    let mut part = libc::iovec {
        iov_base: std::ptr::from_mut(&mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: a msghdr of zeros is one without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(&mut control).cast();
    message.msg_controllen = size_of::<Control>();
    let moved = work(&mut message);
    (moved == 1).then_some((byte, control.fd))
}
