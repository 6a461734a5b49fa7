//! Steps that cut, move and change what is mapped.

use crate::calls::{self, Answer, madvise, mprotect, mremap, munmap};
use crate::model::{P, Piece};
use crate::steps::{PROTECTIONS, anywhere, at_a_place, without_failures};
use crate::worker::{ARENA, Thread};

/// What the kernel says where it may not: memory that mseal keeps, an entry that cannot be cut.
fn obstacle(t: &Thread<'_>, at: usize, bytes: usize) -> Option<i32> {
    if t.model.has_frozen(at, bytes) {
        Some(libc::EPERM)
    } else if t.model.cuts_huge(at, bytes) {
        Some(libc::EINVAL)
    } else {
        None
    }
}

/// Whether that errno has its reason there: where there are both, the kernel says of the first that it meets.
fn hinders(t: &Thread<'_>, at: usize, bytes: usize, errno: i32) -> bool {
    match errno {
        libc::EPERM => t.model.has_frozen(at, bytes),
        libc::EINVAL => t.model.cuts_huge(at, bytes),
        _ => false,
    }
}

/// Memory that nothing may touch, over what is there. Where it fails for the test's reasons, what was there may be
/// gone, and nothing have come in its place: then it is done again without them.
pub(crate) fn cover(t: &Thread<'_>, at: usize, bytes: usize) -> Answer {
    at_a_place(|| match calls::cover(at, bytes) {
        Err(_) if t.failing => without_failures(t, || calls::cover(at, bytes)),
        answer => answer,
    })
}

/// munmap, or another mapping over it.
pub(crate) fn unmap(t: &mut Thread<'_>) {
    // Everything in the thread's own address space, at times.
    let (at, bytes) = if t.random.one_in(30) {
        let from = t.random.below(ARENA / P);
        let pages = 1 + t.random.below(ARENA / P - from);
        (t.arena + from * P, pages * P)
    } else {
        let Some(piece) = t.some_piece() else { return };
        if t.random.one_in(3) {
            (piece.at, piece.pages * P)
        } else {
            t.some_part(&piece)
        }
    };
    let own = (t.arena..t.arena + ARENA).contains(&at);
    let expected = obstacle(t, at, bytes);
    let answer = if own {
        cover(t, at, bytes)
    } else {
        munmap(at, bytes)
    };
    match (answer, expected) {
        (Ok(_), None) => t.model.unmapped(at, bytes),
        (Err(errno), Some(_)) if hinders(t, at, bytes, errno) => {}
        // Nothing of it is gone.
        (Err(_), _) if t.failing => {}
        (answer, expected) => t.wrong(&format!(
            "unmapping {bytes:#x} at {at:#x}: {answer:?}, expected {expected:?}"
        )),
    }
}

pub(crate) fn protect(t: &mut Thread<'_>) {
    let Some(piece) = t.some_piece() else { return };
    let (at, bytes) = t.some_part(&piece);
    let code = t.random.one_in(8);
    let protection = if code {
        libc::PROT_READ | libc::PROT_EXEC
    } else {
        t.random.pick(&PROTECTIONS)
    };
    let write = protection & libc::PROT_WRITE != 0;
    let denied = code || (write && t.model.thing(piece.thing).read_only);
    let obstacle = obstacle(t, at, bytes);
    let mut answer = mprotect(at, bytes, protection);
    if answer.is_err() && t.failing && !denied && obstacle.is_none() {
        // A part of it may have changed.
        answer = without_failures(t, || mprotect(at, bytes, protection));
    }
    match (answer, obstacle) {
        (Ok(_), None) if !denied => t.model.protected(at, bytes, protection),
        // It had that protection: nothing is cut.
        (Ok(_), Some(libc::EINVAL)) if !denied && protection == piece.protection => {}
        (Err(libc::EACCES), _) if denied => {}
        (Err(errno), Some(_)) if hinders(t, at, bytes, errno) => {}
        (answer, _) => t.wrong(&format!(
            "mprotect {bytes:#x} at {at:#x} to {protection}: {answer:?}, denied {denied}, expected {obstacle:?}"
        )),
    }
}

