//! What went wrong: a code, and a text with cause and fix, of each thread's last failure.
//!
//! A place of the thread's and not one of the caller's: `strongroom_malloc` and its kin return a pointer and take
//! nothing that a text could be put into, and one way for all is easier to keep to. What is kept is a small
//! value, made text when it is asked for: a failure allocates nothing, also where memory is what is missing.

use crate::receipt::Text;
use core::cell::Cell;
use core::ffi::{c_char, c_int};
use core::fmt::{self, Write};
use strongroom::conceal;
use strongroom::{Reason, Refused};

/// Defines the codes with their names, which are the words that receipts use.
macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $number:literal $name:literal,)*) => {
        $($(#[$doc])* pub const $code: c_int = $number;)*

        /// Every code with its name in C and its word.
        pub const CODES: &[(c_int, &str, &str)] = &[$(($number, stringify!($code), $name)),*];

        fn word(code: c_int) -> Option<*const c_char> {
            match code {
                $($number => Some(concat!($name, "\0").as_ptr().cast()),)*
                _ => None,
            }
        }
    };
}

codes! {
    /// Nothing failed.
    SR_OK = 0 "ok",
    /// A null pointer, a size, a constant or a policy that makes no sense.
    SR_E_ARGUMENT = 1 "argument",
    /// The process-wide heap runs already, under another policy.
    SR_E_STARTED = 2 "started",
    /// Part of the range is not mapped.
    SR_E_UNMAPPED = 3 "unmapped",
    /// See [`Reason::NotConcealable`].
    SR_E_NOT_CONCEALABLE = 4 "not-concealable",
    /// See [`Reason::OutOfMemory`].
    SR_E_OUT_OF_MEMORY = 5 "out-of-memory",
    /// See [`Reason::LockLimit`].
    SR_E_LOCK_LIMIT = 6 "lock-limit",
    /// See [`Reason::TooManyFiles`].
    SR_E_TOO_MANY_FILES = 7 "too-many-files",
    /// See [`Reason::TooManyMappings`].
    SR_E_TOO_MANY_MAPPINGS = 8 "too-many-mappings",
    /// See [`Reason::ReservationFull`].
    SR_E_RESERVATION_FULL = 9 "reservation-full",
    /// See [`Reason::NoSecretMemory`].
    SR_E_NO_SECRET_MEMORY = 10 "no-secret-memory",
    /// See [`Reason::NotPermitted`].
    SR_E_NOT_PERMITTED = 11 "not-permitted",
    /// See [`Reason::KeeperLacks`].
    SR_E_KEEPER_LACKS = 12 "keeper-lacks",
    /// See [`Reason::NotArranged`].
    SR_E_NOT_ARRANGED = 13 "not-arranged",
    /// See [`Reason::NoDriver`].
    SR_E_NO_DRIVER = 14 "no-driver",
    /// See [`Reason::DriverNotPermitted`].
    SR_E_DRIVER_NOT_PERMITTED = 15 "driver-not-permitted",
    /// See [`Reason::DriverDiffers`].
    SR_E_DRIVER_DIFFERS = 16 "driver-differs",
    /// See [`Reason::DriverExposed`].
    SR_E_DRIVER_EXPOSED = 17 "driver-exposed",
    /// See [`Reason::PoolFull`].
    SR_E_POOL_FULL = 18 "pool-full",
    /// See [`Reason::PoolLimit`].
    SR_E_POOL_LIMIT = 19 "pool-limit",
    /// See [`Reason::Kernel`].
    SR_E_KERNEL = 20 "kernel",
    /// Another reason, which the text names.
    SR_E_OTHER = 21 "other",
}

/// What failed, before it is text.
#[derive(Clone, Copy)]
pub(crate) enum Failure {
    /// What was given, and what is to be given instead.
    Argument(&'static str),
    /// The process-wide heap runs under another policy.
    Started,
    /// See [`conceal::Failure::Unmapped`].
    Unmapped,
    /// See [`Reason::NotConcealable`].
    LockedOnly,
    /// Memory could not be had under a policy.
    Refused(Refused),
    /// Memory could not be had.
    Reason(Reason),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Failure::Refused(refused)
    }
}

impl From<conceal::Failure> for Failure {
    fn from(failure: conceal::Failure) -> Self {
        match failure {
            conceal::Failure::Unmapped => Failure::Unmapped,
            conceal::Failure::Refused(reason) => Failure::Reason(reason),
        }
    }
}

impl Failure {
    fn code(self) -> c_int {
        match self {
            Failure::Argument(_) => SR_E_ARGUMENT,
            Failure::Started => SR_E_STARTED,
            Failure::Unmapped => SR_E_UNMAPPED,
            Failure::LockedOnly => SR_E_NOT_CONCEALABLE,
            Failure::Refused(Refused { reason, .. }) | Failure::Reason(reason) => code_of(reason),
        }
    }
}

fn code_of(reason: Reason) -> c_int {
    match reason {
        Reason::OutOfMemory => SR_E_OUT_OF_MEMORY,
        Reason::LockLimit { .. } => SR_E_LOCK_LIMIT,
        Reason::TooManyFiles => SR_E_TOO_MANY_FILES,
        Reason::TooManyMappings { .. } => SR_E_TOO_MANY_MAPPINGS,
        Reason::ReservationFull { .. } => SR_E_RESERVATION_FULL,
        Reason::NoSecretMemory => SR_E_NO_SECRET_MEMORY,
        Reason::NotPermitted => SR_E_NOT_PERMITTED,
        Reason::KeeperLacks { .. } => SR_E_KEEPER_LACKS,
        Reason::NotArranged => SR_E_NOT_ARRANGED,
        Reason::NotConcealable => SR_E_NOT_CONCEALABLE,
        Reason::NoDriver => SR_E_NO_DRIVER,
        Reason::DriverNotPermitted => SR_E_DRIVER_NOT_PERMITTED,
        Reason::DriverDiffers => SR_E_DRIVER_DIFFERS,
        Reason::DriverExposed => SR_E_DRIVER_EXPOSED,
        Reason::PoolFull { .. } => SR_E_POOL_FULL,
        Reason::PoolLimit { .. } => SR_E_POOL_LIMIT,
        Reason::Kernel { .. } => SR_E_KERNEL,
        _ => SR_E_OTHER,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Argument(what) => f.write_str(what),
            Failure::Started => f.write_str(
                "the process-wide heap runs already, under another policy; call strongroom_start once, before the first strongroom_malloc",
            ),
            Failure::Unmapped => f.write_str(
                "part of the range is not mapped; give addresses of memory that the process has",
            ),
            Failure::LockedOnly => write!(
                f,
                "part of the range is locked and no more: {}; put the secret into memory of strongroom_malloc or of a region",
                Reason::NotConcealable
            ),
            Failure::Refused(refused) => write!(f, "{refused}"),
            Failure::Reason(reason) if reason.fix().is_empty() => write!(f, "{reason}"),
            Failure::Reason(reason) => write!(f, "{reason}; {}", reason.fix()),
        }
    }
}

