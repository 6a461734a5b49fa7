//! One process of the fuzzer: threads that do things at random.

use crate::calls::{self, close, reserve};
use crate::model::{Model, P};
use crate::random::Random;
use crate::steps;
use crate::touch;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use strongroom_core::driver::{Mode, ModeRequest, SET_MODE, VERSION};

/// Bytes of each thread's own address space.
pub(crate) const ARENA: usize = 32 << 20;
/// Pages of the object that all threads of a process use at once.
pub(crate) const COMMON: usize = 1536;

/// How a process of the fuzzer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By _exit, with everything held.
    Exit,
    /// By SIGKILL, its own.
    Kill,
    /// By another program, which has the descriptors.
    Exec,
}

/// What a worker is told.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) seed: u64,
    pub(crate) round: u64,
    pub(crate) number: u64,
    /// Steps of each thread.
    pub(crate) steps: u64,
    pub(crate) threads: u64,
    /// User and limit of locked memory; root without.
    pub(crate) user: Option<(u32, u64)>,
    /// Where processes of a round pass descriptors.
    pub(crate) socket: i32,
    /// Allocations of the kernel's fail now and then.
    pub(crate) failing: bool,
    pub(crate) end: End,
}

/// What a thread has.
pub(crate) struct Thread<'a> {
    pub(crate) random: Random,
    pub(crate) model: Model,
    pub(crate) arena: usize,
    pub(crate) common: &'a Common,
    pub(crate) orders: &'a Orders,
    /// A pipe, for reads and writes.
    pub(crate) pipe: [i32; 2],
    /// A file on a disk, past the page cache; -1 without.
    pub(crate) direct: i32,
    /// An allocation of the kernel's may fail in this step.
    pub(crate) failing: bool,
    pub(crate) step: u64,
}

/// An object that all threads of a process have at one place.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) fd: i32,
    pub(crate) at: usize,
    pub(crate) salt: u64,
}

impl Common {
    fn new(salt: u64) -> Self {
        let at = reserve(COMMON * P);
        let fd = calls::open(libc::O_RDWR | libc::O_CLOEXEC).map_or(-1, |fd| fd as i32);
        let request = ModeRequest {
            size: size_of::<ModeRequest>() as u32,
            version: VERSION,
            bytes: (COMMON * P) as u64,
            mode: Mode::EXCLUSIVE.bits(),
            reserved: 0,
        };
        let _ = calls::ioctl(fd, SET_MODE, std::ptr::from_ref(&request) as usize);
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // Where the pool is full or the limit small there is none.
        if calls::mmap(at, COMMON * P, protection, flags, fd, 0).is_err() {
            let _ = calls::cover(at, COMMON * P);
        }
        Self { fd, at, salt }
    }
}

/// Runs a worker's threads and ends the process.
pub(crate) fn run(orders: &Orders, steps: &AtomicU64) -> ! {
    touch::prepare();
    if let Some((user, limit)) = orders.user {
        become_user(user, limit);
    }
    let salt = |thread| Random::of(orders.seed, &[orders.round, orders.number, thread, 1]).next();
    let common = Common::new(salt(0));
    // The allocator maps nothing while steps look for places: PLACES of steps.rs.
    // SAFETY: a number.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20) };
    let ready = Barrier::new(orders.threads as usize);
    std::thread::scope(|scope| {
        for number in 1..=orders.threads {
            let (salt, common, ready) = (salt(number), &common, &ready);
            scope.spawn(move || {
                let numbers = [orders.round, orders.number, number];
                let mut thread = Thread {
                    random: Random::of(orders.seed, &numbers),
                    model: Model::new(salt),
                    arena: reserve(ARENA),
                    common,
                    orders,
                    pipe: pipe(),
                    direct: direct(),
                    failing: false,
                    step: 0,
                };
                ready.wait();
                for step in 0..orders.steps {
                    thread.step = step;
                    steps::step(&mut thread);
                    steps.fetch_add(1, Ordering::Relaxed);
                }
                steps::check_all(&mut thread);
                for fd in [thread.pipe[0], thread.pipe[1], thread.direct] {
                    let _ = close(fd);
                }
            });
        }
    });
    match orders.end {
        // SAFETY: these end the process.
        End::Exit => unsafe { libc::_exit(0) },
        // SAFETY: as above.
        End::Kill => unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
            libc::_exit(1)
        },
        End::Exec => steps::exec(&common),
    }
}

fn pipe() -> [i32; 2] {
    let mut ends = [-1; 2];
    // SAFETY: two numbers.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if made == 0 { ends } else { [-1; 2] }
}

/// A page on a disk: a hole would be read without any pin.
fn direct() -> i32 {
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_DIRECT | libc::O_CLOEXEC;
    // SAFETY: a C string.
    let fd = unsafe { libc::open(c"/var/tmp".as_ptr(), flags, 0o600) };
    let page = Page([7; P]);
    // SAFETY: the page is alive.
    let written = unsafe { libc::pwrite(fd, page.0.as_ptr().cast(), P, 0) };
    if written == P as isize {
        return fd;
    }
    let _ = close(fd);
    -1
}

#[repr(C, align(4096))]
struct Page([u8; P]);

fn become_user(user: u32, limit: u64) {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit,
    };
    // SAFETY: the limit is alive.
    let became = unsafe {
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) == 0
            && libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(user, user, user) == 0
            && libc::setresuid(user, user, user) == 0
    };
    if !became {
        calls::violation("a worker cannot become a user");
    }
}
