//! A live process, by /proc/PID/mem.
//!
//! It is not stopped: what it changes meanwhile may be seen before, after or in between. What it maps
//! meanwhile is looked at in a second and a third round.

use super::window::Window;
use super::{Outcome, Place};
use crate::exposure::{self, Backing, Mapping, Process, Refusal};
use crate::scan::Step;
use crate::scan::find::Memory;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use strongroom_sys::PAGE;

/// How often what was mapped meanwhile is looked for.
const ROUNDS: usize = 3;

/// A process that can be read.
pub(in crate::scan) struct Live {
    process: Process,
    memory: File,
    /// Which pages are there. Without it every page is asked for.
    pages: Option<File>,
}

/// Opens a process's memory.
///
/// # Errors
/// Why it cannot be looked at.
pub(in crate::scan) fn open(pid: i32) -> Result<Live, Refusal> {
    let process = Process::read(pid)?;
    let open = |file: &'static str| File::open(format!("/proc/{pid}/{file}"));
    let memory = open("mem").map_err(|error| match error.kind() {
        ErrorKind::NotFound => Refusal::Ended(pid),
        _ => Refusal::Denied {
            pid,
            name: process.name.clone(),
            file: "mem",
            error,
        },
    })?;
    Ok(Live {
        memory,
        pages: open("pagemap").ok(),
        process,
    })
}

impl Memory for Live {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.memory.read_exact_at(into, address).is_ok()
    }
}

/// Where a walk is.
struct Walk<'a, 'w> {
    live: &'a Live,
    window: &'a mut Window<'w>,
    step: Step<'a>,
    total: u64,
    /// The ranges that have been walked, in the order of their addresses, in each round.
    walked: Vec<Range<u64>>,
    /// What could not be read.
    unread: Vec<Range<u64>>,
    /// Mappings with fewer pages than the list had said, and how many bytes fewer.
    shrunk: Vec<(Range<u64>, u64)>,
    ended: bool,
}

impl Live {
    /// The process's name.
    pub(in crate::scan) fn name(&self) -> &str {
        &self.process.name
    }

    /// Reads all that can be read.
    ///
    /// # Errors
    /// Where nothing could be read at all.
    pub(in crate::scan) fn read(
        &self,
        window: &mut Window<'_>,
        step: Step<'_>,
    ) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome::default();
        let mut walk = Walk {
            live: self,
            window,
            step,
            total: 0,
            walked: Vec::new(),
            unread: Vec::new(),
            shrunk: Vec::new(),
            ended: false,
        };
        let mut mappings: Vec<Mapping> = Vec::new();
        for round in 0..ROUNDS {
            let (list, gap) = match self.mappings() {
                Ok(list) => list,
                Err(refusal) if round == 0 => return Err(refusal),
                Err(_) => break,
            };
            outcome.gaps.extend(gap);
            let fresh = list.iter().map(|mapping| walk.fresh(mapping)).collect();
            let fresh: Vec<Vec<Range<u64>>> = fresh;
            let is_done = fresh.iter().all(Vec::is_empty);
            if is_done || walk.ended {
                walk.forget(&list, &mut outcome);
                break;
            }
            walk.total =
                walk.window.scanned() + list.iter().map(|mapping| mapping.rss).sum::<u64>();
            for (mapping, ranges) in list.iter().zip(&fresh) {
                for range in ranges {
                    walk.mapping(mapping, range.clone(), &mut outcome);
                }
            }
            let new = list.into_iter().zip(fresh);
            mappings.extend(new.filter_map(|(m, ranges)| (!ranges.is_empty()).then_some(m)));
            walk.walked.sort_by_key(|range| range.start);
            if round + 1 == ROUNDS {
                let late = self.mappings().map(|(list, _)| {
                    walk.forget(&list, &mut outcome);
                    let fresh = list.iter().flat_map(|mapping| walk.fresh(mapping));
                    fresh.map(|range| range.end - range.start).sum::<u64>()
                });
                if let Ok(late @ 1..) = late {
                    let gap = format!("{late} bytes were mapped during the last round");
                    outcome.gaps.push(gap);
                }
            }
        }
        if let Err(refusal) = self.process.still() {
            outcome.gaps.push(refusal.to_string());
        }
        outcome.places = mappings.iter().map(|mapping| self.place(mapping)).collect();
        outcome.places.sort_by_key(|place| place.start);
        Ok(outcome)
    }

    /// The mappings, and what kept the list from being whole.
    fn mappings(&self) -> Result<(Vec<Mapping>, Option<String>), Refusal> {
        let mut list = Vec::new();
        for mapping in exposure::mappings(self.process.pid)? {
            match mapping {
                Ok(mapping) => list.push(mapping),
                Err(refusal) if list.is_empty() => return Err(refusal),
                Err(refusal) => return Ok((list, Some(refusal.to_string()))),
            }
        }
        Ok((list, None))
    }

    fn place(&self, mapping: &Mapping) -> Place {
        Place {
            start: mapping.start,
            end: mapping.end,
            access: String::from_utf8_lossy(&mapping.access).into_owned(),
            name: String::from_utf8_lossy(&mapping.name).into_owned(),
            exposure: Some(exposure::of(&self.process, mapping)),
        }
    }

    /// The parts of a range that have pages, present or swapped out.
    fn touched(&self, range: Range<u64>) -> Vec<Range<u64>> {
        const THERE: u64 = 3 << 62;
        const AT_ONCE: usize = 1 << 15;
        let Some(pages) = &self.pages else {
            return vec![range];
        };
        let page = PAGE as u64;
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut entries = vec![0; 8 * AT_ONCE];
        let mut at = range.start / page;
        while at < range.end / page {
            let left = usize::try_from(range.end / page - at).unwrap_or(AT_ONCE);
            let wanted = entries.get_mut(..8 * left.min(AT_ONCE)).unwrap_or_default();
            let count = match pages.read_at(wanted, 8 * at) {
                Ok(count) if count >= 8 => count / 8,
                // It cannot be told, and so every page is asked for.
                _ => {
                    runs.push(at * page..range.end);
                    break;
                }
            };
            for entry in entries.chunks_exact(8).take(count) {
                let bits = entry.try_into().map_or(0, u64::from_le_bytes);
                let start = at * page;
                at += 1;
                if bits & THERE == 0 {
                    continue;
                }
                match runs.last_mut() {
                    Some(run) if run.end == start => run.end += page,
                    _ => runs.push(start..start + page),
                }
            }
        }
        runs
    }
}