thread_local! {
    /// Without a destructor, so that it is there to the thread's very end.
    static LAST: Cell<Option<Failure>> = const { Cell::new(None) };
}

/// Notes a failure, and has errno say what `malloc` or `mlock` would.
pub(crate) fn note(failure: Failure) -> c_int {
    LAST.with(|last| last.set(Some(failure)));
    let code = failure.code();
    set_errno(match code {
        SR_E_ARGUMENT => libc::EINVAL,
        SR_E_STARTED => libc::EBUSY,
        SR_E_NOT_PERMITTED | SR_E_DRIVER_NOT_PERMITTED | SR_E_NOT_CONCEALABLE => libc::EPERM,
        _ => libc::ENOMEM,
    });
    code
}

/// The code of a result, noted where it is a failure.
pub(crate) fn code<T>(result: Result<T, Failure>) -> c_int {
    match result {
        Ok(_) => SR_OK,
        Err(failure) => note(failure),
    }
}

pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = errno };
}

pub(crate) fn errno() -> c_int {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() }
}

/// The code of this thread's last failure; [`SR_OK`] where none failed yet. What succeeds leaves it.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_last_error() -> c_int {
    LAST.with(Cell::get).map_or(SR_OK, Failure::code)
}

/// The text of this thread's last failure, cause and fix, into `buffer` as snprintf(3) would put it.
/// Returns its length in bytes, without the terminating zero; 0 where nothing failed yet.
///
/// Thread safe.
///
/// # Safety
/// `len` bytes from `buffer` must be writable; with a null `buffer` nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strongroom_error_message(buffer: *mut c_char, len: usize) -> usize {
    // SAFETY: the caller's promise.
    let mut text = unsafe { Text::new(buffer, len) };
    if let Some(failure) = LAST.with(Cell::get) {
        // The text takes all there is.
        let _ = write!(text, "{failure}");
    }
    text.finish()
}

/// A code's word, as receipts have it; null for what is no code. It is never freed.
///
/// Thread safe.
#[unsafe(no_mangle)]
pub extern "C" fn strongroom_error_name(code: c_int) -> *const c_char {
    word(code).unwrap_or(core::ptr::null())
}
