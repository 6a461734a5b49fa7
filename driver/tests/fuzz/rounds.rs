//! Rounds: some processes at a time, what is done to them from outside, and what must be true after them.

use crate::calls::{self, VIOLATED};
use crate::object::{Object, state};
use crate::random::Random;
use crate::worker::{self, End, Orders};
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use strongroom_core::driver::Mode;

/// How often all free memory is read.
const ZERO_EVERY: u64 = 40;

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    steps: u64,
    rounds: u64,
    workers: u64,
    /// Ended by SIGKILL, from outside or their own.
    killed: u64,
    stopped: u64,
    /// Reads of another process's mapping that were tried.
    peeks: u64,
    /// How often all free memory was zero.
    zero: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} steps, {} rounds of {} processes, {} killed, {} stopped, {} peeks, free memory read {} times",
            self.steps, self.rounds, self.workers, self.killed, self.stopped, self.peeks, self.zero
        )
    }
}

/// A counter that processes share.
fn shared_counter() -> &'static AtomicU64 {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let at = calls::mmap(0, 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0).unwrap();
    // SAFETY: zeros are a counter, and this mapping is never unmapped.
    unsafe { &*(at as *const AtomicU64) }
}

/// Runs rounds until so many steps are done.
pub(crate) fn run(seed: u64, steps: u64, failing: bool) -> Done {
    let counter = shared_counter();
    let mut done = Done::default();
    let mut told = 0;
    // SAFETY: no memory is involved. Whose parent is gone comes here.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    if failing {
        prepare_failures();
    }
    assert_whole("before");
    while counter.load(Ordering::Relaxed) < steps {
        round(seed, failing, counter, &mut done);
        assert_whole(&format!("seed {seed}, after round {}", done.rounds));
        done.rounds += 1;
        if done.rounds % ZERO_EVERY == 0 {
            all_free_memory_is_zero();
            done.zero += 1;
        }
        done.steps = counter.load(Ordering::Relaxed);
        if done.steps * 10 / steps > told {
            told = done.steps * 10 / steps;
            let _ = writeln!(std::io::stderr(), "fuzz: {done}");
        }
    }
    all_free_memory_is_zero();
    done.zero += 1;
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 0) };
    done
}

fn assert_whole(when: &str) {
    let (free, total, objects) = (state("free"), state("total"), state("objects"));
    assert_eq!((free, objects), (total, 0), "{when}: the pool is not whole");
}

fn all_free_memory_is_zero() {
    let size = state("largest_free");
    let map = Object::with_mode(Mode::EXCLUSIVE, size).map().unwrap();
    let (_, words, _) = {
        // SAFETY: any bytes are words.
        unsafe { map.bytes().align_to::<u64>() }
    };
    assert!(
        words.iter().all(|&word| word == 0),
        "free memory is not zero"
    );
}

/// Allocations that may sleep fail, too, and the log is not told of each.
fn prepare_failures() {
    for kind in ["failslab", "fail_page_alloc"] {
        let set = |name: &str, value: &str| {
            let _ = std::fs::write(format!("/sys/kernel/debug/{kind}/{name}"), value);
        };
        set("ignore-gfp-wait", "N");
        set("verbose", "0");
        set("min-order", "0");
        set("ignore-gfp-highmem", "N");
    }
}

fn round(seed: u64, failing: bool, counter: &'static AtomicU64, done: &mut Done) {
    let mut random = Random::of(seed, &[done.rounds]);
    let mut sockets = [-1; 2];
    // SAFETY: two numbers.
    let made =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, sockets.as_mut_ptr()) };
    assert_eq!(made, 0);
    let workers = 1 + random.below(3) as u64;
    let mut children = Vec::new();
    for number in 0..workers {
        let limits = [0, 64 << 10, 1 << 20, 8 << 20, u64::MAX];
        let user = random
            .one_in(3)
            .then(|| (1000 + number as u32, random.pick(&limits)));
        let orders = Orders {
            seed,
            round: done.rounds,
            number,
            steps: 100 + random.below(600) as u64,
            threads: 1 + random.below(3) as u64,
            user,
            socket: sockets[number as usize % 2],
            failing,
            end: random.pick(&[End::Exit, End::Exit, End::Exit, End::Kill, End::Exec]),
        };
        // SAFETY: the child runs the worker, which ends by itself.
        match unsafe { libc::fork() } {
            0 => worker::run(&orders, counter),
            child => children.push((child, orders.end)),
        }
        assert!(children.last().is_none_or(|&(child, _)| child > 0), "fork");
    }
    done.workers += workers;
    let ours: Vec<i32> = children.iter().map(|&(child, _)| child).collect();
    disturb(&mut random, &ours, done);
    // Their children, too, whose parents were killed.
    loop {
        let mut status = 0;
        // SAFETY: the status is alive.
        let child = unsafe { libc::waitpid(-1, &mut status, 0) };
        if child < 0 {
            break;
        }
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        done.killed += u64::from(killed);
        let violated = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == VIOLATED;
        assert!(
            status == 0 || killed,
            "seed {seed} round {}: process {child} ended with {status:#x}{}",
            done.rounds,
            if violated { ", see above" } else { "" }
        );
    }
    for socket in sockets {
        let _ = calls::close(socket);
    }
}

/// Stops, continues, looks into and kills the processes, or lets them be.
fn disturb(random: &mut Random, children: &[i32], done: &mut Done) {
    let kill = |child: i32, signal| {
        // SAFETY: no memory is involved; it was not waited for, so the number is its own.
        unsafe { libc::kill(child, signal) };
    };
    let fatal = random.one_in(2);
    for _ in 0..random.below(12) {
        // What happens when is the machine's matter; nothing depends on it.
        std::thread::sleep(Duration::from_micros(random.below(20_000) as u64));
        let child = random.pick(children);
        match random.below(4) {
            0 => {
                kill(child, libc::SIGSTOP);
                done.peeks += peek(child);
                kill(child, libc::SIGCONT);
                done.stopped += 1;
            }
            1 if fatal => kill(child, libc::SIGKILL),
            2 => done.peeks += peek(child),
            _ => {
                let _ = std::fs::read("/sys/class/misc/strongroom/holders");
            }
        }
    }
}

/// Tries to read the mappings of another process; how many there were.
fn peek(child: i32) -> u64 {
    let Ok(maps) = std::fs::read_to_string(format!("/proc/{child}/maps")) else {
        return 0;
    };
    let mut tried = 0;
    for line in maps
        .lines()
        .filter(|line| line.ends_with("/dev/strongroom"))
    {
        let Some((start, _)) = line.split_once('-') else {
            continue;
        };
        let at = usize::from_str_radix(start, 16).unwrap();
        let mut buffer = [0_u8; 64];
        let own = [buffer.as_mut_ptr() as usize, 64];
        let theirs = [at, 64];
        // SAFETY: the buffer is as long as said.
        let answer = unsafe {
            calls::call(
                libc::SYS_process_vm_readv,
                [
                    child as usize,
                    own.as_ptr() as usize,
                    1,
                    theirs.as_ptr() as usize,
                    1,
                    0,
                ],
            )
        };
        // A worker unmaps meanwhile, and something else of it may come to lie there.
        let still = std::fs::read_to_string(format!("/proc/{child}/maps"))
            .is_ok_and(|maps| maps.lines().any(|other| other == line));
        assert!(
            answer.is_err() || !still,
            "process_vm_readv of {line}: {answer:?}"
        );
        tried += 1;
    }
    tried
}
