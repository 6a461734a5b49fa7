//! A victim that runs a guest, and looks for the guest's secret when it is told to.
//!
//! The secret is the guest's: its program makes it from what it is given, by arithmetic, and writes it into
//! a page of its own. No buffer of the monitor's ever holds it, and the attacker comes to the same
//! bytes by itself. Of the machine, the code that looks knows what a monitor that is taken over knows:
//! addresses, and what /proc/self shows.

mod fork;
mod look;
mod pins;
mod places;
mod stale;
mod steer;

use super::kin;
use super::speech::{Line, say, say_all, stdin};
use super::{LENGTH, OFFSET};
use crate::attack::Loot;
use strongroom_sys::{Errno, PAGE, foul, memory, peek};

/// The guest's page with the secret.
const SECRET: usize = 0;
/// Another one, which is shared until an attack has it made private.
const LATER: usize = 1;

/// A machine with a guest, whose memory has at least two pages.
pub trait Monitor {
    /// Where the monitor has a page of the guest's in its own address space.
    fn view(&self, page: usize) -> usize;

    /// Where the guest has it.
    fn guest_address(&self, page: usize) -> u64;

    /// The guest asks that a page become private, with what is in it. Where the machine has no private
    /// pages, the guest uses it as it is.
    ///
    /// # Errors
    /// What the guest was told.
    fn hide(&mut self, page: usize) -> Result<(), String>;

    /// The guest makes its secret, as [`secret_of`] does, [`OFFSET`] bytes into a page.
    ///
    /// # Errors
    /// Why the guest did not.
    fn make_secret(&mut self, page: usize, seed: &[u8; LENGTH]) -> Result<(), String>;

    /// The guest copies its secret to another page, each word of 64 bits xor `key`.
    ///
    /// # Errors
    /// Why the guest did not.
    fn copy_secret(&mut self, from: usize, to: usize, key: u64) -> Result<(), String>;

    /// The guest's own [`hash`](super::hash) of its secret.
    ///
    /// # Errors
    /// Why the guest did not.
    fn hash(&mut self, page: usize) -> Result<u64, String>;

    /// A device thread takes a slice of a shared page and keeps it. The guest asks that the page become private,
    /// and where it is told that it is, copies its secret there; then the device reads by its slice. It lets
    /// go, and where the page was refused the guest asks again.
    ///
    /// # Errors
    /// What else went wrong.
    fn hide_under_slice(&mut self, secret: usize, page: usize) -> Result<UnderSlice, String>;

    /// What is claimed for the guest's private pages, as a line of JSON.
    fn receipt(&self) -> Option<String>;
}

/// What came of a page that was to become private while a device held a slice of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderSlice {
    /// What the conversion said; none where it was done, or the machine has none.
    pub refused: Option<String>,
    /// The bytes that the device read afterwards by its slice.
    pub read: Vec<u8>,
    /// What came of another slice, once the page was private; none where the device got one.
    pub again: Option<String>,
}

/// What a guest makes of what it is given: each word of 64 bits is mixed as in splitmix64.
pub fn secret_of(seed: &[u8; LENGTH]) -> [u8; LENGTH] {
    let mut secret = *seed;
    for word in secret.chunks_exact_mut(8) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        let mut x = u64::from_le_bytes(bytes).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(x ^ (x >> 31)).to_le_bytes());
    }
    secret
}

/// Lives as a monitor until it is told `end` or its standard input closes. Returns its exit status.
pub fn live_with_guest<M: Monitor>(start: impl FnOnce() -> Result<M, String>) -> u8 {
    peek::let_anyone_trace();
    let mut monitor = match start() {
        Ok(monitor) => monitor,
        Err(why) => {
            let _ = say(format_args!("refused {why}"));
            return 1;
        }
    };
    let address = monitor.view(SECRET) + OFFSET;
    let ready = say(format_args!(
        "ready {} {address} {LENGTH}",
        strongroom_sys::process::id(),
    ));
    let mut seed = [0; LENGTH];
    if ready.is_err() || foul::survive().is_err() || read_exactly(&mut seed).is_err() {
        return 1;
    }
    let made = monitor
        .hide(SECRET)
        .and_then(|()| monitor.make_secret(SECRET, &seed));
    if let Err(why) = made {
        let _ = say(format_args!("failed {why}"));
        return 1;
    }
    let mut line = Line::default();
    while line.read().is_ok() {
        let done = match line.words() {
            ("end", _) => return 0,
            ("hash", _) => match monitor.hash(SECRET) {
                Ok(hash) => say(format_args!("hash {hash:x}")),
                Err(why) => say(format_args!("failed {why}")),
            },
            ("receipt", _) => say_all(monitor.receipt().unwrap_or_default().as_bytes())
                .and_then(|()| say(format_args!(""))),
            ("start-heir", _) => kin::start_heir(address),
            ("start-grandchild", _) => kin::start_grandchild(address),
            ("page-out", _) => page_out(),
            ("look", way) => look(&mut monitor, way),
            ("abort", _) => std::process::abort(),
            _ => say(format_args!("unknown")),
        };
        if done.is_err() {
            return 1;
        }
    }
    0
}

