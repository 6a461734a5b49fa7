//! Policies: what the caller requires and what it would prefer.

use crate::error::{self, Failure};
use core::ffi::{c_char, c_int};
use strongroom::fork::ForkPolicy;
use strongroom::{Level, Policy, Protection, Protections, keeper};

/// [`Level::Locked`].
pub const SR_LOCKED: u32 = 1;
/// [`Level::Hidden`].
pub const SR_HIDDEN: u32 = 2;
/// [`Level::Closed`].
pub const SR_CLOSED: u32 = 3;

/// [`ForkPolicy::Copy`].
pub const SR_FORK_COPY: u32 = 1;
/// [`ForkPolicy::Drop`].
pub const SR_FORK_DROP: u32 = 2;
/// [`ForkPolicy::Deny`].
pub const SR_FORK_DENY: u32 = 3;

/// `strongroom_policy`: what is required and what is preferred. Zeros are no policy.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types, reason = "its name in C")]
pub struct strongroom_policy {
    /// `sizeof(strongroom_policy)`: a later library knows by it which fields there are.
    pub size: u32,
    /// The least that is acceptable: a level.
    pub required: u32,
    /// What is tried first: a level, not below what is required.
    pub preferred: u32,
    /// What a forked child sees.
    pub fork: u32,
    /// Protections that are required besides the level.
    pub besides: u32,
}

pub(crate) const NO_POLICY: &str =
    "the policy is NULL; give one, as SR_REQUIRE or SR_PREFER make it";

fn level(number: u32) -> Option<Level> {
    match number {
        SR_LOCKED => Some(Level::Locked),
        SR_HIDDEN => Some(Level::Hidden),
        SR_CLOSED => Some(Level::Closed),
        _ => None,
    }
}

fn number(level: Option<Level>) -> u32 {
    match level {
        None => 0,
        Some(Level::Locked) => SR_LOCKED,
        Some(Level::Hidden) => SR_HIDDEN,
        Some(Level::Closed) => SR_CLOSED,
    }
}

/// The crate's policy.
///
/// # Safety
/// Unless it is null, the pointer must lead to a policy that nobody changes meanwhile.
pub(crate) unsafe fn read(policy: *const strongroom_policy) -> Result<Policy, Failure> {
    if policy.is_null() {
        return Err(Failure::Argument(NO_POLICY));
    }
    // SAFETY: the caller's promise; the size comes first in any version.
    if unsafe { (*policy).size } as usize != size_of::<strongroom_policy>() {
        return Err(Failure::Argument(
            "the policy's size is not this library's; set it to sizeof(strongroom_policy), and build with the header of this version",
        ));
    }
    // SAFETY: as above, and it has this library's size.
    let policy = unsafe { *policy };
    let (Some(required), Some(preferred)) = (level(policy.required), level(policy.preferred))
    else {
        return Err(Failure::Argument(
            "the policy names no level; use SR_LOCKED, SR_HIDDEN or SR_CLOSED",
        ));
    };
    if required > preferred {
        return Err(Failure::Argument(
            "the policy requires more than it prefers; prefer at least what is required",
        ));
    }
    let fork = match policy.fork {
        SR_FORK_COPY => ForkPolicy::Copy,
        SR_FORK_DROP => ForkPolicy::Drop,
        SR_FORK_DENY => ForkPolicy::Deny,
        _ => {
            return Err(Failure::Argument(
                "the policy does not say what a child sees; use SR_FORK_COPY, SR_FORK_DROP or SR_FORK_DENY",
            ));
        }
    };
    let besides = Protections::from_bits(policy.besides).ok_or(Failure::Argument(
        "the policy requires a protection that this library does not know; use the SR_ constants of this header",
    ))?;
    Ok(Policy::prefer(preferred)
        .at_least(required)
        .and(besides)
        .on_fork(fork))
}

/// Whether memory can be had under a policy, and what it would be held under: the set of protections goes
/// to `held`, unless that is null. Nothing is kept of it.
///
/// Thread safe.
///
/// # Safety
/// `policy` must be null or lead to a policy, `held` must be null or a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_policy_check(
    policy: *const strongroom_policy,
    held: *mut u32,
) -> c_int {
    // SAFETY: the caller's promise.
    let checked = unsafe { read(policy) }.and_then(|policy| Ok(keeper::choose(&policy)?));
    error::code(checked.map(|(_, receipt)| {
        if !held.is_null() {
            // SAFETY: the caller's promise.
            unsafe { held.write(receipt.held().bits()) };
        }
    }))
}

/// The protections that a level stands for, as a set; 0 for what is no level.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_level_protections(level: u32) -> u32 {
    self::level(level).map_or(0, |level| level.protections().bits())
}

/// The highest level whose protections are all in a set; 0 where there is none.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_level_reached(held: u32) -> u32 {
    number(Level::reached(Protections::from_bits_truncate(held)))
}

/// Every protection with its name in C and a terminated one for receipts.
macro_rules! protections {
    ($($(#[$doc:meta])* $constant:ident $protection:ident,)*) => {
        $($(#[$doc])* pub const $constant: u32 = Protection::$protection.only().bits();)*

        /// Every protection's bit with its name in C.
        pub const PROTECTIONS: &[(u32, &str)] = &[$(($constant, stringify!($constant))),*];

        fn name(bit: u32) -> Option<*const c_char> {
            match bit {
                $($constant => Some(concat!(stringify!($protection), "\0").as_ptr().cast()),)*
                _ => None,
            }
        }
    };
}

protections! {
    /// [`Protection::NoSwap`].
    SR_NO_SWAP NoSwap,
    /// [`Protection::NoCoreDump`].
    SR_NO_CORE_DUMP NoCoreDump,
    /// [`Protection::NoForkShare`].
    SR_NO_FORK_SHARE NoForkShare,
    /// [`Protection::NoFdSpill`].
    SR_NO_FD_SPILL NoFdSpill,
    /// [`Protection::WipedOnFree`].
    SR_WIPED_ON_FREE WipedOnFree,
    /// [`Protection::NoPeek`].
    SR_NO_PEEK NoPeek,
    /// [`Protection::NoPin`].
    SR_NO_PIN NoPin,
    /// [`Protection::NoDirectMap`].
    SR_NO_DIRECT_MAP NoDirectMap,
    /// [`Protection::NoInject`].
    SR_NO_INJECT NoInject,
    /// [`Protection::Bounded`].
    SR_BOUNDED Bounded,
    /// [`Protection::ClosedWhenIdle`].
    SR_CLOSED_WHEN_IDLE ClosedWhenIdle,
    /// [`Protection::Shielded`].
    SR_SHIELDED Shielded,
    /// [`Protection::Uncached`].
    SR_UNCACHED Uncached,
    /// [`Protection::NoVmm`].
    SR_NO_VMM NoVmm,
}

/// The name of the one protection in a set, as receipts print it; null for any other set. It is never freed.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_protection_name(protection: u32) -> *const c_char {
    name(protection).unwrap_or(core::ptr::null())
}
