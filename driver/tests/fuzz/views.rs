//! Steps that hide pages in one mapping and show them again.

use crate::calls::{call, ioctl};
use crate::model::P;
use crate::steps::{check, without_failures};
use crate::touch::{load, store};
use crate::worker::Thread;
use strongroom_core::driver::{HIDE, RangeRequest, SHOW, VERSION};

/// Hides a part of a mapping, looks at it and beside it, and shows it again.
pub(crate) fn hide(t: &mut Thread<'_>) {
    let Some(piece) = t.some_piece() else { return };
    let thing = t.model.thing(piece.thing);
    let (Some(&fd), huge) = (thing.fds.first(), thing.is_huge()) else {
        return;
    };
    let (at, bytes) = t.some_part(&piece);
    let request = RangeRequest {
        size: size_of::<RangeRequest>() as u32,
        version: VERSION,
        address: at as u64,
        bytes: bytes as u64,
        reserved: 0,
    };
    let argument = std::ptr::from_ref(&request) as usize;
    let answer = ioctl(fd, HIDE, argument);
    let (first, pages) = ((at - piece.at) / P, bytes / P);
    match answer {
        Ok(_) if !huge => {}
        Err(libc::EINVAL) if huge => return,
        // Several mappings of the kernel's, where madvise cut it: nothing is hidden.
        Err(libc::ENOMEM) => return check(t, &piece, first, 0),
        Err(_) if t.failing => return check(t, &piece, first, 0),
        other => t.wrong(&format!(
            "HIDE of {bytes:#x} at {at:#x}: {other:?}, huge {huge}"
        )),
    }
    for _ in 0..4 {
        let place = at + t.random.below(pages) * P;
        // By system calls mostly: the kernel logs what a program itself touches. And where things fail, the signal's
        // frame may, too.
        if t.random.one_in(16) && !t.failing {
            if load(place).is_some() || store(place, 1) {
                t.wrong(&format!("hidden, and there: {place:#x}"));
            }
        } else {
            let writer = t.pipe[1] as usize;
            // SAFETY: the kernel reads a word, or says that it cannot.
            let seen = unsafe { call(libc::SYS_write, [writer, place, 8, 0, 0, 0]) };
            if seen != Err(libc::EFAULT) && !t.failing {
                t.wrong(&format!("hidden, and read at {place:#x}: {seen:?}"));
            }
        }
    }
    for page in [first.checked_sub(1), Some(first + pages)] {
        if let Some(page) = page.filter(|&page| page < piece.pages) {
            check(t, &piece, page, 0);
        }
    }
    let shown = without_failures(t, || ioctl(fd, SHOW, argument));
    if shown.is_err() {
        t.wrong(&format!("SHOW of {bytes:#x} at {at:#x}: {shown:?}"));
    }
    for page in [first, first + pages - 1, first + t.random.below(pages)] {
        let word = t.model.thing(piece.thing).written[piece.first + page];
        check(t, &piece, page, word.unwrap_or(0));
    }
}
