//! What a guest asks about its own pages: docs/guest-abi.md.
//!
//! A request is an `out` to [`PORT`]; the registers say what is wanted, and RAX what came of it. Nothing that a
//! guest asks makes the monitor fail: it is done, or refused with a number, and the guest goes on.

use super::Vcpu;
use super::rate::{Limits, Rate};
use crate::{Contents, Error, GuestRam, GuestRegion, PAGE, PageState, Side, Why};
use core::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// The port of requests.
pub const PORT: u16 = 0x5352;
/// The version of the interface, which [`Function::Version`] tells.
pub const VERSION: u64 = 1;
/// Keep the contents: the only flag there is.
pub const KEEP: u64 = 1;
/// KVM_HC_MAP_GPA_RANGE (include/uapi/linux/kvm_para.h).
pub const MAP_GPA_RANGE: u64 = 12;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Function {
    /// Which version is spoken.
    Version = 0,
    /// Pages to be shared.
    Share = 1,
    /// Pages to be private.
    Hide = 2,
    /// What a page is.
    State = 3,
}

impl Function {
    fn of(number: u64) -> Option<Self> {
        [Self::Version, Self::Share, Self::Hide, Self::State]
            .into_iter()
            .find(|function| *function as u64 == number)
    }
}

/// What came of it, as RAX has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// All of it is done: 0; or what was asked for.
    Done(u64),
    /// No such function or flag.
    Unknown,
    /// Not whole pages, or none.
    Misaligned,
    /// Not the guest's memory, or of more than one region.
    NoMemory,
    /// More pages than one request may have.
    TooLong,
    /// Too many requests or pages in too little time. Try again later.
    TooOften,
    /// A device still works on one of the pages. Try again.
    InUse,
    /// One of the pages is being converted. Try again.
    Busy,
    /// The memory of one of the pages failed.
    Poisoned,
    /// This machine has no private pages.
    Unsupported,
    /// The monitor could not do it; everything is as it was.
    Failed,
    /// The monitor could not do all of it: what each page is must be asked.
    Partly,
}

impl Answer {
    /// The register. Refusals are the last numbers before 2⁶⁴, counted from the end.
    pub fn code(self) -> u64 {
        let refusal: u64 = match self {
            Answer::Done(value) => return value,
            Answer::Unknown => 1,
            Answer::Misaligned => 2,
            Answer::NoMemory => 3,
            Answer::TooLong => 4,
            Answer::TooOften => 5,
            Answer::InUse => 6,
            Answer::Busy => 7,
            Answer::Poisoned => 8,
            Answer::Unsupported => 9,
            Answer::Failed => 10,
            Answer::Partly => 11,
        };
        refusal.wrapping_neg()
    }

    /// The answer of KVM's own hypercall, a negative number of Linux. What may be tried again has no number there
    /// but EAGAIN.
    fn hypercall(self) -> u64 {
        let errno = match self {
            Answer::Done(_) => 0,
            Answer::Unknown | Answer::Misaligned | Answer::NoMemory => libc::EINVAL,
            Answer::TooLong => libc::E2BIG,
            Answer::TooOften | Answer::InUse | Answer::Busy => libc::EAGAIN,
            Answer::Poisoned | Answer::Failed | Answer::Partly => libc::EFAULT,
            Answer::Unsupported => libc::EOPNOTSUPP,
        };
        i64::from(-errno).cast_unsigned()
    }

    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Refused(refused) => match refused.why {
                Why::Held { .. } | Why::Exclusive => Answer::InUse,
                Why::Poisoned => Answer::Poisoned,
                Why::OutOfRange { .. } => Answer::NoMemory,
                _ => Answer::Busy,
            },
            Error::Misaligned(_) | Error::NoRange { .. } => Answer::Misaligned,
            Error::NeverPrivate(_) => Answer::Unsupported,
            Error::Partly { .. } | Error::Hole { .. } => Answer::Partly,
            _ => Answer::Failed,
        }
    }
}

/// A request, as the registers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// RAX: the [`Function`].
    pub function: u64,
    /// RDI: a guest physical address.
    pub address: u64,
    /// RSI: how many bytes.
    pub length: u64,
    /// RCX: flags.
    pub flags: u64,
}

/// Answers what a guest asks about its pages, and what its processors ran into.
#[derive(Debug)]
pub struct Desk {
    ram: Arc<GuestRam>,
    limits: Limits,
    rate: Rate,
    /// The last page that was on the right side and could not be touched all the same, and how often in a row.
    last: Mutex<(u64, u32)>,
}

/// After how many such faults in a row the page is given up.
const FAULTS: u32 = 100;

