//! Pins in a process that takes no part: root stops it and has it make the calls.

use super::Broken;
use super::direct_map::Refusal;
use super::inject::{Failure, Puppet};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use strongroom_sys::{Errno, peek};

/// What came of a pin: the bytes that came out at its other end, and the call's result.
pub(super) type Pinned = (Vec<u8>, i64);

/// A stopped process, and a little of its stack to put arguments on.
struct Hand {
    pid: i32,
    puppet: Puppet,
    memory: File,
    /// Where on the stack, below all that is in use.
    scratch: u64,
    /// What was there.
    before: Vec<u8>,
}

/// How much of the stack is used, in bytes: a path, and what calls return.
const SCRATCH: usize = 1024;
/// Where in it the arrays of one range and the answers of calls are.
const RANGE: u64 = 0;
const ANSWER: u64 = 16;

impl Hand {
    fn of(pid: i32) -> Result<Self, Refusal> {
        // The red zone (128 bytes) is the process's.
        const BELOW: u64 = 256;
        let puppet = Puppet::seize(pid).map_err(|failure| match failure {
            Failure::Refused(errno) => Refusal::because("stopping the program")(errno),
            Failure::Other(refusal) => refusal,
        })?;
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(Refusal::because("/proc/PID/mem"))?;
        let scratch = (puppet.stack() - BELOW - SCRATCH as u64) & !15;
        let mut before = vec![0; SCRATCH];
        memory
            .read_exact_at(&mut before, scratch)
            .map_err(Refusal::because("the program's stack"))?;
        Ok(Self {
            pid,
            puppet,
            memory,
            scratch,
            before,
        })
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<u64, Refusal> {
        let at = self.scratch + offset;
        self.memory
            .write_all_at(bytes, at)
            .map_err(Refusal::because("the program's stack"))?;
        Ok(at)
    }

    fn get<const N: usize>(&self, offset: u64) -> Result<[u8; N], Refusal> {
        let mut bytes = [0; N];
        self.memory
            .read_exact_at(&mut bytes, self.scratch + offset)
            .map_err(Refusal::because("the program's stack"))?;
        Ok(bytes)
    }

    /// A struct iovec.
    fn put_range(&self, start: u64, len: u64) -> Result<u64, Refusal> {
        let range = [start.to_ne_bytes(), len.to_ne_bytes()].concat();
        self.put(RANGE, &range)
    }

    fn call(&self, number: libc::c_long, arguments: [u64; 4]) -> Result<i64, Refusal> {
        Ok(match self.puppet.call(number, arguments)? {
            Ok(value) => value.cast_signed(),
            Err(errno) => -i64::from(errno.raw_os_error()),
        })
    }

    /// The same for a call that must succeed before the pin is tried.
    fn prepare(
        &self,
        what: &str,
        number: libc::c_long,
        arguments: [u64; 4],
    ) -> Result<u64, Refusal> {
        self.puppet
            .call(number, arguments)?
            .map_err(Refusal::because(what))
    }

    fn close(&self, fd: u64) {
        let _ = self.puppet.call(libc::SYS_close, [fd, 0, 0, 0]);
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let _ = self.memory.write_all_at(&self.before, self.scratch);
    }
}

fn broken(refusal: Refusal) -> Broken {
    Broken(refusal.what)
}

/// The pages go into a pipe by vmsplice(2), and are read there.
pub(super) fn vmsplice(pid: i32, start: u64, len: u64) -> Result<Pinned, Broken> {
    let run = || {
        let hand = Hand::of(pid)?;
        let answer = hand.put(ANSWER, &[0; 8])?;
        let close_on_exec = libc::O_CLOEXEC as u64;
        hand.prepare("pipe2", libc::SYS_pipe2, [answer, close_on_exec, 0, 0])?;
        let [a, b, c, d, e, f, g, h] = hand.get::<8>(ANSWER)?;
        let [reads, writes] = [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes);
        let range = hand.put_range(start, len)?;
        let result = hand.call(libc::SYS_vmsplice, [u64::from(writes), range, 1, 0]);
        let bytes = match result {
            Ok(1..) => drain(hand.pid, reads),
            _ => Ok(Vec::new()),
        };
        hand.close(u64::from(reads));
        hand.close(u64::from(writes));
        Ok((bytes?, result?))
    };
    run().map_err(broken)
}

/// What is in a pipe of the process's.
fn drain(pid: i32, reads: u32) -> Result<Vec<u8>, Refusal> {
    let path = format!("/proc/{pid}/fd/{reads}");
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let pipe = rustix::fs::open(path, flags, Mode::empty());
    let pipe = pipe.map_err(Refusal::because("the program's pipe"))?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(got @ 1..) = rustix::io::read(&pipe, &mut piece) {
        bytes.extend_from_slice(piece.get(..got).unwrap_or_default());
    }
    Ok(bytes)
}

/// The pages are written to a new file with O_DIRECT.
pub(super) fn direct(pid: i32, start: u64, len: u64, path: &Path) -> Result<Pinned, Broken> {
    let run = || {
        let hand = Hand::of(pid)?;
        let mut name = path.as_os_str().as_bytes().to_vec();
        name.push(0);
        if name.len() > SCRATCH {
            return Err(Refusal::new("the name of the directory is too long"));
        }
        let name = hand.put(0, &name)?;
        let flags =
            libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_DIRECT | libc::O_CLOEXEC;
        let fd = hand.call(libc::SYS_open, [name, flags as u64, 0o600, 0])?;
        let Ok(fd) = u64::try_from(fd) else {
            // No such file system, as far as the attacker is concerned.
            return Ok((Vec::new(), -i64::from(Errno::OPNOTSUPP.raw_os_error())));
        };
        let result = hand.call(libc::SYS_pwrite64, [fd, start, len, 0]);
        hand.close(fd);
        Ok((std::fs::read(path).unwrap_or_default(), result?))
    };
    let pinned = run().map_err(broken);
    let _ = std::fs::remove_file(path);
    pinned
}

/// The pages are registered as an io_uring buffer. The ring is taken, and the buffer written from
/// there into a pipe of this process's.
pub(super) fn io_uring(pid: i32, start: u64, len: u64) -> Result<Pinned, Broken> {
    let run = || {
        let hand = Hand::of(pid)?;
        let parameters = hand.put(ANSWER, &[0; peek::Ring::PARAMETERS])?;
        let ring = hand.call(libc::SYS_io_uring_setup, [1, parameters, 0, 0])?;
        let Ok(ring) = u64::try_from(ring) else {
            return Ok((Vec::new(), -i64::from(Errno::OPNOTSUPP.raw_os_error())));
        };
        let parameters = hand.get::<{ peek::Ring::PARAMETERS }>(ANSWER)?;
        let range = hand.put_range(start, len)?;
        const REGISTER_BUFFERS: u64 = 0;
        let register = [ring, REGISTER_BUFFERS, range, 1];
        let result = hand.call(libc::SYS_io_uring_register, register);
        let pinned = match result {
            Ok(0) => written(pid, ring, &parameters, start, len),
            Ok(refused) => Ok((Vec::new(), refused)),
            Err(refusal) => Err(refusal),
        };
        hand.close(ring);
        pinned
    };
    run().map_err(broken)
}

/// What a ring of the process's writes from its registered buffer.
fn written(
    pid: i32,
    ring: u64,
    parameters: &[u8; peek::Ring::PARAMETERS],
    start: u64,
    len: u64,
) -> Result<Pinned, Refusal> {
    let process = peek::process_descriptor(pid).map_err(Refusal::because("pidfd_open"))?;
    let number = i32::try_from(ring).unwrap_or(-1);
    let file = peek::take_descriptor(process.as_fd(), number)
        .map_err(Refusal::because("pidfd_getfd of the ring"))?;
    let ring = peek::Ring::taken(file, parameters);
    let (reads, writes) = rustix::pipe::pipe().map_err(Refusal::because("a pipe"))?;
    let len = u32::try_from(len).unwrap_or(0);
    let result = ring.write_fixed(&writes, start as *const u8, len);
    drop(writes);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut File::from(reads), &mut bytes)
        .map_err(Refusal::because("the pipe"))?;
    Ok(match result {
        Ok(written) => (bytes, i64::try_from(written).unwrap_or(i64::MAX)),
        Err(errno) => (bytes, -i64::from(errno.raw_os_error())),
    })
}