pub(crate) fn remap(t: &mut Thread<'_>) {
    let Some(piece) = t.some_piece() else { return };
    if piece.fixed {
        return;
    }
    match t.random.below(8) {
        0..3 => shrink(t, &piece),
        3 => refuse(t, &piece),
        _ => displace(t, &piece),
    }
}

fn shrink(t: &mut Thread<'_>, piece: &Piece) {
    let pages = 1 + t.random.below(piece.pages);
    let (at, old, new) = (piece.at, piece.pages * P, pages * P);
    let (tail, rest) = (at + new, old - new);
    let expected = if rest == 0 && piece.frozen {
        Some(libc::EPERM)
    } else {
        obstacle(t, at, old)
            .filter(|&errno| errno == libc::EPERM)
            .or_else(|| (rest != 0).then(|| obstacle(t, tail, rest)).flatten())
    };
    match (mremap(at, old, new, 0, 0), expected) {
        (Ok(_), None) if rest != 0 => t.model.unmapped(tail, rest),
        (Ok(_), None) => {}
        (Err(errno), Some(_)) if hinders(t, at, old, errno) || hinders(t, tail, rest, errno) => {}
        // Several mappings of the kernel's, where madvise cut it, and nothing to be done.
        (Err(libc::EFAULT), None) if rest == 0 => {}
        (Err(_), _) if t.failing => {}
        (answer, expected) => t.wrong(&format!(
            "mremap {old:#x} to {new:#x} at {at:#x}: {answer:?}, expected {expected:?}"
        )),
    }
}

/// What never works: growing, a second mapping, leaving one behind.
fn refuse(t: &mut Thread<'_>, piece: &Piece) {
    let bytes = piece.pages * P;
    let (old, new, flags) = match t.random.below(3) {
        0 => (
            bytes,
            bytes + P * (1 + t.random.below(600)),
            libc::MREMAP_MAYMOVE,
        ),
        1 => (0, bytes, libc::MREMAP_MAYMOVE),
        _ => (bytes, bytes, libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP),
    };
    let answer = anywhere(|| mremap(piece.at, old, new, flags, 0));
    t.refused(
        "mremap",
        answer,
        &[libc::EFAULT, libc::EINVAL, libc::EPERM, libc::ENOMEM],
    );
}

/// To the thread's own address space.
fn displace(t: &mut Thread<'_>, piece: &Piece) {
    let (at, bytes) = t.some_part(piece);
    if bytes > ARENA {
        return;
    }
    let unit = if t.random.one_in(2) { 2 << 20 } else { P };
    let to = t.arena + t.random.below((ARENA - bytes) / unit + 1) * unit;
    let huge = t.model.thing(piece.thing).is_huge();
    let first = piece.first + (at - piece.at) / P;
    let misplaced = huge && !to.wrapping_sub(first * P).is_multiple_of(2 << 20);
    let expected = obstacle(t, at, bytes)
        .or_else(|| obstacle(t, to, bytes))
        .or_else(|| misplaced.then_some(libc::EINVAL));
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    at_a_place(|| {
        let answer = mremap(at, bytes, bytes, flags, to);
        match (answer, expected) {
            (Ok(_), None) => {
                t.model.unmapped(to, bytes);
                t.model.cut(at, bytes);
                let end = at + bytes;
                for moved in &mut t.model.pieces {
                    if moved.at >= at && moved.end() <= end {
                        moved.at = moved.at - at + to;
                        moved.fixed = true;
                    }
                }
            }
            (Ok(_), Some(_)) => t.wrong(&format!("mremap moved, expected {expected:?}")),
            (Err(errno), expected) => {
                // What was at the target may be gone.
                let covered = without_failures(t, || calls::cover(to, bytes));
                match covered {
                    Ok(_) => t.model.unmapped(to, bytes),
                    Err(libc::EINVAL | libc::EPERM) => {}
                    Err(errno) => t.wrong(&format!("cover: errno {errno}")),
                }
                // EFAULT: several mappings of the kernel's, where madvise cut it.
                let known = errno == libc::EFAULT
                    || expected == Some(errno)
                    || (expected.is_some() && matches!(errno, libc::EINVAL | libc::EPERM));
                if !known && !t.failing {
                    t.wrong(&format!(
                        "mremap {bytes:#x} from {at:#x} to {to:#x}: errno {errno}, expected {expected:?}"
                    ));
                }
            }
        }
    });
}

