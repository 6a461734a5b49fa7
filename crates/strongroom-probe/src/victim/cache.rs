//! How long the secret takes to load after its use, beside lines that are known to be in the
//! processor's caches and known not to be.

use super::buffer::Buffer;
use super::speech::say;
use super::{LENGTH, OFFSET};
use strongroom_sys::{Errno, cache};

const ROUNDS: usize = 2001;
/// Lines of the same page, so that they share its translation, and far from one another, so that
/// loading one does not fetch another.
const CACHED: usize = OFFSET + 1024;
const FLUSHED: usize = OFFSET + 2048;

/// Says three medians, in ticks of the time stamp counter: secret, cached, flushed.
pub(super) fn reload(buffer: &Buffer<'_>) -> Result<(), Errno> {
    let mut times = [[0u32; ROUNDS]; 3];
    let line = |offset: usize| (buffer.start() + offset) as *const u8;
    for round in 0..ROUNDS {
        // SAFETY: the buffer is a page of ours, and the lines lie within it.
        let ticks = unsafe {
            cache::flush(line(FLUSHED));
            cache::reload_time(line(CACHED));
            // The use: its owner reads it, and is done.
            std::hint::black_box(buffer.hash());
            [
                cache::reload_time(line(OFFSET)),
                cache::reload_time(line(CACHED)),
                cache::reload_time(line(FLUSHED)),
            ]
        };
        for (of, ticks) in times.iter_mut().zip(ticks) {
            if let Some(place) = of.get_mut(round) {
                *place = u32::try_from(ticks).unwrap_or(u32::MAX);
            }
        }
    }
    let [secret, cached, flushed] = times.map(|mut of| {
        of.sort_unstable();
        of.get(ROUNDS / 2).copied().unwrap_or(0)
    });
    say(format_args!("reload {secret} {cached} {flushed}"))
}

const _: () = assert!(CACHED > OFFSET + LENGTH && FLUSHED + 64 <= strongroom_sys::PAGE);
