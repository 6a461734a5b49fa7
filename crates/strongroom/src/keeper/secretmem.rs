//! The keeper memfd_secret: pages that leave the kernel's direct map.

use super::{Inheritance, Keeper, refusal};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock};
use strongroom_core::{Protections, Reason};
use strongroom_sys::PAGE;
use strongroom_sys::limits;
use strongroom_sys::maps::Mapping;
use strongroom_sys::memory::{self, Advice, Place};
use strongroom_sys::{process, secret_memory};

/// memfd_secret(2).
pub(super) struct Secretmem;

/// Held while a secret descriptor exists, so that two threads do not undo each other's hiding.
static WINDOW: Mutex<()> = Mutex::new(());

impl Keeper for Secretmem {
    fn name(&self) -> &'static str {
        "memfd_secret"
    }

    fn offers(&self) -> Protections {
        strongroom_core::Level::Hidden.protections()
    }

    unsafe fn map(&self, place: Place, len: usize) -> Result<*mut u8, Reason> {
        let guard = WINDOW
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // The descriptor lives for some microseconds. Whoever may trace the process could take it
        // with pidfd_getfd(2) in that time, so nobody may: dumpable goes off meanwhile.
        let hide = process::is_dumpable().unwrap_or(false);
        if hide {
            process::set_dumpable(false).map_err(|errno| refusal("prctl", errno, len))?;
        }
        let mapped = create().and_then(|file| {
            secret_memory::set_length(&file, len)
                .map_err(|errno| refusal("ftruncate", errno, len))?;
            // SAFETY: the caller's promise about `place`.
            unsafe { secret_memory::map(&file, place, len) }
                .map_err(|errno| refusal("mmap", errno, len))
            // The descriptor closes here, before anyone may look again.
        });
        let shown = if hide {
            process::set_dumpable(true)
        } else {
            Ok(())
        };
        drop(guard);
        let start = mapped?;
        // SAFETY: the mapping was made above and nobody else knows it.
        let excluded = unsafe { memory::advise(start, len, Advice::LinuxDontFork) };
        match shown.and(excluded) {
            Ok(()) => Ok(start),
            Err(errno) => {
                // SAFETY: as above.
                unsafe { super::take_back(place, start, len) };
                Err(refusal("madvise", errno, len))
            }
        }
    }

    fn settle(&self, start: *mut u8, len: usize) -> Result<bool, Reason> {
        if super::lock_limit().is_none() || !charged_on_touch() {
            return Ok(false);
        }
        memory::touch(start, len)
            .map(|()| true)
            .map_err(|_| super::over_lock_limit(len))
    }

    fn inheritance(&self) -> Inheritance {
        Inheritance::Shared
    }

    fn made(&self, mapping: &Mapping<'_>) -> bool {
        mapping.is_secretmem()
    }

    unsafe fn restore_in_child(&self, _start: *mut u8, _len: usize) -> Result<(), Reason> {
        Ok(())
    }
}

/// Whether the kernel charges secret memory when it is touched and not when it is mapped. Then the
/// limit is the user's, of all processes together; CAP_IPC_LOCK does not lift it; and to touch a page
/// past it is SIGBUS. So it is since "mm/secretmem: properly account locked pages", which is in
/// 6.12.113 (seen on Debian's 6.12.117). Tried once a process.
pub fn charged_on_touch() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let before = process::locked_bytes();
        // SAFETY: a new mapping replaces nothing.
        let page = match unsafe { Secretmem.map(Place::Anywhere, PAGE) } {
            Ok(page) => page,
            // There is none to be charged, or mmap itself is where the limit is met.
            Err(Reason::NoSecretMemory | Reason::NotPermitted | Reason::LockLimit { .. }) => {
                return false;
            }
            // Nothing is lost by touching pages early.
            Err(_) => return true,
        };
        let after = process::locked_bytes();
        // SAFETY: mapped above, and nobody has seen it.
        let _ = unsafe { memory::unmap(page, PAGE) };
        match (before, after) {
            (Ok(before), Ok(after)) => after <= before,
            _ => true,
        }
    })
}

fn create() -> Result<OwnedFd, Reason> {
    limits::with_one_more_descriptor(secret_memory::create)
        .map_err(|errno| refusal("memfd_secret", errno, 0))
}
