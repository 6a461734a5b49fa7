//! What one thread knows of its own objects: their states, where they are mapped, what is in them.

use crate::random::mix;
use std::fmt;
use strongroom_core::driver::{HUGE_PAGE, MAX_BYTES, Mode, ModeRequest, PAGE, VERSION};

pub(crate) const P: usize = PAGE as usize;
/// Pages of a huge entry.
pub(crate) const BLOCK: usize = (HUGE_PAGE / PAGE) as usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Blank,
    Ready,
    Mapped,
}

/// An object, which the thread knows by its number.
#[derive(Debug)]
pub(crate) struct Thing {
    pub(crate) id: u64,
    pub(crate) fds: Vec<i32>,
    pub(crate) read_only: bool,
    pub(crate) mode: Mode,
    pub(crate) pages: usize,
    pub(crate) state: State,
    pub(crate) sealed: bool,
    /// The word of each page that was last written, where one was.
    pub(crate) written: Vec<Option<u16>>,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            mode,
            pages,
            state,
            sealed,
            ..
        } = self;
        write!(
            f,
            "object {id}, {pages} pages, {mode:?}, {state:?}, sealed {sealed}"
        )
    }
}

impl Thing {
    pub(crate) fn new(id: u64, fd: i32, read_only: bool) -> Self {
        Self {
            id,
            fds: vec![fd],
            read_only,
            mode: Mode::empty(),
            pages: 0,
            state: State::Blank,
            sealed: false,
            written: Vec::new(),
        }
    }

    pub(crate) fn is_huge(&self) -> bool {
        self.mode.contains(Mode::HUGE)
    }

    /// What SET_MODE says of it, by ABI.md.
    pub(crate) fn answer_to(&self, request: &ModeRequest) -> Result<(), i32> {
        if self.state != State::Blank {
            return Err(libc::EBUSY);
        }
        let good = request.size as usize == size_of::<ModeRequest>()
            && request.version == VERSION
            && request.reserved == 0;
        let mode = Mode::from_bits(request.mode).filter(|mode| {
            let both = Mode::UNCACHED | Mode::WRITE_COMBINING;
            mode.contains(Mode::EXCLUSIVE) && !mode.contains(both)
        });
        let unit = match mode {
            Some(mode) if mode.contains(Mode::HUGE) => HUGE_PAGE,
            _ => PAGE,
        };
        let sized = (1..=MAX_BYTES).contains(&request.bytes) && request.bytes % unit == 0;
        if good && mode.is_some() && sized {
            Ok(())
        } else {
            Err(libc::EINVAL)
        }
    }
}

/// A mapping, or a part of one.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) thing: u64,
    pub(crate) at: usize,
    pub(crate) pages: usize,
    /// The object's page that is at its beginning.
    pub(crate) first: usize,
    pub(crate) protection: i32,
    /// In the thread's own address space, which is covered and not unmapped.
    pub(crate) fixed: bool,
    /// By mseal.
    pub(crate) frozen: bool,
}

impl Piece {
    pub(crate) fn end(&self) -> usize {
        self.at + self.pages * P
    }
}

/// One thread's.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Nobody else's words look like this thread's.
    pub(crate) salt: u64,
    pub(crate) things: Vec<Thing>,
    pub(crate) pieces: Vec<Piece>,
    next: u64,
}

