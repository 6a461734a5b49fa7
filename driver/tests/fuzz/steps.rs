//! What a thread does: one of these at a time, chosen at random, and checked by ABI.md.

use crate::calls::{self, Answer, close, ioctl, mmap, violation};
use crate::mappings;
use crate::model::{BLOCK, P, Piece, State};
use crate::pins;
use crate::random::mix;
use crate::strangers;
use crate::touch::{load, store};
use crate::views;
use crate::worker::{ARENA, COMMON, Common, Thread};
use std::sync::{PoisonError, RwLock};
use strongroom_core::driver::{
    Abi, GET_ABI, GET_HOLDERS, GET_INFO, HIDE, HoldersRequest, Info, Mode, ModeRequest, SEAL,
    SET_MODE, SHOW, VERSION,
};

pub(crate) const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
pub(crate) const PROTECTIONS: [i32; 4] = [RW, RW, libc::PROT_READ, libc::PROT_NONE];
/// Objects of a thread at most.
const THINGS: usize = 8;
/// Pieces of a thread at most: beyond, it unmaps.
const PIECES: usize = 40;

/// A mapping that replaces another may fail and leave a gap (mm/mmap.c, 6.12), in which no other
/// thread's may come to lie before it is covered again: whoever maps anywhere reads this.
pub(crate) static PLACES: RwLock<()> = RwLock::new(());

pub(crate) fn anywhere<T>(work: impl FnOnce() -> T) -> T {
    let _shared = PLACES.read().unwrap_or_else(PoisonError::into_inner);
    work()
}

pub(crate) fn at_a_place<T>(work: impl FnOnce() -> T) -> T {
    let _alone = PLACES.write().unwrap_or_else(PoisonError::into_inner);
    work()
}

impl Thread<'_> {
    /// Ends all, with what the step was.
    pub(crate) fn wrong(&self, what: &str) -> ! {
        let orders = self.orders;
        violation(&format!(
            "seed {} round {} worker {} step {}{}: {what}",
            orders.seed,
            orders.round,
            orders.number,
            self.step,
            if self.failing { " (failing)" } else { "" }
        ))
    }

    /// Whether the answer is as it must be: `Err` of one of these errnos.
    pub(crate) fn refused(&self, what: &str, answer: Answer, errnos: &[i32]) {
        match answer {
            Err(errno) if errnos.contains(&errno) || self.failing => {}
            other => self.wrong(&format!("{what}: {other:?}, expected one of {errnos:?}")),
        }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.orders.user.is_none()
    }

    /// Some object.
    pub(crate) fn some_thing(&mut self) -> Option<u64> {
        let things = &self.model.things;
        if things.is_empty() {
            return None;
        }
        Some(things[self.random.below(things.len())].id)
    }

    /// Some object and a descriptor of it.
    pub(crate) fn some_fd(&mut self) -> Option<(u64, i32)> {
        let id = self.some_thing()?;
        let fds = &self.model.thing(id).fds;
        if fds.is_empty() {
            return None;
        }
        Some((id, fds[self.random.below(fds.len())]))
    }

    /// Some mapping.
    pub(crate) fn some_piece(&mut self) -> Option<Piece> {
        let pieces = &self.model.pieces;
        if pieces.is_empty() {
            return None;
        }
        Some(pieces[self.random.below(pieces.len())].clone())
    }

    /// Some part of it: the address and bytes.
    pub(crate) fn some_part(&mut self, piece: &Piece) -> (usize, usize) {
        let huge = self.model.thing(piece.thing).is_huge();
        let unit = if huge && !self.random.one_in(4) {
            BLOCK
        } else {
            1
        };
        let units = piece.pages.div_ceil(unit);
        let from = self.random.below(units);
        let many = 1 + self.random.below(units - from);
        let first = from * unit;
        let pages = (many * unit).min(piece.pages - first);
        (piece.at + first * P, pages * P)
    }
}