impl Desk {
    /// A desk for a guest of this memory.
    pub fn new(ram: Arc<GuestRam>, limits: Limits) -> Self {
        let rate = Rate::new(limits, Instant::now());
        Self {
            ram,
            limits,
            rate,
            last: Mutex::new((0, 0)),
        }
    }

    /// Notes a fault of a page that is on the right side; whether it happens too often.
    pub(super) fn again(&self, address: u64) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = match *last {
            (before, times) if before == address => (address, times.saturating_add(1)),
            _ => (address, 1),
        };
        last.1 > FAULTS
    }

    /// Answers a request of a processor that has exited by an `out` to [`PORT`], in its registers.
    ///
    /// # Errors
    /// What KVM says about the registers; never anything that the guest does.
    pub fn serve(&self, vcpu: &Vcpu) -> Result<Answer, Error> {
        let mut regs = vcpu.fd().get_regs().map_err(Error::kvm("KVM_GET_REGS"))?;
        let answer = self.answer(Request {
            function: regs.rax,
            address: regs.rdi,
            length: regs.rsi,
            flags: regs.rcx,
        });
        regs.rax = answer.code();
        vcpu.fd()
            .set_regs(&regs)
            .map_err(Error::kvm("KVM_SET_REGS"))?;
        Ok(answer)
    }

    /// Answers a request.
    pub fn answer(&self, request: Request) -> Answer {
        let Some(function) = Function::of(request.function) else {
            return Answer::Unknown;
        };
        let flags = match function {
            Function::Share | Function::Hide => KEEP,
            Function::Version | Function::State => 0,
        };
        if request.flags & !flags != 0 {
            return Answer::Unknown;
        }
        match function {
            Function::Version => Answer::Done(VERSION),
            Function::State => self.state(request.address),
            Function::Share | Function::Hide => {
                let to = match function {
                    Function::Hide => Side::Private,
                    _ => Side::Shared,
                };
                let contents = match request.flags & KEEP {
                    0 => Contents::Dropped,
                    _ => Contents::Kept,
                };
                self.convert(request.address, request.length, to, contents)
            }
        }
    }

    /// Answers KVM's own hypercall for this ([`MAP_GPA_RANGE`], `VcpuExit::Hypercall`), as Linux guests make it: RBX is
    /// the address, RCX how many pages, bit 4 of RDX whether they are to be private. Contents are dropped, as
    /// confidential machines do. What comes back is for RAX.
    pub fn map_gpa_range(&self, arguments: [u64; 6]) -> u64 {
        let [address, pages, attributes, ..] = arguments;
        let to = match attributes & (1 << 4) {
            0 => Side::Shared,
            _ => Side::Private,
        };
        let answer = match pages.checked_mul(PAGE as u64) {
            Some(length) => self.convert(address, length, to, Contents::Dropped),
            None => Answer::TooLong,
        };
        answer.hypercall()
    }

    fn state(&self, address: u64) -> Answer {
        let state = self
            .place(address)
            .and_then(|(region, offset)| region.state(offset));
        match state {
            Some(PageState::Private) => Answer::Done(1),
            Some(PageState::Shared { .. } | PageState::Exclusive) => Answer::Done(0),
            Some(PageState::Converting { .. }) => Answer::Busy,
            Some(PageState::Poisoned) => Answer::Poisoned,
            None => Answer::NoMemory,
        }
    }

    fn convert(&self, address: u64, length: u64, to: Side, contents: Contents) -> Answer {
        let page = PAGE as u64;
        if !address.is_multiple_of(page) || !length.is_multiple_of(page) || length == 0 {
            return Answer::Misaligned;
        }
        let pages = length / page;
        if pages > self.limits.most.into() {
            return Answer::TooLong;
        }
        // Refused ones count as well: looking at them is work, too.
        if !self.rate.admit(pages, Instant::now()) {
            return Answer::TooOften;
        }
        let Some((region, bytes)) = self.range(address, length) else {
            return Answer::NoMemory;
        };
        match region.convert(bytes, to, contents, self.limits.patience) {
            Ok(()) => Answer::Done(0),
            Err(error) => Answer::of(&error),
        }
    }

    fn range(&self, address: u64, length: u64) -> Option<(&GuestRegion, Range<usize>)> {
        let (region, start) = self.place(address)?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        (end <= region.len()).then_some((region, start..end))
    }

    /// The region that an address is in, and where.
    pub(super) fn place(&self, address: u64) -> Option<(&GuestRegion, usize)> {
        let region = self.ram.find_region(GuestAddress(address))?;
        let offset = address.checked_sub(region.start_addr().0)?;
        Some((region, usize::try_from(offset).ok()?))
    }

    /// Converts a page that the guest touched as if it were on the other side.
    pub(super) fn convert_by_access(&self, address: u64, length: u64, to: Side) -> Answer {
        self.convert(address, length, to, Contents::Dropped)
    }
}
