//! Questions to who stands outside: how often a pattern is in the machine's memory.

use crate::object::skip;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;

/// A pattern that this process's memory holds only with all bits turned around.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    turned: [u64; 8],
}

impl Pattern {
    /// Random, as no other one was.
    pub(crate) fn new() -> Self {
        let mut bytes = [0; 64];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .unwrap();
        let mut turned = [0; 8];
        for (word, bytes) in turned.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().unwrap());
        }
        Self { turned }
    }

    /// Writes it to the beginning of each of so many pages, word by word.
    pub(crate) fn write(&self, at: usize, pages: usize) {
        for page in 0..pages {
            for (number, word) in self.turned.iter().enumerate() {
                let place = (at + page * 4096 + number * 8) as *mut u64;
                // SAFETY: the caller's own memory, which is that large.
                unsafe { place.write_volatile(!*word) };
            }
        }
    }

    fn hex(&self) -> String {
        let bytes = self.turned.iter().flat_map(|word| word.to_ne_bytes());
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Who answers.
pub(crate) struct Outside(File);

impl Outside {
    /// The port that STRONGROOM_OUTSIDE names.
    pub(crate) fn connect() -> Option<Self> {
        let Some(port) = std::env::var_os("STRONGROOM_OUTSIDE") else {
            skip("nobody outside to ask: STRONGROOM_OUTSIDE, which the virtual machine sets");
            return None;
        };
        let port = File::options().read(true).write(true).open(port).unwrap();
        // SAFETY: a termios of zeros is filled by tcgetattr.
        unsafe {
            let mut how: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(port.as_raw_fd(), &mut how), 0);
            libc::cfmakeraw(&mut how);
            assert_eq!(libc::tcsetattr(port.as_raw_fd(), libc::TCSANOW, &how), 0);
        }
        Some(Self(port))
    }

    /// How often the pattern is in a range of physical memory.
    pub(crate) fn count(&mut self, range: &Range<u64>, pattern: &Pattern) -> usize {
        let size = range.end - range.start;
        let question = format!("look {} {size} {}\n", range.start, pattern.hex());
        self.0.write_all(question.as_bytes()).unwrap();
        let mut answer = Vec::new();
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            if byte == *b"\n" {
                break;
            }
            answer.push(byte[0]);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let found = answer.strip_prefix("found ");
        found.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
    }

    /// In the pool.
    pub(crate) fn count_in_pool(&mut self, pattern: &Pattern) -> usize {
        pool().iter().map(|range| self.count(range, pattern)).sum()
    }

    /// In everything that is not the pool, as far as there is memory.
    pub(crate) fn count_elsewhere(&mut self, pattern: &Pattern) -> usize {
        let mut at = 0;
        let mut found = 0;
        let end = memory_end();
        for range in pool().into_iter().chain(std::iter::once(end..end)) {
            if range.start > at {
                found += self.count(&(at..range.start), pattern);
            }
            at = range.end;
        }
        found
    }
}

/// The pool's ranges, in the order of their addresses.
pub(crate) fn pool() -> Vec<Range<u64>> {
    let text = std::fs::read_to_string("/sys/class/misc/strongroom/ranges").unwrap();
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let mut ranges: Vec<Range<u64>> = text
        .lines()
        .map(|line| {
            let (start, end) = line.split_once('-').unwrap();
            number(start)..number(end)
        })
        .collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// Where memory ends: that of the kernel, or the pool.
fn memory_end() -> u64 {
    let map = std::fs::read_to_string("/proc/iomem").unwrap();
    let ends = map.lines().filter_map(|line| {
        let (range, _) = line.split_once(" : System RAM")?;
        let (_, last) = range.trim().split_once('-')?;
        Some(u64::from_str_radix(last, 16).unwrap() + 1)
    });
    let last = pool().last().map_or(0, |range| range.end);
    ends.max().unwrap_or(0).max(last)
}
