//! An object: what an open descriptor stands for. `driver/ABI.md` has the table of its states.

use crate::coverage::{Span, is_covered, uncovered};
use crate::errno::Errno;
use crate::room::{BLOCK, Room, Want};
use crate::runs::Placed;
use strongroom_core::driver::{HUGE_PAGE, MAX_BYTES, Mode, ModeRequest, PAGE, VERSION};

/// How the object came by its pages, or did not.
#[derive(Debug)]
enum State {
    Blank,
    Ready,
    Mapped,
    Dead,
}

/// What a mapping is to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// It takes the pages.
    First,
    /// The pages are there.
    Further,
}

/// An object of the driver.
#[derive(Debug)]
pub struct Object {
    state: State,
    mode: Mode,
    sealed: bool,
    pages: usize,
    uid: u32,
    runs: Option<Placed>,
}

impl Object {
    /// An object without a mode.
    pub const fn new() -> Self {
        Self {
            state: State::Blank,
            mode: Mode::empty(),
            sealed: false,
            pages: 0,
            uid: 0,
            runs: None,
        }
    }

    /// Its mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Its pages, once it has them: they stay where they are as long as the object.
    pub fn runs(&self) -> Option<&Placed> {
        self.runs.as_ref()
    }

    /// SET_MODE. `served` is what the machine can do.
    ///
    /// # Errors
    /// `Busy` where it has a mode; `Inval` where the request is none of this version.
    pub fn set_mode(&mut self, request: &ModeRequest, served: Mode) -> Result<(), Errno> {
        if !matches!(self.state, State::Blank) {
            return Err(Errno::Busy);
        }
        if request.size as usize != size_of::<ModeRequest>()
            || request.version != VERSION
            || request.reserved != 0
        {
            return Err(Errno::Inval);
        }
        let mode = Mode::from_bits(request.mode).ok_or(Errno::Inval)?;
        let caching = Mode::UNCACHED | Mode::WRITE_COMBINING;
        if !served.contains(mode) || !mode.contains(Mode::EXCLUSIVE) || mode.contains(caching) {
            return Err(Errno::Inval);
        }
        let unit = if mode.contains(Mode::HUGE) {
            HUGE_PAGE
        } else {
            PAGE
        };
        if request.bytes == 0 || request.bytes > MAX_BYTES || !request.bytes.is_multiple_of(unit) {
            return Err(Errno::Inval);
        }
        self.pages = usize::try_from(request.bytes / PAGE).map_err(|_| Errno::Inval)?;
        self.mode = mode;
        self.state = State::Ready;
        Ok(())
    }

    /// SEAL.
    ///
    /// # Errors
    /// `Inval` without a mode, `Nxio` when it is dead.
    pub fn seal(&mut self) -> Result<(), Errno> {
        match self.state {
            State::Blank => Err(Errno::Inval),
            State::Dead => Err(Errno::Nxio),
            State::Ready | State::Mapped => {
                self.sealed = true;
                Ok(())
            }
        }
    }

    /// Whether these pages may be mapped now, and what that would be. `mappings` are those that exist.
    ///
    /// # Errors
    /// `Inval`, `Busy`, `Nxio` as in the table of mmap.
    pub fn may_map<I: Iterator<Item = Span>>(
        &self,
        span: Span,
        mappings: impl Fn() -> I,
    ) -> Result<Mapping, Errno> {
        let aligned = !self.mode.contains(Mode::HUGE)
            || span.first.is_multiple_of(BLOCK) && span.end.is_multiple_of(BLOCK);
        match self.state {
            State::Blank => Err(Errno::Inval),
            State::Dead => Err(Errno::Nxio),
            State::Ready if span.first == 0 && span.end == self.pages => Ok(Mapping::First),
            State::Ready => Err(Errno::Inval),
            State::Mapped if self.sealed || self.mode.contains(Mode::SEALED) => Err(Errno::Busy),
            State::Mapped if span.first >= span.end || span.end > self.pages || !aligned => {
                Err(Errno::Inval)
            }
            State::Mapped if is_covered(span, mappings) => Ok(Mapping::Further),
            State::Mapped => Err(Errno::Nxio),
        }
    }

    /// How many blocks the kernel would have to lend for it: see [`Room::lacking`].
    pub fn lacking(&self, room: &Room) -> usize {
        match self.state {
            State::Ready => room.lacking(self.pages, self.mode.contains(Mode::HUGE)),
            _ => 0,
        }
    }

    /// Takes its pages out of the room.
    ///
    /// # Errors
    /// Those of [`Room::reserve`]; `Inval` where it has them, or no mode. Nothing changed.
    pub fn fill(
        &mut self,
        room: &mut Room,
        uid: u32,
        unlimited: bool,
        node: i32,
    ) -> Result<(), Errno> {
        if !matches!(self.state, State::Ready) {
            return Err(Errno::Inval);
        }
        let runs = room.reserve(&Want {
            pages: self.pages,
            huge: self.mode.contains(Mode::HUGE),
            uid,
            unlimited,
            node,
        })?;
        match Placed::new(runs) {
            Ok(placed) => self.runs = Some(placed),
            Err((errno, runs)) => {
                for run in runs.between(0, self.pages) {
                    room.give_back(uid, run.pfn, run.pages);
                }
                room.forget_object();
                return Err(errno);
            }
        }
        self.uid = uid;
        self.state = State::Mapped;
        Ok(())
    }

    /// A mapping has gone: what no other one has is wiped and then given back. `back` is called
    /// between the wiping of a piece, which may take long, and anything else, to change the room.
    /// How many pages that were.
    pub fn unmapped<I: Iterator<Item = Span>>(
        &mut self,
        gone: Span,
        others: impl Fn() -> I,
        wipe: impl Fn(u64, usize),
        back: impl Fn(&mut dyn FnMut(&mut Room)),
    ) -> usize {
        let mut released: usize = 0;
        let (State::Mapped, Some(runs)) = (&self.state, &self.runs) else {
            return released;
        };
        let uid = self.uid;
        let mut left = runs.held();
        uncovered(gone, others, |span| {
            for run in runs.between(span.first, span.end) {
                wipe(run.pfn, run.pages);
                back(&mut |room| {
                    // Pages that the room does not take are lost to it, and stay wiped.
                    if room.give_back(uid, run.pfn, run.pages) {
                        left = runs.let_go(run.pages);
                        released = released.saturating_add(run.pages);
                        if left == 0 {
                            room.forget_object();
                        }
                    }
                });
            }
        });
        if left == 0 {
            self.state = State::Dead;
        }
        released
    }
}

impl Default for Object {
    fn default() -> Self {
        Self::new()
    }
}