/// Does one thing.
pub(crate) fn step(t: &mut Thread<'_>) {
    t.failing = t.orders.failing && t.random.one_in(3) && fail_nth(1 + t.random.below(12));
    match t.random.below(100) {
        0..5 => open(t),
        5..14 => set_mode(t),
        14..30 => map(t),
        30..38 => mappings::unmap(t),
        38..45 => mappings::protect(t),
        45..50 => mappings::remap(t),
        50..54 => mappings::advise(t),
        54..62 => touch(t),
        62..66 => views::hide(t),
        66..71 => common(t),
        71..74 => strange_ioctl(t),
        74..76 => seal(t),
        76..79 => ask(t),
        79..82 => end_descriptor(t),
        82..84 => duplicate(t),
        84..89 => pins::read_and_write(t),
        89..93 => pins::pin(t),
        93..94 => pins::walk(t),
        94..95 => mappings::lock(t),
        95..97 => strangers::pass(t),
        97..98 => strangers::vfork(t),
        98..99 => strangers::fork(t),
        _ => mappings::freeze(t),
    }
    if t.failing {
        fail_nth(0);
        t.failing = false;
    }
}

/// Has the kernel's allocation of that number in this thread's next calls fail
/// (Documentation/fault-injection/fault-injection.rst).
fn fail_nth(number: usize) -> bool {
    // SAFETY: no memory is involved.
    let thread = unsafe { libc::gettid() };
    let path = format!("/proc/self/task/{thread}/fail-nth");
    std::fs::write(path, number.to_string()).is_ok()
}

fn open(t: &mut Thread<'_>) {
    if t.model.things.len() >= THINGS {
        return end_descriptor(t);
    }
    let read_only = t.random.one_in(8);
    let access = if read_only {
        libc::O_RDONLY
    } else {
        libc::O_RDWR
    };
    let more = t.random.pick(&[0, libc::O_CLOEXEC, libc::O_CLOEXEC]);
    match calls::open(access | more) {
        Ok(fd) => t.model.add(fd as i32, read_only),
        Err(_) if t.failing => {}
        Err(errno) => t.wrong(&format!("open: errno {errno}")),
    }
}

fn request(t: &mut Thread<'_>) -> ModeRequest {
    let r = &mut t.random;
    let good = !r.one_in(4);
    let mut mode = Mode::EXCLUSIVE;
    for (bit, times) in [
        (Mode::HUGE, 4),
        (Mode::SEALED, 4),
        (Mode::UNCACHED, 8),
        (Mode::WRITE_COMBINING, 8),
    ] {
        if r.one_in(times) {
            mode |= bit;
        }
    }
    let pages = match r.below(20) {
        0..11 => 1 + r.below(16),
        11..14 => 1 + r.below(3 * BLOCK),
        14..18 => BLOCK * (1 + r.below(3)),
        18 => BLOCK * (1 + r.below(32)),
        _ => 1 + r.below(80_000),
    };
    let unit = if mode.contains(Mode::HUGE) && good {
        pages.next_multiple_of(BLOCK)
    } else {
        pages
    };
    let mut request = ModeRequest {
        size: size_of::<ModeRequest>() as u32,
        version: VERSION,
        bytes: (unit * P) as u64,
        mode: mode.bits(),
        reserved: 0,
    };
    if !good {
        match r.below(6) {
            0 => request.size = r.next() as u32,
            1 => request.version = r.next() as u32,
            2 => request.bytes = r.next() >> r.below(64),
            3 => request.mode ^= 1 << r.below(64),
            4 => request.mode = r.next() >> r.below(64),
            _ => request.reserved = r.next() >> r.below(64),
        }
    }
    request
}

/// SET_MODE, with the request in ordinary memory, in secret memory, or where nothing can be read.
fn set_mode(t: &mut Thread<'_>) {
    let Some((id, fd)) = t.some_fd() else {
        return open(t);
    };
    let request = request(t);
    let expected = t.model.thing(id).answer_to(&request);
    let ordinary = std::ptr::from_ref(&request) as usize;
    let answer = match t.random.below(10) {
        0 => {
            let bad = bad_address(t);
            let answer = ioctl(fd, SET_MODE, bad);
            return t.refused("SET_MODE of a bad address", answer, &[libc::EFAULT]);
        }
        1 => match secret_place(t) {
            Some(place) => from_secret(t, fd, &request, place),
            None => ioctl(fd, SET_MODE, ordinary),
        },
        _ => ioctl(fd, SET_MODE, ordinary),
    };
    match (answer, expected) {
        (Ok(_), Ok(())) => {
            let thing = t.model.thing_mut(id);
            thing.state = State::Ready;
            thing.mode = Mode::from_bits_truncate(request.mode);
            thing.pages = (request.bytes / P as u64) as usize;
        }
        (Err(errno), Err(wanted)) if errno == wanted => {}
        (Err(_), _) if t.failing => {}
        (answer, expected) => t.wrong(&format!(
            "SET_MODE {request:?}: {answer:?}, expected {expected:?}"
        )),
    }
}