impl Model {
    pub(crate) fn new(salt: u64) -> Self {
        Self {
            salt,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, fd: i32, read_only: bool) {
        self.next += 1;
        self.things.push(Thing::new(self.next, fd, read_only));
    }

    pub(crate) fn thing(&self, id: u64) -> &Thing {
        self.things.iter().find(|thing| thing.id == id).unwrap()
    }

    pub(crate) fn thing_mut(&mut self, id: u64) -> &mut Thing {
        self.things.iter_mut().find(|thing| thing.id == id).unwrap()
    }

    /// The word that the owner writes there.
    pub(crate) fn word(&self, thing: u64, page: usize, word: u16) -> u64 {
        let place = (page as u64) << 16 | u64::from(word);
        mix(self.salt ^ mix(thing ^ mix(place))) | 1
    }

    /// Whether some mapping has the page.
    fn has(&self, thing: u64, page: usize) -> bool {
        self.pieces.iter().any(|piece| {
            piece.thing == thing && (piece.first..piece.first + piece.pages).contains(&page)
        })
    }

    pub(crate) fn is_mapped(&self, thing: u64) -> bool {
        self.pieces.iter().any(|piece| piece.thing == thing)
    }

    /// What mmap of the owner says by ABI.md, but for ENOMEM, EAGAIN and EDQUOT; whether it is the first.
    pub(crate) fn answer_to_mmap(
        &self,
        thing: u64,
        first: usize,
        pages: usize,
        address: Option<usize>,
    ) -> Result<bool, i32> {
        let id = thing;
        let thing = self.thing(id);
        let end = first + pages;
        let odd = thing.is_huge() && (first % BLOCK != 0 || pages % BLOCK != 0);
        let misplaced = thing.is_huge()
            && address.is_some_and(|at| at.wrapping_sub(first * P) % (BLOCK * P) != 0);
        match thing.state {
            State::Blank => Err(libc::EINVAL),
            // The kernel asks for a place first.
            _ if misplaced => Err(libc::EINVAL),
            State::Ready if first != 0 || pages != thing.pages => Err(libc::EINVAL),
            State::Ready => Ok(true),
            State::Mapped if !self.is_mapped(id) => Err(libc::ENXIO),
            State::Mapped if thing.sealed => Err(libc::EBUSY),
            State::Mapped if end > thing.pages || odd => Err(libc::EINVAL),
            State::Mapped if (first..end).all(|page| self.has(id, page)) => Ok(false),
            State::Mapped => Err(libc::ENXIO),
        }
    }

    /// A mapping was made.
    pub(crate) fn mapped(&mut self, piece: Piece) {
        let thing = self.thing_mut(piece.thing);
        if thing.state == State::Ready {
            thing.state = State::Mapped;
            thing.sealed |= thing.mode.contains(Mode::SEALED);
            thing.written = vec![None; thing.pages];
        }
        self.pieces.push(piece);
    }

    /// What was mapped there is no more.
    pub(crate) fn unmapped(&mut self, at: usize, bytes: usize) {
        self.cut(at, bytes);
        let end = at + bytes;
        self.pieces
            .retain(|piece| piece.end() <= at || piece.at >= end);
        // An object without descriptors and mappings is forgotten.
        let pieces = &self.pieces;
        self.things.retain(|thing| {
            !thing.fds.is_empty() || pieces.iter().any(|piece| piece.thing == thing.id)
        });
    }

    /// Has pieces begin and end there.
    pub(crate) fn cut(&mut self, at: usize, bytes: usize) {
        for edge in [at, at + bytes] {
            let found = self
                .pieces
                .iter()
                .position(|piece| piece.at < edge && edge < piece.end());
            let Some(number) = found else { continue };
            let pages = (edge - self.pieces[number].at) / P;
            let mut rest = self.pieces[number].clone();
            rest.at = edge;
            rest.first += pages;
            rest.pages -= pages;
            self.pieces[number].pages = pages;
            self.pieces.push(rest);
        }
    }

    pub(crate) fn protected(&mut self, at: usize, bytes: usize, protection: i32) {
        self.cut(at, bytes);
        let end = at + bytes;
        for piece in &mut self.pieces {
            if piece.at >= at && piece.end() <= end {
                piece.protection = protection;
            }
        }
    }

    /// Whether an edge lies where a mapping by huge entries cannot be cut.
    pub(crate) fn cuts_huge(&self, at: usize, bytes: usize) -> bool {
        [at, at + bytes].iter().any(|&edge| {
            edge % (HUGE_PAGE as usize) != 0
                && self.pieces.iter().any(|piece| {
                    piece.at < edge && edge < piece.end() && self.thing(piece.thing).is_huge()
                })
        })
    }

    pub(crate) fn has_frozen(&self, at: usize, bytes: usize) -> bool {
        self.pieces
            .iter()
            .any(|piece| piece.frozen && piece.at < at + bytes && at < piece.end())
    }

    /// The descriptor was closed.
    pub(crate) fn closed(&mut self, thing: u64, fd: i32) {
        let mapped = self.is_mapped(thing);
        let it = self.thing_mut(thing);
        it.fds.retain(|&other| other != fd);
        if it.fds.is_empty() && !mapped {
            self.things.retain(|other| other.id != thing);
        }
    }
}
