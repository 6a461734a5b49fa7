//! Pushing the memory out to swap, and reading the swap itself.
//!
//! The kernel is asked twice to push the page out: by the victim, as a careless program would, and
//! by root from outside. Where the page went is in pagemap: a slot of the swap, which is read by its
//! place on the device. Then all of the swap is searched, for copies that are nobody's page any more.

use super::{Attacker, Broken, Captive, Outcome, Owner, Reach, contains, pool};
use crate::victim::OFFSET;
use rustix::mm::MlockAllFlags;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use strongroom_core::Protection;
use strongroom_sys::{Errno, PAGE, peek};

/// Swap is searched up to this size, all of it together, in bytes.
const SEARCHED: u64 = 1 << 30;
/// How much of it is in memory at a time.
const PIECE: usize = 1 << 20;
/// How often a slot is read until the kernel has written it, each 50 ms after the other.
const LOOKS: usize = 60;

/// MADV_PAGEOUT, and a look at the device.
pub(super) struct Swap;

impl Attacker for Swap {
    fn name(&self) -> &'static str {
        "swap"
    }

    fn protection(&self) -> Protection {
        Protection::NoSwap
    }

    fn about(&self) -> &'static str {
        "the page is pushed out (MADV_PAGEOUT, by its process and by root), and the swap is read"
    }

    fn reach(&self) -> Reach {
        Reach::Place
    }

    fn needs_root(&self) -> bool {
        true
    }

    // The kernel may be busy with the page.
    fn attempts(&self) -> usize {
        3
    }

    fn control(&self, owner: Owner) -> Option<&'static str> {
        Some(owner.control("plain"))
    }

    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken> {
        let swaps = match Swaps::on() {
            Ok(swaps) => swaps,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        // The attacker knows the secret too: its own copy, pushed out, would be found as the
        // victim's. The first victim is the control; those after it are started by a locked process.
        rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
            .map_err(|error| Broken(format!("the attacker cannot lock itself: {error}")))?;
        let by_itself = if victim.is_program() {
            "not asked itself".to_owned()
        } else {
            victim.ask("page-out")?
        };
        let by_root = match push_out(victim) {
            Ok(()) => "process_madvise worked".to_owned(),
            Err(error) => format!("process_madvise {}", crate::thief::name(error)),
        };
        let pushed = format!("{by_itself}, {by_root}");
        let outcome = if victim.is_monitor() {
            swaps.look_for_guests(victim, &pushed)?
        } else {
            swaps.look(victim, &pushed)?
        };
        victim.prove()?;
        Ok(outcome)
    }
}

/// MADV_PAGEOUT for the victim's page, from outside.
fn push_out(victim: &Captive) -> Result<(), Errno> {
    let process = peek::process_descriptor(victim.pid())?;
    peek::page_out(process.as_fd(), victim.page(), PAGE)
}

/// Where the victim's page is.
#[derive(Clone, Copy)]
enum Place {
    Present,
    /// In this slot, of a page each, of one of the swaps.
    Swapped(u64),
    Nowhere,
}

fn place(victim: &Captive) -> Result<Place, Broken> {
    // Documentation/admin-guide/mm/pagemap.rst.
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const SLOT: u64 = (1 << 50) - 1;
    let mut entry = [0; 8];
    let at = (victim.page() / PAGE * 8) as u64;
    File::open(format!("/proc/{}/pagemap", victim.pid()))
        .and_then(|map| map.read_exact_at(&mut entry, at))
        .map_err(|error| Broken(format!("pagemap: {error}")))?;
    let entry = u64::from_ne_bytes(entry);
    Ok(match (entry & SWAPPED != 0, entry & PRESENT != 0) {
        (true, _) => Place::Swapped(entry >> 5 & SLOT),
        (false, true) => Place::Present,
        (false, false) => Place::Nowhere,
    })
}

/// The swaps of this machine, open for reading past the page cache, which swapping passes by, too.
struct Swaps {
    all: Vec<(PathBuf, File, u64)>,
}

impl Swaps {
    /// Those that are on; the reason where there is none that could be read.
    fn on() -> Result<Self, String> {
        let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let named: Vec<_> = text.lines().skip(1).filter_map(swap).collect();
        if named.is_empty() {
            return Err("no swap is on here (swapon)".to_owned());
        }
        let zswap = fs::read_to_string("/sys/module/zswap/parameters/enabled");
        if zswap.is_ok_and(|enabled| enabled.starts_with('Y')) {
            return Err("zswap keeps what is pushed out in memory (echo N > /sys/module/zswap/parameters/enabled)".to_owned());
        }
        let mut all = Vec::new();
        for (path, len) in named {
            let file = File::options()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            all.push((path, file, len));
        }
        Ok(Self { all })
    }

    /// The same for a guest's page. /proc does not tell where that is, so that all of the swap is searched.
    fn look_for_guests(&self, victim: &Captive, pushed: &str) -> Result<Outcome, Broken> {
        // What is pushed out is written some time later.
        const LATER: Duration = Duration::from_secs(1);
        let size = self.all.iter().map(|(_, _, len)| len).sum::<u64>();
        let mib = size >> 20;
        if size > SEARCHED {
            return Ok(Outcome::Skipped(format!(
                "{mib} MiB of swap are not searched"
            )));
        }
        thread::sleep(LATER);
        // A guest's secret has its place in a page.
        let secret = victim.secret();
        let holds = |piece: &[u8]| {
            let mut pages = piece.chunks_exact(PAGE);
            pages.any(|page| page.get(OFFSET..).is_some_and(|at| at.starts_with(secret)))
        };
        if let Some(path) = self.anywhere(holds)? {
            let path = path.display();
            return Ok(Outcome::Leaked(format!("found in {path} ({pushed})")));
        }
        Ok(Outcome::Held(format!(
            "not in the {mib} MiB of swap ({pushed})"
        )))
    }

