//! Two rings in shared pages: requests to the guest, and its answers. One writer and one reader each.
//!
//! A ring is a page: at 0 how many messages were put (u32, the writer's), at [`TAKEN`] how many were
//! taken (u32, the reader's), and from [`FIRST_SLOT`] on [`SLOTS`] messages of 64 bytes, used in turn.
//! Counts go up, round past 2³² to 0. Little-endian.

use std::sync::atomic::Ordering;
use strongroom_guest::{Error, GuestRegion, PAGE};
use vm_memory::{ByteValued, Bytes, VolatileSlice};

/// How many messages a ring holds.
pub(crate) const SLOTS: u32 = 32;
/// Where the reader counts.
pub(crate) const TAKEN: usize = 64;
/// Where messages begin.
pub(crate) const FIRST_SLOT: usize = 128;

/// A request or an answer.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Message {
    pub(crate) op: u32,
    pub(crate) tag: u32,
    pub(crate) arg: u64,
    pub(crate) words: [u64; 6],
}

// SAFETY: integers without padding, 4 + 4 + 8 + 48 bytes, each of whose values is one.
unsafe impl ByteValued for Message {}

/// The guest counts what cannot be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the guest's count of messages makes no sense: {0}, where the monitor's is {1}")]
pub(crate) struct Miscounted(u32, u32);

type Slice<'r> = VolatileSlice<'r, strongroom_guest::ram::Held<'r>>;

/// The monitor's ends of both rings. Its own counts are here, and never read from the guest.
#[derive(Debug)]
pub(crate) struct Rings<'r> {
    requests: Slice<'r>,
    answers: Slice<'r>,
    put: u32,
    taken: u32,
}

impl<'r> Rings<'r> {
    /// Rings in these two pages of a region, which stay shared for as long.
    pub(crate) fn new(region: &'r GuestRegion, requests: u64, answers: u64) -> Result<Self, Error> {
        let page = |at: u64| region.slice(at as usize..at as usize + PAGE);
        Ok(Self {
            requests: page(requests)?,
            answers: page(answers)?,
            put: 0,
            taken: 0,
        })
    }

    /// Puts a request, if there is room.
    pub(crate) fn put(&mut self, message: Message) -> Result<bool, Failed> {
        let taken: u32 = self.requests.load(TAKEN, Ordering::Acquire)?;
        let waiting = self.put.wrapping_sub(taken);
        if waiting > SLOTS {
            return Err(Miscounted(taken, self.put).into());
        }
        if waiting == SLOTS {
            return Ok(false);
        }
        self.requests.write_obj(message, slot(self.put))?;
        self.put = self.put.wrapping_add(1);
        self.requests.store(self.put, 0, Ordering::Release)?;
        Ok(true)
    }

    /// Takes an answer, if there is one.
    pub(crate) fn take(&mut self) -> Result<Option<Message>, Failed> {
        let put: u32 = self.answers.load(0, Ordering::Acquire)?;
        let waiting = put.wrapping_sub(self.taken);
        if waiting > SLOTS {
            return Err(Miscounted(put, self.taken).into());
        }
        if waiting == 0 {
            return Ok(None);
        }
        let message = self.answers.read_obj(slot(self.taken))?;
        self.taken = self.taken.wrapping_add(1);
        self.answers.store(self.taken, TAKEN, Ordering::Release)?;
        Ok(Some(message))
    }
}

fn slot(count: u32) -> usize {
    FIRST_SLOT + (count % SLOTS) as usize * size_of::<Message>()
}

/// Why a ring failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Miscounted(#[from] Miscounted),
    #[error("the ring: {0}")]
    Memory(#[from] vm_memory::VolatileMemoryError),
}