pub(crate) fn advise(t: &mut Thread<'_>) {
    // Linux 6.12 include/uapi/asm-generic/mman-common.h. These are never granted.
    const NEVER: [i32; 8] = [
        libc::MADV_DONTNEED,
        libc::MADV_FREE,
        libc::MADV_REMOVE,
        libc::MADV_DOFORK,
        libc::MADV_DODUMP,
        libc::MADV_HWPOISON,
        libc::MADV_SOFT_OFFLINE,
        libc::MADV_WIPEONFORK,
    ];
    const OTHERS: [i32; 16] = [
        libc::MADV_NORMAL,
        libc::MADV_RANDOM,
        libc::MADV_SEQUENTIAL,
        libc::MADV_WILLNEED,
        libc::MADV_DONTFORK,
        libc::MADV_MERGEABLE,
        libc::MADV_UNMERGEABLE,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_DONTDUMP,
        libc::MADV_KEEPONFORK,
        libc::MADV_COLD,
        libc::MADV_PAGEOUT,
        libc::MADV_POPULATE_READ,
        libc::MADV_POPULATE_WRITE,
        libc::MADV_COLLAPSE,
    ];
    let Some(piece) = t.some_piece() else { return };
    let (at, bytes) = t.some_part(&piece);
    if t.random.one_in(2) {
        let advice = t.random.pick(&NEVER);
        if madvise(at, bytes, advice).is_ok() {
            t.wrong(&format!("madvise {advice} was granted"));
        }
    } else {
        let advice = t.random.pick(&OTHERS);
        // What it says is the kernel's; what must not change is checked when it is touched.
        let _ = madvise(at, bytes, advice);
    }
}

/// mlock and its like change nothing.
pub(crate) fn lock(t: &mut Thread<'_>) {
    let Some(piece) = t.some_piece() else { return };
    let (at, bytes) = t.some_part(&piece);
    // SAFETY: no memory is changed.
    let (result, may_not) = unsafe {
        match t.random.below(3) {
            0 => (libc::mlock(at as *const _, bytes), !t.is_root()),
            1 => (
                libc::mlock2(at as *const _, bytes, libc::MLOCK_ONFAULT),
                !t.is_root(),
            ),
            _ => (libc::munlock(at as *const _, bytes), false),
        }
    };
    // An ordinary user may have a limit of none.
    if result != 0 && !may_not && !t.failing {
        let errno = crate::object::errno();
        t.wrong(&format!("mlock or munlock: errno {errno}"));
    }
}

/// mseal: nothing changes it any more, until the process ends.
pub(crate) fn freeze(t: &mut Thread<'_>) {
    const MSEAL: i64 = 462;
    if !t.random.one_in(6) || t.model.pieces.iter().filter(|piece| piece.frozen).count() > 2 {
        return;
    }
    let Some(piece) = t.some_piece() else { return };
    if t.model.thing(piece.thing).is_huge() {
        return;
    }
    let (at, bytes) = t.some_part(&piece);
    // SAFETY: no memory is changed.
    if unsafe { calls::call(MSEAL, [at, bytes, 0, 0, 0, 0]) }.is_ok() {
        t.model.cut(at, bytes);
        for piece in &mut t.model.pieces {
            if piece.at >= at && piece.end() <= at + bytes {
                piece.frozen = true;
            }
        }
    }
}
