//! Arranging the protection, before the program's own code runs.
//!
//! A `malloc` that comes even before the constructor, from the loader, starts it too: settings are read from the
//! stack that the kernel prepared, not from libc, which is not initialised yet.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::OnceLock;
use strongroom::fork;
use strongroom::heap;
use strongroom::keeper::{self, Keeper};
use strongroom::launch::config::{BadConfig, Config, Scope, VARIABLE};
use strongroom::launch::handshake::{self, Handshake};
use strongroom::line;
use strongroom::{Level, Policy, Protections, Reason, Receipt};
use strongroom_sys::{limits, process, raw};

/// Where malloc takes memory from.
pub(crate) const UNKNOWN: u8 = 0;
/// The secret heap.
pub(crate) const HEAP: u8 = 1;
/// libc's own heap: scope `locked`, or `--best-effort` without secret memory.
pub(crate) const LIBC: u8 = 2;

static SOURCE: AtomicU8 = AtomicU8::new(UNKNOWN);
static STARTING: AtomicBool = AtomicBool::new(false);
/// For each of [`WHY`], the bits of the protections that are lost for it.
static LOST: [AtomicU32; WHY.len()] = [const { AtomicU32::new(0) }; WHY.len()];
/// What can make a process lose protections after they were arranged.
const WHY: [Reason; 3] = [Reason::NotConcealable, Reason::OwnAllocator, Reason::Traced];

/// Whether the program takes arenas by mmap that belong to its heap: CPython's allocator for small
/// objects does, where PYTHONMALLOC is not heeded (`python3 -E`, `-I`).
static ARENAS: AtomicBool = AtomicBool::new(false);

/// Whether memory that the program maps is to be secret, as its heap is.
pub(crate) fn maps_arenas() -> bool {
    ARENAS.load(Ordering::Relaxed)
}

/// What was arranged.
pub(crate) struct Started {
    pub(crate) config: Config<'static>,
    /// The LD_PRELOAD and settings strings as exec'd programs are to get them.
    pub(crate) preload: Option<&'static CStr>,
    pub(crate) settings: Option<&'static CStr>,
    pub(crate) keeper: Option<&'static dyn Keeper>,
    pub(crate) receipt: Receipt,
}

static STARTED: OnceLock<Started> = OnceLock::new();

/// Where malloc takes memory from; starts everything at the first call.
#[inline(always)]
pub(crate) fn source() -> u8 {
    match SOURCE.load(Ordering::Relaxed) {
        UNKNOWN => start(),
        known => known,
    }
}

/// What was arranged; `None` while it is being arranged.
pub(crate) fn started() -> Option<&'static Started> {
    STARTED.get()
}

/// Notes that protections do not hold for all that was asked: mlockall met a stack, say. `reason`
/// must be one of [`WHY`].
pub(crate) fn lose(protections: Protections, reason: Reason) {
    for (lost, _) in LOST.iter().zip(WHY).filter(|(_, why)| *why == reason) {
        lost.fetch_or(protections.bits(), Ordering::Relaxed);
    }
}

/// The receipt as of now.
pub(crate) fn receipt(started: &Started) -> Receipt {
    LOST.iter()
        .zip(WHY)
        .fold(started.receipt, |receipt, (lost, why)| {
            let lost = Protections::from_bits_truncate(lost.load(Ordering::Relaxed));
            receipt.lack(lost, why)
        })
}

/// Says why the program cannot be protected and ends it.
fn refuse(what: core::fmt::Arguments<'_>, fix: &str) -> ! {
    line::complain(what, fix);
    process::exit_now(125)
}

#[cold]
fn start() -> u8 {
    if STARTING.swap(true, Ordering::Relaxed) {
        // A call from inside: the heap may be half there, libc's is whole.
        return LIBC;
    }
    let environment = Environment::find();
    let config = match environment.config() {
        Ok(config) => config,
        Err(error) => refuse(format_args!("{error}"), "unset it"),
    };
    fork::watch();
    let asked = config.level.unwrap_or(Level::Hidden).protections() | Protections::NO_INJECT;
    let hidden = hide(&config);
    let policy = match config.level {
        Some(level) => Policy::require(level),
        None => Policy::prefer(Level::Hidden).at_least(Level::Locked),
    }
    .on_fork(config.fork);
    let kept = keeper::choose(&policy).and_then(|(keeper, receipt)| {
        if config.scope == Scope::Heap {
            heap::global().start(policy)?;
            // The first chunk: a limit that has no room for it is found now, not at a malloc.
            let first = heap::global().allocate(1);
            if first.is_null() {
                let reason = heap::global().last_refusal().unwrap_or(Reason::OutOfMemory);
                return Err(strongroom::Refused {
                    level: policy.required(),
                    reason,
                });
            }
            // SAFETY: allocated above and given to nobody.
            unsafe { heap::global().free(first) };
        }
        Ok((keeper, receipt))
    });
    let (keeper, mut receipt) = match kept {
        Ok((keeper, receipt)) => (Some(keeper), Receipt::new(asked).hold(receipt.held())),
        Err(refused) if config.best_effort => {
            (None, Receipt::new(asked).lack(asked, refused.reason))
        }
        Err(refused) => refuse(format_args!("{refused}"), ""),
    };
    if let Some(keeper) = keeper {
        let lacking = asked
            .difference(keeper.offers())
            .difference(Protections::NO_INJECT);
        let reason = keeper::probe(keeper::SECRETMEM).err();
        receipt = receipt.lack(
            lacking,
            reason.unwrap_or(Reason::KeeperLacks {
                keeper: keeper.name(),
            }),
        );
    }
    receipt = match hidden {
        Ok(()) => receipt.hold(Protections::NO_INJECT),
        Err(reason) => receipt.lack(Protections::NO_INJECT, reason),
    };
    let started = Started {
        config,
        preload: environment.preload,
        settings: environment.settings,
        keeper,
        receipt,
    };
    let _ = STARTED.set(started);
    let source = if config.scope == Scope::Heap && keeper.is_some() {
        HEAP
    } else {
        LIBC
    };
    SOURCE.store(source, Ordering::Release);
    source
}

