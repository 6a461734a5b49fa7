//! Steps in which the kernel reads and writes for the process, and those in which it must not.

use crate::calls::{Answer, call};
use crate::model::P;
use crate::steps::check;
use crate::touch::{load, store};
use crate::worker::Thread;

/// read(2) and write(2) with a secret buffer.
pub(crate) fn read_and_write(t: &mut Thread<'_>) {
    let Some(piece) = t.some_piece() else { return };
    let page = t.random.below(piece.pages);
    let word = t.random.below(P / 8) as u16;
    let number = piece.first + page;
    let at = piece.at + page * P + usize::from(word) * 8;
    let (reader, writer) = (t.pipe[0] as usize, t.pipe[1] as usize);
    let mut plain = [0_u64];
    let own = plain.as_mut_ptr() as usize;
    // SAFETY: a word of this thread's, or of its secret memory.
    let read = |to| unsafe { call(libc::SYS_read, [reader, to, 8, 0, 0, 0]) };
    // SAFETY: as above.
    let write = |from| unsafe { call(libc::SYS_write, [writer, from, 8, 0, 0, 0]) };
    if t.random.one_in(2) {
        let readable = piece.protection & libc::PROT_READ != 0;
        match write(at) {
            Ok(8) if readable => {}
            Err(libc::EFAULT) if !readable => return,
            Err(_) if t.failing => return,
            other => t.wrong(&format!("write from secret memory: {other:?}, {readable}")),
        }
        if read(own) != Ok(8) {
            t.wrong("a pipe lost what was written");
        }
        check(t, &piece, page, word);
        if load(at) != load(own) {
            t.wrong(&format!("write gave {:x?} from {at:#x}", load(own)));
        }
        return;
    }
    let writable = piece.protection & libc::PROT_WRITE != 0;
    store(own, t.model.word(piece.thing, number, word));
    if write(own) != Ok(8) {
        return;
    }
    match read(at) {
        Ok(8) if writable => {
            t.model.thing_mut(piece.thing).written[number] = Some(word);
            check(t, &piece, page, word);
        }
        Err(libc::EFAULT) if !writable => {
            let _ = read(own);
        }
        Err(_) if t.failing => {
            let _ = read(own);
        }
        other => t.wrong(&format!("read into secret memory: {other:?}, {writable}")),
    }
}

/// get_user_pages in its many forms.
pub(crate) fn pin(t: &mut Thread<'_>) {
    let Some(piece) = t.some_piece() else { return };
    let page = t.random.below(piece.pages);
    let at = piece.at + page * P;
    let mut buffer = [0_u8; 64];
    let own = [buffer.as_mut_ptr() as usize, 64];
    let secret = [at, 64];
    // SAFETY: no memory is involved.
    let me = unsafe { libc::getpid() } as usize;
    let (own, secret) = (own.as_ptr() as usize, secret.as_ptr() as usize);
    // What follows writes at most to the buffer.
    let attempt = |number, arguments| -> Answer {
        // SAFETY: as said.
        unsafe { call(number, arguments) }
    };
    let (name, answer) = match t.random.below(9) {
        0 => (
            "process_vm_readv",
            attempt(libc::SYS_process_vm_readv, [me, own, 1, secret, 1, 0]),
        ),
        1 => (
            "process_vm_writev",
            attempt(libc::SYS_process_vm_writev, [me, own, 1, secret, 1, 0]),
        ),
        2 => (
            "vmsplice",
            attempt(
                libc::SYS_vmsplice,
                [
                    t.pipe[1] as usize,
                    secret,
                    1,
                    libc::SPLICE_F_NONBLOCK as usize,
                    0,
                    0,
                ],
            ),
        ),
        3 if t.direct >= 0 => (
            "O_DIRECT write",
            attempt(libc::SYS_pwrite64, [t.direct as usize, at, P, 0, 0, 0]),
        ),
        4 if t.direct >= 0 && piece.protection & libc::PROT_WRITE != 0 => {
            let answer = attempt(libc::SYS_pread64, [t.direct as usize, at, P, 0, 0, 0]);
            ("O_DIRECT read", answer)
        }
        5 => ("/proc/self/mem", through_proc(at, &mut buffer)),
        6 => (
            "a shared futex",
            attempt(libc::SYS_futex, [at, libc::FUTEX_WAKE as usize, 1, 0, 0, 0]),
        ),
        7 => {
            let mut status = 0_i32;
            let pages = [at];
            let (list, node) = (pages.as_ptr() as usize, [0_i32]);
            let answer = attempt(
                libc::SYS_move_pages,
                [
                    0,
                    1,
                    list,
                    node.as_ptr() as usize,
                    std::ptr::from_mut(&mut status) as usize,
                    0,
                ],
            );
            match answer {
                Ok(_) if status >= 0 => t.wrong(&format!("move_pages found the page: {status}")),
                _ => return,
            }
        }
        _ => {
            // The fault handler of user space may not have it.
            const USER_MODE_ONLY: usize = 1;
            let fd = attempt(
                libc::SYS_userfaultfd,
                [libc::O_CLOEXEC as usize | USER_MODE_ONLY, 0, 0, 0, 0, 0],
            );
            let Ok(fd) = fd else { return };
            let registered = register(fd as i32, at);
            let _ = crate::calls::close(fd as i32);
            ("userfaultfd", registered)
        }
    };
    if let Ok(result) = answer {
        t.wrong(&format!("{name} of secret memory: {result}"));
    }
    let nothing = buffer == [0; 64];
    if !nothing {
        t.wrong(&format!("{name} left bytes"));
    }
}

fn through_proc(at: usize, buffer: &mut [u8]) -> Answer {
    use std::os::unix::fs::FileExt;
    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(0);
    let memory = std::fs::File::open("/proc/self/mem").map_err(errno)?;
    memory.read_at(buffer, at as u64).map_err(errno)
}

fn register(fd: i32, at: usize) -> Answer {
    // include/uapi/linux/userfaultfd.h: UFFDIO_API and UFFDIO_REGISTER, missing pages.
    const API: u32 = 0xc018_aa3f;
    const REGISTER: u32 = 0xc020_aa00;
    let mut api = [0xaa_u64, 0, 0];
    let mut range = [at as u64, P as u64, 1, 0];
    crate::calls::ioctl(fd, API, api.as_mut_ptr() as usize)?;
    crate::calls::ioctl(fd, REGISTER, range.as_mut_ptr() as usize)
}

/// Whoever walks the page tables of a process meets the driver's entries.
pub(crate) fn walk(t: &mut Thread<'_>) {
    match t.random.below(4) {
        0 => drop(std::fs::read("/proc/self/smaps")),
        1 => drop(std::fs::read("/proc/self/numa_maps")),
        2 => drop(std::fs::write("/proc/self/clear_refs", "1")),
        _ => {
            use std::os::unix::fs::FileExt;
            let Some(piece) = t.some_piece() else { return };
            let Ok(map) = std::fs::File::open("/proc/self/pagemap") else {
                return;
            };
            let mut entries = [0; 512 * 8];
            let _ = map.read_at(&mut entries, (piece.at / P * 8) as u64);
            let mut seen = [0_u8; 64];
            // SAFETY: a byte for each of at most 64 pages.
            let answer = unsafe {
                let bytes = piece.pages.min(64) * P;
                let to = seen.as_mut_ptr() as usize;
                call(libc::SYS_mincore, [piece.at, bytes, to, 0, 0, 0])
            };
            if answer.is_err() && !t.failing {
                t.wrong(&format!("mincore: {answer:?}"));
            }
        }
    }
}