fn read_exactly(mut place: &mut [u8]) -> Result<(), Errno> {
    while !place.is_empty() {
        match rustix::io::read(stdin(), &mut *place) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(read) => place = place.get_mut(read..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Looks in one way, and says what came of it, a line each.
fn look(monitor: &mut dyn Monitor, way: &str) -> Result<(), Errno> {
    let mut masked = [0; LENGTH];
    read_exactly(&mut masked)?;
    let view = monitor.view(SECRET);
    let looked = match way {
        "view" => Ok(look::view(view, &masked)),
        "syscall" => look::syscall(view, &masked),
        "alias" => look::alias(&masked),
        "peek" => look::peek(&masked),
        "map" => look::map(&masked),
        "pointer" => stale::pointer(monitor, &masked),
        "stale-slice" => stale::slice(monitor, &masked),
        "steer" => steer::steer(monitor.guest_address(SECRET), &masked),
        "vmsplice" => pins::vmsplice(monitor, &masked),
        "io-uring" => pins::io_uring(monitor, &masked),
        "direct" => pins::direct(view, &masked),
        "fork" => fork::fork(monitor, &masked),
        _ => Err("there is no such way".to_owned()),
    };
    match looked {
        Ok(loot) => {
            for loot in loot {
                say(format_args!("{loot}"))?;
            }
            say(format_args!("looked"))
        }
        Err(why) => say(format_args!("failed {why}")),
    }
}

/// Asks the kernel to push out all that is mapped of files in memory.
fn page_out() -> Result<(), Errno> {
    let (mut done, mut last) = (0, Errno::INVAL);
    for place in places::mapped() {
        // SAFETY: this advice keeps contents, and a place is a mapping of this process.
        let pushed = unsafe {
            memory::advise(
                place.start as *mut u8,
                place.len,
                memory::Advice::LinuxPageOut,
            )
        };
        match pushed {
            Ok(()) => done += 1,
            Err(error) => last = error,
        }
    }
    let last = last.raw_os_error();
    say(format_args!(
        "MADV_PAGEOUT of {done} mappings, others {last}"
    ))
}

/// What a way came to by which these bytes were had.
fn judge(way: &str, bytes: &[u8], masked: &[u8]) -> Loot {
    if crate::masked::position(bytes, masked).is_some() {
        Loot::leaked(way)
    } else if bytes.iter().all(|&byte| byte == 0) {
        Loot::held(format!("{way}: zeros"))
    } else {
        Loot::held(format!("{way}: other bytes"))
    }
}

/// The name of a signal that a load raised.
fn signal(number: i32) -> &'static str {
    match number {
        libc::SIGBUS => "SIGBUS",
        libc::SIGSEGV => "SIGSEGV",
        _ => "a signal",
    }
}

/// For `map_err`: what failed of itself.
fn failed(what: &str) -> impl Fn(Errno) -> String {
    move |error| format!("{what}: {}", crate::thief::name(error))
}

const _: () = assert!(OFFSET + LENGTH <= PAGE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_mixed_word_by_word() {
        // The first two numbers of splitmix64 from 0 on.
        let mut seed = [0; LENGTH];
        seed[8..16].copy_from_slice(&0x9e37_79b9_7f4a_7c15_u64.to_le_bytes());
        let secret = secret_of(&seed);
        assert_eq!(secret[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
        assert_eq!(secret[8..16], 0x6e78_9e6a_a1b9_65f4_u64.to_le_bytes());
    }
}
