//! The direct map, measured: the kernel reads some pages of each mapping.

use crate::attack::direct_map::{Answer, Reader};
use crate::exposure::{Finding, Reach};
use std::time::Duration;
use strongroom_sys::PAGE;

/// How many pages of one mapping are tried.
pub(super) const SAMPLES: usize = 4;
/// How many pages of one process: each costs some 20 µs.
const MOST: usize = 20_000;
/// How long a stale translation may last, see [`Reader::fades`].
const PATIENCE: Duration = Duration::from_secs(2);

/// A reader and how often it may still be used.
#[derive(Debug)]
pub(super) struct Sampler {
    reader: Reader,
    left: usize,
}

impl Sampler {
    /// # Errors
    /// Why nothing can be measured.
    pub(super) fn new() -> Result<Self, String> {
        match Reader::new() {
            Ok(reader) => Ok(Self { reader, left: MOST }),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    /// What the kernel reads of these pages; none where it could not be tried.
    pub(super) fn measure(
        &mut self,
        pid: i32,
        pages: &[u64],
        inferred: &Finding,
    ) -> Option<Finding> {
        let (mut read, mut faulted) = (0, 0);
        for page in pages {
            self.left = self.left.checked_sub(1)?;
            match self.reader.read(pid, *page, 1) {
                Ok(Answer::Fault) => faulted += 1,
                Ok(Answer::Bytes(_)) => {
                    if inferred.reach == Reach::OutOfReach {
                        match self.explain(pid, *page) {
                            Some(why) => return Some(Finding::reachable(why)),
                            None => faulted += 1,
                        }
                    } else {
                        read += 1;
                    }
                }
                // It went away or is on the move.
                Err(_) => {}
            }
        }
        match (read, faulted) {
            (0, 0) => None,
            (0, count) => Some(Finding::out_of_reach(format!(
                "measured: the kernel cannot read {count} of {count} sampled pages"
            ))),
            (count, 0) => Some(Finding::reachable(format!(
                "measured: the kernel reads {count} of {count} sampled pages"
            ))),
            (read, faulted) => Some(Finding::reachable(format!(
                "measured: the kernel reads {read} of {} sampled pages",
                read + faulted
            ))),
        }
    }

    /// Why a page that should be out of reach was read; none where it was by a translation that
    /// is gone by now.
    fn explain(&self, pid: i32, page: u64) -> Option<&'static str> {
        let frame = crate::attack::residue::frames(pid, page, PAGE)
            .ok()?
            .into_iter()
            .next()?;
        if self.reader.is_of_kernel_image(frame) {
            Some("measured: a sampled page is read through the kernel's image, which maps it too")
        } else if self.reader.fades(frame, PATIENCE).unwrap_or(false) {
            None
        } else {
            Some("measured: the kernel reads a page that should not be in its direct map")
        }
    }
}