/// Makes the process one that others of the same user cannot look into.
fn hide(config: &Config<'_>) -> Result<(), Reason> {
    let _ = limits::set(
        limits::Resource::Core,
        limits::Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    if config.dumpable {
        return Err(Reason::Dumpable);
    }
    match process::set_dumpable(false) {
        Ok(()) if start_was_guarded() => Ok(()),
        Ok(()) => Err(Reason::StartUnguarded),
        Err(_) if config.best_effort => Err(Reason::CannotHide),
        Err(errno) => refuse(
            format_args!(
                "{}: prctl(PR_SET_DUMPABLE) failed with errno {}",
                Reason::CannotHide,
                errno.raw_os_error()
            ),
            "allow prctl in the seccomp filter, or run with --dumpable",
        ),
    }
}

/// Whether nobody of the same user could have opened /proc/PID/mem for writing before now: exec
/// makes a process dumpable (begin_new_exec in fs/exec.c), and such a descriptor stays good. Yama
/// lets only ancestors in from scope 1 on.
fn start_was_guarded() -> bool {
    limits::number_in(c"/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope >= 1)
}

/// Tells the verifier, where there is one, and refuses to run under any other tracer.
pub(crate) fn announce() {
    let Some(started) = started() else { return };
    let config = &started.config;
    if config.scope == Scope::Heap && started.keeper.is_some() && !malloc_is_ours() {
        if !config.best_effort {
            refuse(
                format_args!("{}", Reason::OwnAllocator),
                Reason::OwnAllocator.fix(),
            );
        }
        lose(Level::Hidden.protections(), Reason::OwnAllocator);
    }
    // SAFETY: the name is a C string.
    let python = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"PyObject_Malloc".as_ptr()) };
    if config.scope == Scope::Heap && started.keeper.is_some() {
        ARENAS.store(!python.is_null(), Ordering::Relaxed);
    }
    let (region_address, region_length) = heap::global().first_chunk();
    let hello = Handshake {
        version: handshake::VERSION,
        held: receipt(started).held().bits(),
        region_address: region_address as u64,
        region_length: region_length as u64,
        region_is_secretmem: u32::from(started.keeper.is_some_and(|k| !k.copies_on_write())),
        non_dumpable: u32::from(!process::is_dumpable().unwrap_or(true)),
    };
    let arguments = [
        handshake::OPTION as usize,
        &raw const hello as usize,
        size_of::<Handshake>(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel knows no such option; a verifier reads the structure.
    let _ = unsafe { raw::syscall(libc::SYS_prctl as usize, arguments) };
    if process::tracer().is_ok_and(|tracer| tracer != 0) {
        if !config.best_effort && !config.dumpable {
            refuse(format_args!("{}", Reason::Traced), Reason::Traced.fix());
        }
        lose(Protections::NO_INJECT, Reason::Traced);
    }
}

/// Whether the program's malloc is this object's: one that is linked into it comes first. Its address
/// does not tell (in an executable that is not position-independent it may be that of a stub there),
/// so it is called.
fn malloc_is_ours() -> bool {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr()) };
    if found.is_null() {
        return false;
    }
    // SAFETY: whatever is found is the program's malloc.
    let malloc: extern "C" fn(usize) -> *mut u8 = unsafe { core::mem::transmute(found) };
    let block = malloc(1);
    let ours = heap::global().contains(block);
    if ours {
        // SAFETY: a block of the heap, given to nobody. One of another malloc stays: a few bytes.
        unsafe { heap::global().free(block) };
    }
    ours
}

/// The strings of the environment that concern this object.
struct Environment {
    preload: Option<&'static CStr>,
    settings: Option<&'static CStr>,
}

unsafe extern "C" {
    /// ld.so's: where the kernel put argc, argv and the environment (GLIBC_2.2.5).
    static __libc_stack_end: *const usize;
}

impl Environment {
    /// The settings; without any, those of a plain `strongroom run`.
    fn config(&self) -> Result<Config<'static>, BadConfig> {
        match self.settings {
            Some(text) => Config::parse(&text.to_bytes()[VARIABLE.len() + 1..]),
            None => Ok(Config::default()),
        }
    }

    fn find() -> Self {
        let mut this = Self {
            preload: None,
            settings: None,
        };
        // SAFETY: the System V ABI's process stack: argc, argv, null, environment, null. ld.so set the
        // pointer before it loaded this object, and the strings stay as long as the process.
        unsafe {
            let argc = *__libc_stack_end;
            let mut at = __libc_stack_end.add(argc + 2).cast::<*const c_char>();
            while !(*at).is_null() {
                let text = CStr::from_ptr(*at);
                let bytes = text.to_bytes();
                if bytes.starts_with(b"LD_PRELOAD=") {
                    this.preload = Some(text);
                } else if bytes
                    .strip_prefix(VARIABLE.as_bytes())
                    .is_some_and(|rest| rest.starts_with(b"="))
                {
                    this.settings = Some(text);
                }
                at = at.add(1);
            }
        }
        this
    }
}