/// The beginning of a page of the thread's that can be written.
fn secret_place(t: &mut Thread<'_>) -> Option<usize> {
    t.some_piece()
        .filter(|piece| piece.protection == RW)
        .map(|piece| piece.at)
}

fn from_secret(t: &Thread<'_>, fd: i32, request: &ModeRequest, place: usize) -> Answer {
    let words = [
        u64::from(request.size) | u64::from(request.version) << 32,
        request.bytes,
        request.mode,
        request.reserved,
    ];
    let before = [0, 8, 16, 24].map(|offset| load(place + offset));
    for (word, offset) in words.iter().zip([0, 8, 16, 24]) {
        if !store(place + offset, *word) {
            t.wrong("secret memory cannot be written");
        }
    }
    let answer = ioctl(fd, SET_MODE, place);
    for (word, offset) in before.into_iter().zip([0, 8, 16, 24]) {
        store(place + offset, word.unwrap_or(0));
    }
    answer
}

/// Where the kernel can read and write nothing for this process.
fn bad_address(t: &mut Thread<'_>) -> usize {
    let r = &mut t.random;
    match r.below(6) {
        0 => 0,
        1 => 1 + r.below(4000),
        2 => usize::MAX - r.below(64),
        3 => 0xffff_8880_0000_0000 + r.below(1 << 30),
        4 => 1 << 47,
        // The guard before the thread's own address space: never mapped to be read.
        _ => t.common.at.wrapping_add(1 << 62),
    }
}

/// Where a mapping goes.
enum Place {
    Anywhere(usize),
    /// In the thread's own address space, over what is there.
    Over(usize),
    /// The same, and nothing may be there; there always is.
    Beside(usize),
}

fn place(t: &mut Thread<'_>, pages: usize) -> Place {
    let bytes = pages.saturating_mul(P);
    let r = &mut t.random;
    match r.below(10) {
        5..=8 if bytes <= ARENA => {
            let unit = if r.one_in(2) { BLOCK * P } else { P };
            let at = t.arena + r.below((ARENA - bytes) / unit + 1) * unit;
            Place::Over(at)
        }
        9 if bytes <= ARENA => Place::Beside(t.arena),
        3..=4 => Place::Anywhere(t.random.next() as usize >> t.random.below(64)),
        _ => Place::Anywhere(0),
    }
}

