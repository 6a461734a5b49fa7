//! Why a page was not given.

use core::fmt;

/// A page that stood in the way, and why. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The first such page of the range.
    pub page: usize,
    /// Why.
    pub why: Why,
}

/// Why a page was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is the guest's alone.
    Private,
    /// It is being converted.
    Converting,
    /// Somebody holds it exclusively.
    Exclusive,
    /// Its memory failed. This is an error of the hardware, not protection.
    Poisoned,
    /// It has as many guards as a page can have.
    Crowded,
    /// It is shared, and guards are out.
    Held {
        /// How many on this page.
        guards: u32,
        /// How many pages of the range are held.
        pages: usize,
    },
    /// It cannot be known who holds it: the heavy half of the [fence](super::Fence) is not to be had.
    Unordered,
    /// There is no such page.
    OutOfRange {
        /// How many there are.
        pages: usize,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let page = self.page;
        match self.why {
            Why::Private => write!(f, "page {page} is private to the guest"),
            Why::Converting => write!(f, "page {page} is being converted"),
            Why::Exclusive => write!(f, "page {page} is held exclusively"),
            Why::Poisoned => write!(f, "page {page} is lost: its memory failed"),
            Why::Crowded => write!(f, "page {page} has as many guards as a page can have"),
            Why::Held { guards, pages } => write!(
                f,
                "page {page} is still held by {guards}; of the range, {pages} pages are held"
            ),
            Why::Unordered => write!(
                f,
                "page {page} may be held: the threads that could hold it cannot be ordered (membarrier is refused)"
            ),
            Why::OutOfRange { pages } => {
                write!(f, "there is no page {page}: there are {pages}")
            }
        }
    }
}

impl core::error::Error for Refused {}
