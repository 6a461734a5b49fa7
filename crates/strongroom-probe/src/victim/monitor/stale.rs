//! Devices that do not let go: a pointer from before, and a slice.

use super::{LATER, Monitor, SECRET, failed};
use crate::attack::Loot;
use crate::masked::position;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use strongroom_sys::{PAGE, foul};

type Looked = Result<Vec<Loot>, String>;

/// How often the device looks once the secret is there.
const LOOKS: u64 = 1000;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A thread that loads all the while.
pub(super) fn pointer(monitor: &mut dyn Monitor, masked: &[u8]) -> Looked {
    const WAY: &str = "a stale pointer";
    let address = monitor.view(LATER);
    let (stop, seen) = (AtomicBool::new(false), AtomicBool::new(false));
    let (loads, faults) = (AtomicU64::new(0), AtomicU64::new(0));
    let look = || {
        let mut page = [0; PAGE];
        while !stop.load(Ordering::Relaxed) {
            match foul::copy(address, &mut page) {
                Ok(()) => {
                    if position(&page, masked).is_some() {
                        page.fill(0);
                        std::hint::black_box(&page);
                        seen.store(true, Ordering::Relaxed);
                    }
                    loads.fetch_add(1, Ordering::Release);
                }
                Err(_) => {
                    faults.fetch_add(1, Ordering::Release);
                }
            }
        }
    };
    let count = || loads.load(Ordering::Acquire) + faults.load(Ordering::Acquire);
    let wait = |more: u64| {
        let (start, begin) = (count(), Instant::now());
        while count() - start < more {
            if begin.elapsed() > PATIENCE {
                return Err("the device does not look".to_owned());
            }
            std::thread::yield_now();
        }
        Ok(())
    };
    let before = std::thread::scope(|scope| {
        let device = std::thread::Builder::new().spawn_scoped(scope, look);
        let result = device
            .map_err(|error| format!("a thread: {error}"))
            .and_then(|_| wait(1))
            .map(|()| loads.load(Ordering::Acquire))
            .and_then(|before| monitor.hide(LATER).map(|()| before))
            .and_then(|before| monitor.copy_secret(SECRET, LATER, 0).map(|()| before))
            .and_then(|before| wait(LOOKS).map(|()| before));
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    if before == 0 {
        return Err("the device saw nothing of the shared page".to_owned());
    }
    let (loads, faults) = (loads.into_inner(), faults.into_inner());
    Ok(vec![if seen.into_inner() {
        Loot::leaked(format!("{WAY}: {loads} loads, {faults} faults"))
    } else {
        Loot::held(format!("{WAY}: in none of {loads} loads, {faults} faults"))
    }])
}

/// A thread that keeps a slice.
pub(super) fn slice(monitor: &mut dyn Monitor, masked: &[u8]) -> Looked {
    const WAY: &str = "a stale slice";
    let under = monitor.hide_under_slice(SECRET, LATER)?;
    if position(&under.read, masked).is_some() {
        return Ok(vec![Loot::leaked(WAY)]);
    }
    match (under.refused, under.again) {
        (Some(refused), Some(again)) => {
            let what = format!("{WAY}: {refused}; when it is gone: {again}");
            Ok(vec![Loot::held(what)])
        }
        (None, _) => Err("the page became private under a slice".to_owned()),
        (_, None) => Err("a private page was sliced".to_owned()),
    }
}

/// Something in the page that is not the secret, so that what is read later is seen to be that page.
pub(super) fn mark(monitor: &dyn Monitor, page: usize) -> Result<(), String> {
    const MARK: &[u8] = b"as it was before";
    let (reads, writes) = rustix::pipe::pipe().map_err(failed("a pipe"))?;
    rustix::io::write(&writes, MARK).map_err(failed("a pipe"))?;
    // SAFETY: the page is shared, and the guest's memory is used as raw bytes only.
    let read = unsafe {
        strongroom_sys::peek::read_into(&reads, monitor.view(page) as *mut u8, MARK.len())
    };
    read.map(|_| ()).map_err(failed("a mark in the page"))
}