fn map(t: &mut Thread<'_>) {
    if t.model.pieces.len() >= PIECES {
        return mappings::unmap(t);
    }
    let Some((id, fd)) = t.some_fd() else {
        return open(t);
    };
    if t.random.one_in(6) {
        return wild_map(t, id, fd);
    }
    let thing = t.model.thing(id);
    let (read_only, whole, huge) = (thing.read_only, thing.pages, thing.is_huge());
    let (first, pages) = if thing.state == State::Mapped {
        let unit = if huge { BLOCK } else { 1 };
        let first = t.random.below((whole / unit).max(1)) * unit;
        let most = (whole - first) / unit;
        (first, (1 + t.random.below(most.clamp(1, 64))) * unit)
    } else {
        (0, whole.max(1))
    };
    let mut protection = t.random.pick(&PROTECTIONS);
    if read_only {
        protection &= !libc::PROT_WRITE;
    }
    let more = t
        .random
        .pick(&[0, 0, 0, 0, libc::MAP_POPULATE, libc::MAP_LOCKED]);
    let flags = libc::MAP_SHARED | if t.is_root() { more } else { 0 };
    let chosen = place(t, pages);
    let (length, offset) = (pages * P, first * P);
    let make = |at, fixed| mmap(at, length, protection, flags | fixed, fd, offset);
    let piece = |at: usize, fixed: bool| Piece {
        thing: id,
        at,
        pages,
        first,
        protection,
        fixed,
        frozen: false,
    };
    match chosen {
        Place::Anywhere(hint) => {
            let expected = t.model.answer_to_mmap(id, first, pages, None);
            let answer = anywhere(|| make(hint, 0));
            // A hint is taken as it is.
            let also: &[i32] = if huge && hint != 0 {
                &[libc::EINVAL]
            } else {
                &[]
            };
            let what = format!(
                "mmap of page {first}, {pages} pages at {hint:#x}, protection {protection}, flags {flags:#x} of {}",
                t.model.thing(id)
            );
            if accepted(t, &what, answer, expected, also) {
                t.model.mapped(piece(answer.unwrap_or(0), false));
            }
        }
        Place::Beside(at) => {
            // The kernel looks at the place first.
            let answer = anywhere(|| make(at, libc::MAP_FIXED_NOREPLACE));
            t.refused(
                "mmap beside",
                answer,
                &[libc::EEXIST, libc::EINVAL, libc::ENOMEM],
            );
        }
        Place::Over(at) => {
            let expected = t.model.answer_to_mmap(id, first, pages, Some(at));
            let mut also = Vec::new();
            if t.model.cuts_huge(at, length) {
                also.push(libc::EINVAL);
            }
            if t.model.has_frozen(at, length) {
                also.push(libc::EPERM);
            }
            // What it replaces goes before the driver is asked: it may be what is needed.
            if expected != Ok(true) {
                also.push(libc::ENXIO);
            }
            at_a_place(|| {
                let answer = make(at, libc::MAP_FIXED);
                if answer.is_err() {
                    let covered = without_failures(t, || calls::cover(at, length));
                    match covered {
                        Ok(_) => t.model.unmapped(at, length),
                        Err(libc::EINVAL | libc::EPERM) => {}
                        Err(errno) => t.wrong(&format!("cover: errno {errno}")),
                    }
                }
                let what = format!(
                    "mmap of page {first}, {pages} pages over {at:#x}, protection {protection}, flags {flags:#x} of {}",
                    t.model.thing(id)
                );
                if accepted(t, &what, answer, expected, &also) {
                    replace(t, piece(at, true));
                }
            });
        }
    }
}

/// A mapping took the place of others.
fn replace(t: &mut Thread<'_>, piece: Piece) {
    // It has a descriptor, so it is not forgotten.
    t.model.unmapped(piece.at, piece.pages * P);
    t.model.mapped(piece);
}

/// Whether a call succeeded, which it may only where the model says so; what it may fail of besides.
fn accepted(
    t: &Thread<'_>,
    what: &str,
    answer: Answer,
    expected: Result<bool, i32>,
    also: &[i32],
) -> bool {
    let limits: &[i32] = match t.orders.user {
        // Capabilities lift the limits, and what is full is full.
        None => &[libc::ENOMEM],
        Some(_) => &[libc::ENOMEM, libc::EAGAIN, libc::EDQUOT],
    };
    match (answer, expected) {
        (Ok(_), Ok(_)) => true,
        (Err(errno), Err(wanted)) if errno == wanted || also.contains(&errno) => false,
        (Err(errno), Err(_)) if errno == libc::ENOMEM => false,
        // An object whose last mapping was replaced, or a size that no address space has.
        (Err(errno), Ok(first)) if also.contains(&errno) || (first && limits.contains(&errno)) => {
            false
        }
        (Err(libc::ENOMEM), Ok(_)) => false,
        (Err(_), _) if t.failing => false,
        (answer, expected) => t.wrong(&format!(
            "{what}: {answer:?}, expected {expected:?}, {also:?}"
        )),
    }
}

/// In the middle of a step whose allocations may fail.
pub(crate) fn without_failures<T>(t: &Thread<'_>, work: impl FnOnce() -> T) -> T {
    if t.failing {
        fail_nth(0);
    }
    work()
}

