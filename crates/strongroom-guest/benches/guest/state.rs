//! What the states of pages take: memory a page, and setting up 1 TiB of guest addresses.

use crate::conversions::machine;
use crate::rounds::Rounds;
use core::ops::Range;
use kvm_ioctls::Kvm;
use std::time::{Duration, Instant};
use strongroom_guest::backing::{Pair, Plain, Poison};
use strongroom_guest::{Backing, Contents, Error, GuestRegion, PAGE, Side};

const TIB: usize = 1 << 40;
const GIB: usize = 1 << 30;

/// A line of this process's files about its memory, in KiB.
fn kib(file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// Resident memory, exactly, and the page tables for it.
fn resident() -> f64 {
    kib("/proc/self/smaps_rollup", "Rss:") + kib("/proc/self/status", "VmPTE:")
}

fn convert(region: &GuestRegion, bytes: Range<usize>, to: Side) -> Result<(), Error> {
    region.convert(bytes, to, Contents::Dropped, Duration::from_secs(1))
}

/// Bytes a page when all pages of a region were private once.
fn bytes_a_page(log: bool) -> Result<f64, Error> {
    let before = kib("/proc/self/smaps_rollup", "Anonymous:");
    let mut region = GuestRegion::new(0, Poison::new(GIB)?)?;
    if log {
        region = region.with_dirty_log()?;
    }
    convert(&region, 0..GIB, Side::Private)?;
    convert(&region, 0..GIB, Side::Shared)?;
    let after = kib("/proc/self/smaps_rollup", "Anonymous:");
    Ok((after - before) * 1024.0 / (GIB / PAGE) as f64)
}

/// Milliseconds and KiB to set up 1 TiB, and to use a page at 16 places of it.
fn sparse(backing: impl FnOnce() -> Result<Box<dyn Backing>, Error>) -> Result<(f64, f64), Error> {
    let before = resident();
    let begin = Instant::now();
    let region = GuestRegion::new(0, backing()?)?;
    for at in (0..TIB).step_by(TIB / 16) {
        drop(region.guard(at..at + PAGE)?);
    }
    let took = begin.elapsed().as_secs_f64() * 1e3;
    Ok((took, resident() - before))
}

pub(crate) fn measure(rounds: &Rounds) {
    let mut values = Vec::new();
    for log in [false, true] {
        let what = match log {
            false => "state, of pages that were all converted",
            true => "the same with a log of written pages",
        };
        match bytes_a_page(log) {
            Ok(_) => rounds.alone(what, "B a page", || bytes_a_page(log).unwrap()),
            Err(error) => rounds.note(format_args!("Memory a page was not measured: {error}.")),
        }
    }
    type Made = Result<Box<dyn Backing>, Error>;
    let machine = Kvm::new().ok().map(|kvm| machine(&kvm, 0).unwrap());
    let pair = || -> Made {
        let machine = machine.as_ref().ok_or(Error::NotPlaced)?;
        Ok(Box::new(Pair::new(machine, TIB, Side::Shared)?))
    };
    let plain = || -> Made { Ok(Box::new(Plain::new(TIB)?)) };
    let poison = || -> Made { Ok(Box::new(Poison::new(TIB)?)) };
    let all: [(&str, &dyn Fn() -> Made); 3] =
        [("plain", &plain), ("poison", &poison), ("pair", &pair)];
    for (name, backing) in all {
        values.clear();
        for _ in 0..rounds.count {
            match sparse(backing) {
                Ok(value) => values.push(value),
                Err(error) => {
                    rounds.note(format_args!(
                        "1 TiB of `{name}` cannot be had here: {error}."
                    ));
                    break;
                }
            }
        }
        if values.len() == rounds.count {
            let mut times = values.iter().map(|value| value.0);
            let what = format!("1 TiB of {name}, set up");
            rounds.alone(&what, "ms", || times.next().unwrap());
            let mut memory = values.iter().map(|value| value.1);
            let what = format!("1 TiB of {name}, resident");
            rounds.alone(&what, "KiB", || memory.next().unwrap());
        }
    }
}