impl Walk<'_, '_> {
    /// The parts of a mapping that no earlier round has walked.
    fn fresh(&self, mapping: &Mapping) -> Vec<Range<u64>> {
        let mut fresh = Vec::new();
        let mut start = mapping.start;
        // Sorted, and they do not overlap.
        let first = self.walked.partition_point(|range| range.end <= start);
        for range in self.walked.iter().skip(first) {
            if range.start >= mapping.end {
                break;
            }
            if start < range.start {
                fresh.push(start..range.start);
            }
            start = start.max(range.end);
        }
        if start < mapping.end {
            fresh.push(start..mapping.end);
        }
        fresh
    }

    fn mapping(&mut self, mapping: &Mapping, range: Range<u64>, outcome: &mut Outcome) {
        let length = range.end - range.start;
        self.walked.push(range.clone());
        let backing = mapping.backing(&self.live.process.machine);
        if self.ended || matches!(backing, Backing::Kernel | Backing::Device) {
            return;
        }
        if matches!(
            backing,
            Backing::Secret | Backing::SecretPerhaps | Backing::Driver
        ) {
            let mut byte = [0];
            if self.live.memory.read_at(&mut byte, range.start).is_err() {
                self.unread.push(range);
                return;
            }
        } else if mapping.rss + mapping.swap + mapping.hugetlb == 0 {
            outcome.coverage.absent += length;
            return;
        }
        let mut touched = 0;
        // Huge pages are told by their first page alone in some kernels.
        let runs = if mapping.hugetlb > 0 {
            vec![range]
        } else {
            self.live.touched(range)
        };
        for run in runs {
            touched += run.end - run.start;
            self.run(run);
        }
        outcome.coverage.absent += length.saturating_sub(touched);
        let said = (mapping.rss + mapping.swap).min(length);
        if touched < said {
            let range = mapping.start..mapping.end;
            self.shrunk.push((range, said - touched));
        }
    }

    /// Reads a run of pages.
    fn run(&mut self, run: Range<u64>) {
        let page = PAGE as u64;
        let mut at = run.start;
        while at < run.end && !self.ended {
            let room = self.window.room(at);
            let most = usize::try_from(run.end - at).unwrap_or(usize::MAX);
            let most = most.min(room.len());
            let read = self
                .live
                .memory
                .read_at(room.get_mut(..most).unwrap_or_default(), at);
            match read {
                // The process has no memory any more.
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.window.fill(count);
                    at += count as u64;
                    (self.step)(self.window.scanned(), self.total);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    let next = (at / page + 1) * page;
                    match self.unread.last_mut() {
                        Some(range) if range.end == at => range.end = next,
                        _ => self.unread.push(at..next),
                    }
                    at = next;
                }
            }
        }
    }

    /// Tells what could not be read and is still there from what was unmapped meanwhile.
    fn forget(&mut self, list: &[Mapping], outcome: &mut Outcome) {
        let (mut gone, mut hidden, mut mappings) = (0u64, 0u64, 0u64);
        let is_there = |range: &Range<u64>| {
            list.iter()
                .any(|mapping| mapping.start <= range.start && range.end <= mapping.end)
        };
        // What was given back and is still mapped reads zero: nothing was missed.
        for (range, missing) in self.shrunk.drain(..) {
            if !is_there(&range) {
                gone += missing;
            }
        }
        for range in self.unread.drain(..) {
            let length = range.end - range.start;
            if is_there(&range) {
                hidden += length;
                mappings += 1;
            } else {
                gone += length;
            }
        }
        outcome.coverage.unreadable = hidden;
        outcome.coverage.unreadable_mappings = mappings;
        if gone > 0 {
            let gap = format!("{gone} bytes were unmapped before they could be read");
            outcome.gaps.push(gap);
        }
    }
}