/// What mmap must refuse, or may grant as any other.
fn wild_map(t: &mut Thread<'_>, id: u64, fd: i32) {
    let thing = t.model.thing(id);
    let (whole, read_only) = (thing.pages, thing.read_only);
    let r = &mut t.random;
    let first = match r.below(4) {
        0 => 0,
        1 => r.below(whole.max(1) + 4),
        2 => r.next() as usize >> (12 + r.below(52)),
        _ => (1 << 51) - r.below(4),
    };
    let pages = match r.below(4) {
        0 => whole.clamp(1, 1 << 20),
        1 => 1 + r.below(2 * BLOCK),
        2 => 1 + (r.next() as usize >> (12 + r.below(52))),
        _ => 1,
    };
    let protection = r.pick(&[RW, libc::PROT_READ | libc::PROT_EXEC, 7, libc::PROT_READ]);
    let flags = r.pick(&[
        libc::MAP_SHARED,
        libc::MAP_SHARED_VALIDATE,
        libc::MAP_PRIVATE,
        libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC,
        libc::MAP_SHARED | libc::MAP_HUGETLB,
        libc::MAP_SHARED | libc::MAP_GROWSDOWN,
        0,
    ]);
    let answer = anywhere(|| {
        mmap(
            0,
            pages.saturating_mul(P),
            protection,
            flags,
            fd,
            first.wrapping_mul(P),
        )
    });
    let at = match answer {
        Err(
            libc::EINVAL
            | libc::EPERM
            | libc::EACCES
            | libc::ENOMEM
            | libc::EAGAIN
            | libc::EDQUOT
            | libc::EBUSY
            | libc::ENXIO
            | libc::EOVERFLOW
            | libc::EOPNOTSUPP,
        ) => return,
        Err(errno) => t.wrong(&format!("wild mmap: errno {errno}")),
        Ok(at) => at,
    };
    let shared = matches!(flags & 3, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
    let legal = t.model.answer_to_mmap(id, first, pages, None).is_ok()
        && shared
        && protection & libc::PROT_EXEC == 0
        && !(read_only && protection & libc::PROT_WRITE != 0);
    if !legal {
        t.wrong(&format!(
            "mmap granted: page {first}, {pages} pages, protection {protection}, flags {flags:#x}"
        ));
    }
    t.model.mapped(Piece {
        thing: id,
        at,
        pages,
        first,
        protection,
        fixed: false,
        frozen: false,
    });
}

/// A load or a store, and what must be there.
fn touch(t: &mut Thread<'_>) {
    let Some(piece) = t.some_piece() else {
        return map(t);
    };
    let page = t.random.below(piece.pages);
    touch_page(t, &piece, page);
}

fn touch_page(t: &mut Thread<'_>, piece: &Piece, page: usize) {
    let (thing, number) = (piece.thing, piece.first + page);
    let last = t.model.thing(thing).written[number];
    let fresh = (t.random.below(P / 8)) as u16;
    let word = match last {
        Some(last) if t.random.one_in(2) => last,
        _ => fresh,
    };
    let at = piece.at + page * P + usize::from(word) * 8;
    check(t, piece, page, word);
    if t.random.one_in(2) {
        return;
    }
    let value = t.model.word(thing, number, word);
    let writable = piece.protection & libc::PROT_WRITE != 0;
    if !writable && t.failing {
        return;
    }
    if store(at, value) != writable {
        t.wrong(&format!(
            "a store at {at:#x}: possible {}, allowed {writable}",
            !writable
        ));
    }
    if writable {
        t.model.thing_mut(thing).written[number] = Some(word);
        check(t, piece, page, word);
    }
}

/// Loads a word of a mapping: what its owner wrote, or zero; nothing where it may not be read. But where things fail, a
/// signal's frame may: then the kernel ends the process.
pub(crate) fn check(t: &Thread<'_>, piece: &Piece, page: usize, word: u16) {
    let (thing, number) = (piece.thing, piece.first + page);
    let at = piece.at + page * P + usize::from(word) * 8;
    let readable = piece.protection & libc::PROT_READ != 0;
    if !readable && t.failing {
        return;
    }
    let found = load(at);
    let own = t.model.word(thing, number, word);
    let good = match (found, t.model.thing(thing).written[number]) {
        (None, _) => !readable,
        (Some(_), _) if !readable => false,
        (Some(found), None) => found == 0,
        (Some(found), Some(last)) if last == word => found == own,
        (Some(found), Some(_)) => found == 0 || found == own,
    };
    if !good {
        t.wrong(&format!(
            "at {at:#x} (object {thing}, page {number}, word {word}): {found:x?}, own {own:#x}, {:?}",
            t.model.thing(thing).written[number]
        ));
    }
}

/// All that the thread wrote is there.
pub(crate) fn check_all(t: &mut Thread<'_>) {
    for piece in t.model.pieces.clone() {
        for page in 0..piece.pages {
            if let Some(word) = t.model.thing(piece.thing).written[piece.first + page] {
                check(t, &piece, page, word);
            }
        }
    }
}

/// The object that all threads use at once: what one does, another meets in the middle.
fn common(t: &mut Thread<'_>) {
    let Common { fd, at, salt } = *t.common;
    if t.orders.user.is_some() && fd < 0 {
        return;
    }
    let first = t.random.below(COMMON);
    let most = if t.random.one_in(4) { 600 } else { 8 };
    let pages = 1 + t.random.below(most.min(COMMON - first));
    let (place, bytes) = (at + first * P, pages * P);
    // The first page stays, so that the object does.
    let whole = first != 0;
    match t.random.below(10) {
        // What others do there may end in a signal: see `check`.
        0..6 if t.failing => {}
        0..6 => {
            for page in first..first + pages.min(8) {
                let word = t.random.below(P / 8);
                let own = mix(salt ^ (page * P + word) as u64) | 1;
                let address = at + page * P + word * 8;
                if t.random.one_in(2) {
                    store(address, own);
                }
                if let Some(found) = load(address)
                    && found != 0
                    && found != own
                {
                    t.wrong(&format!(
                        "the common object's page {page} has {found:#x}, not {own:#x}"
                    ));
                }
            }
        }
        6 if whole => {
            if let Err(errno) = mappings::cover(t, place, bytes) {
                t.wrong(&format!("cover of the common object: errno {errno}"));
            }
        }
        7 if whole && fd >= 0 => {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            at_a_place(|| {
                let answer = mmap(place, bytes, RW, flags, fd, first * P);
                if let Err(errno) = answer {
                    let _ = without_failures(t, || calls::cover(place, bytes));
                    let known = [libc::ENXIO, libc::ENOMEM, libc::EINVAL, libc::EAGAIN];
                    if !known.contains(&errno) && !t.failing {
                        t.wrong(&format!("mmap of the common object: errno {errno}"));
                    }
                }
            });
        }
        8 => {
            let protection = t.random.pick(&PROTECTIONS);
            let _ = calls::mprotect(place, bytes, protection);
        }
        _ => {
            let advice =
                t.random
                    .pick(&[libc::MADV_DONTFORK, libc::MADV_HUGEPAGE, libc::MADV_RANDOM]);
            let _ = calls::madvise(place, bytes, advice);
        }
    }
}

fn strange_ioctl(t: &mut Thread<'_>) {
    let Some((_, fd)) = t.some_fd() else { return };
    let known = [GET_ABI, SET_MODE, SEAL, GET_INFO, GET_HOLDERS, HIDE, SHOW];
    let number = match t.random.below(3) {
        0 => t.random.pick(&known) ^ 1 << t.random.below(32),
        1 => 0xd600 | t.random.next() as u32,
        _ => t.random.next() as u32,
    };
    // What the kernel does with any file: descriptor flags, sizes, clones.
    let everybody = matches!(number >> 8 & 0xff, 0x54 | 0x66 | 0x58 | 0x94) || number & 0xffff < 3;
    if known.contains(&number) || everybody {
        return;
    }
    let argument = match t.random.below(3) {
        0 => bad_address(t),
        1 => t.random.next() as usize,
        _ => secret_place(t).unwrap_or(0),
    };
    let answer = ioctl(fd, number, argument);
    t.refused(
        &format!("ioctl {number:#x}"),
        answer,
        &[libc::ENOTTY, libc::EOPNOTSUPP],
    );
}

fn seal(t: &mut Thread<'_>) {
    let Some((id, fd)) = t.some_fd() else { return };
    let mapped = t.model.is_mapped(id);
    let expected = match t.model.thing(id).state {
        State::Blank => Err(libc::EINVAL),
        State::Mapped if !mapped => Err(libc::ENXIO),
        _ => Ok(()),
    };
    let answer = ioctl(fd, SEAL, t.random.next() as usize).map(|_| ());
    if answer != expected && !t.failing {
        t.wrong(&format!("SEAL: {answer:?}, expected {expected:?}"));
    }
    // Before the first mapping it means: no further one.
    if answer.is_ok() {
        t.model.thing_mut(id).sealed = true;
    }
}

/// The calls that tell something.
fn ask(t: &mut Thread<'_>) {
    let Some((_, fd)) = t.some_fd() else { return };
    let bad = t.random.one_in(4);
    let place = bad_address(t);
    match t.random.below(4) {
        0 => {
            // SAFETY: numbers may be 0.
            let mut abi: Abi = unsafe { std::mem::zeroed() };
            (abi.size, abi.version) = (size_of::<Abi>() as u32, VERSION);
            let good = std::ptr::from_mut(&mut abi) as usize;
            let answer = ioctl(fd, GET_ABI, if bad { place } else { good });
            told(t, "GET_ABI", answer, bad, true);
            if !bad && abi.modes != Mode::all().bits() && !t.failing {
                t.wrong(&format!("GET_ABI: {abi:?}"));
            }
        }
        1 => {
            let mut info = Info::asked();
            let good = std::ptr::from_mut(&mut info) as usize;
            let answer = ioctl(fd, GET_INFO, if bad { place } else { good });
            told(t, "GET_INFO", answer, bad, t.is_root());
            if answer.is_ok() && info.free + info.held != info.total {
                t.wrong(&format!("GET_INFO: {info:?}"));
            }
        }
        2 => {
            let mut holders = [[0_u64; 3]; 8];
            let capacity = t.random.below(8) as u32;
            let mut request = HoldersRequest {
                size: size_of::<HoldersRequest>() as u32,
                version: VERSION,
                buffer: if t.random.one_in(4) {
                    bad_address(t) as u64
                } else {
                    holders.as_mut_ptr() as u64
                },
                capacity,
                count: 0,
            };
            let good = std::ptr::from_mut(&mut request) as usize;
            let answer = ioctl(fd, GET_HOLDERS, if bad { place } else { good });
            match answer {
                Ok(_) if t.is_root() && !bad => {}
                Err(libc::EFAULT) if t.is_root() => {}
                Err(libc::EPERM) if !t.is_root() => {}
                Err(_) if t.failing => {}
                other => t.wrong(&format!("GET_HOLDERS: {other:?}")),
            }
        }
        _ => {
            for name in ["free", "holders", "faults", "ranges"] {
                let _ = std::fs::read(format!("/sys/class/misc/strongroom/{name}"));
            }
        }
    }
}

fn told(t: &Thread<'_>, what: &str, answer: Answer, bad: bool, may: bool) {
    let expected = match (may, bad) {
        (false, _) => Err(libc::EPERM),
        (true, true) => Err(libc::EFAULT),
        (true, false) => Ok(()),
    };
    if answer.map(|_| ()) != expected && !t.failing {
        t.wrong(&format!("{what}: {answer:?}, expected {expected:?}"));
    }
}

fn end_descriptor(t: &mut Thread<'_>) {
    let Some((id, fd)) = t.some_fd() else {
        // Everything is mapped and nothing open: one goes.
        return mappings::unmap(t);
    };
    if let Err(errno) = close(fd) {
        t.wrong(&format!("close: errno {errno}"));
    }
    t.model.closed(id, fd);
}

fn duplicate(t: &mut Thread<'_>) {
    let Some((id, fd)) = t.some_fd() else { return };
    if t.model.thing(id).fds.len() > 3 {
        return;
    }
    let how = t.random.pick(&[libc::F_DUPFD, libc::F_DUPFD_CLOEXEC]);
    // SAFETY: no memory is involved.
    let new = unsafe { libc::fcntl(fd, how, 3) };
    if new >= 0 {
        t.model.thing_mut(id).fds.push(new);
    }
}

/// The process becomes another program, which has the descriptors.
pub(crate) fn exec(common: &Common) -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::fcntl(common.fd, libc::F_SETFD, 0) };
    let error = std::env::current_exe().map(|me| {
        std::os::unix::process::CommandExt::exec(
            std::process::Command::new(me)
                .args(["--exact", "started_with_descriptors", "--nocapture", "-q"])
                .stdout(std::process::Stdio::null())
                .env("STRONGROOM_FUZZ_STARTED", "1"),
        )
    });
    violation(&format!("exec: {error:?}"))
}