    fn look(&self, victim: &Captive, pushed: &str) -> Result<Outcome, Broken> {
        let secret = victim.secret();
        let mut last = place(victim)?;
        if let Place::Swapped(_) = last {
            for _ in 0..LOOKS {
                let Place::Swapped(slot) = last else { break };
                if let Some(path) = self.slot_has(slot, secret)? {
                    return Ok(Outcome::Leaked(format!(
                        "read from slot {slot} of {} ({pushed})",
                        path.display()
                    )));
                }
                // It is written some time after it was taken from the process.
                thread::sleep(Duration::from_millis(50));
                last = place(victim)?;
            }
        }
        let size = self.all.iter().map(|(_, _, len)| len).sum::<u64>();
        let searched = size <= SEARCHED;
        if searched && let Some(path) = self.anywhere(|piece| contains(piece, secret))? {
            return Ok(Outcome::Leaked(format!(
                "found in {} ({pushed})",
                path.display()
            )));
        }
        let device = if searched {
            format!("not in the {} MiB of swap", size >> 20)
        } else {
            format!("{} MiB of swap are not searched", size >> 20)
        };
        match last {
            Place::Present => Ok(Outcome::Held(format!(
                "it stays in memory ({pushed}); {device}"
            ))),
            Place::Swapped(slot) => Err(Broken(format!(
                "the page is in slot {slot} of the swap, and not found there"
            ))),
            // /proc/PID/pagemap tells of ordinary memory only.
            Place::Nowhere if pool::holds(victim.pid(), victim.address()) => Ok(match searched {
                true => Outcome::Held(format!(
                    "it stays in the kernel driver's pool ({pushed}); {device}"
                )),
                false => Outcome::Skipped(device),
            }),
            Place::Nowhere => Err(Broken("the page is nowhere".to_owned())),
        }
    }

    /// The swap that has the secret in this slot.
    fn slot_has(&self, slot: u64, secret: &[u8]) -> Result<Option<&Path>, Broken> {
        let mut page = Aligned::new(PAGE);
        for (path, file, _) in &self.all {
            let at = slot.saturating_mul(PAGE as u64);
            let read = read_at(file, page.bytes(), at).map_err(unreadable(path))?;
            if contains(page.bytes().get(..read).unwrap_or_default(), secret) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// A swap that has a piece which holds the secret. A slot is a page, and so is a piece's end.
    fn anywhere(&self, holds: impl Fn(&[u8]) -> bool) -> Result<Option<&Path>, Broken> {
        let mut piece = Aligned::new(PIECE);
        for (path, file, _) in &self.all {
            let mut at = 0;
            loop {
                let read = read_at(file, piece.bytes(), at).map_err(unreadable(path))?;
                if holds(piece.bytes().get(..read).unwrap_or_default()) {
                    return Ok(Some(path));
                }
                if read < PIECE {
                    break;
                }
                at += PIECE as u64;
            }
        }
        Ok(None)
    }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Broken {
    move |error| Broken(format!("{}: {error}", path.display()))
}

/// A line of /proc/swaps: the path, with its spaces as `\040`, and the size in bytes.
fn swap(line: &str) -> Option<(PathBuf, u64)> {
    let mut words = line.split_whitespace();
    let path = words.next()?.replace("\\040", " ");
    let kibibytes: u64 = words.nth(1)?.parse().ok()?;
    Some((PathBuf::from(path), kibibytes << 10))
}

/// How many bytes were read: fewer at the end only.
fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64) {
            Ok(0) => break,
            // What is left is no longer aligned: only the end gives less than a page.
            Ok(read) if read % PAGE != 0 => return Ok(done + read),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Memory that begins at a page, as O_DIRECT wants it.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        Self { memory, start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        self.memory
            .get_mut(self.start..self.start + self.len)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_swaps() {
        let line = "/var/swap\\040file                       file\t\t131068\t\t0\t\t-2";
        let path = PathBuf::from("/var/swap file");
        assert_eq!(swap(line), Some((path, 131_068 << 10)));
        assert_eq!(swap("nonsense"), None);
    }

    #[test]
    fn pieces_are_whole_up_to_the_end() {
        let file = tempfile(&vec![7; 3 * PAGE + 5]);
        let mut piece = Aligned::new(2 * PAGE);
        assert_eq!(piece.bytes().as_ptr().align_offset(PAGE), 0);
        assert_eq!(read_at(&file, piece.bytes(), 0).unwrap(), 2 * PAGE);
        let end = read_at(&file, piece.bytes(), 2 * PAGE as u64).unwrap();
        assert_eq!((end, piece.bytes()[end - 1]), (PAGE + 5, 7));
    }

    fn tempfile(contents: &[u8]) -> File {
        let name = format!("strongroom-swap-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, contents).unwrap();
        let file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file
    }
}
