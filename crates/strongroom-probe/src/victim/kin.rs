//! A victim's children: one that goes on in its memory, and programs that it starts.

use super::buffer::Buffer;
use super::speech::say;
use std::ffi::CString;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use strongroom_sys::{Errno, process};

/// Whose bytes of the secret are whose to write: enough of them that a match is no chance, and that
/// a child whose memory is all zeros is not taken for one that sees a write.
const PARENTS: Range<usize> = 0..16;
const CHILDS: Range<usize> = 16..32;

/// A child that looks for what the parent writes after the fork, and writes itself.
pub(super) fn fork(buffer: &Buffer<'_>) -> Result<(), Errno> {
    let (child_reads, parent_writes) = rustix::pipe::pipe()?;
    let (parent_reads, child_writes) = rustix::pipe::pipe()?;
    let before: [u8; CHILDS.end] = std::array::from_fn(|index| buffer.byte(index));
    let write = |whose: Range<usize>| whose.for_each(|at| buffer.set_byte(at, !before[at]));
    let written = |mut whose: Range<usize>| whose.all(|at| buffer.byte(at) == !before[at]);
    // SAFETY: this process has one thread, and the child only reads, writes and exits.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return say(format_args!("fork refused")),
        0 => {
            let mut go = [0u8];
            let _ = rustix::io::read(&child_reads, &mut go);
            let _ = rustix::io::write(&child_writes, b"s");
            // Where the child has no such memory, it ends here by SIGSEGV.
            let seen = written(PARENTS);
            write(CHILDS);
            let _ = rustix::io::write(&child_writes, if seen { b"1" } else { b"0" });
            process::exit_now(0);
        }
        _ => {}
    }
    drop(child_reads);
    drop(child_writes);
    write(PARENTS);
    let _ = rustix::io::write(&parent_writes, b"g");
    let mut answers = [0u8; 2];
    let mut count = 0;
    while let Some(rest) = answers.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(&parent_reads, rest) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    process::reap(child);
    let child_wrote = written(CHILDS);
    for (at, byte) in before.into_iter().enumerate() {
        buffer.set_byte(at, byte);
    }
    let started = count > 0;
    let survived = count == 2;
    let child_saw = answers[1] == b'1';
    say(format_args!(
        "fork {started} {survived} {child_saw} {child_wrote}"
    ))
}

/// Starts a program that looks through what it inherits, and waits for it.
pub(super) fn start_heir(secret: usize) -> Result<(), Errno> {
    let status = program().and_then(|program| {
        std::process::Command::new(program)
            .arg("thief")
            .args(arguments("inherited", secret))
            .status()
    });
    say(format_args!(
        "heir {}",
        status.ok().and_then(|status| status.code()).unwrap_or(-1)
    ))
}

fn program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// Way, process, address, length.
fn arguments(way: &str, secret: usize) -> [String; 4] {
    [
        way.to_owned(),
        process::id().to_string(),
        secret.to_string(),
        super::LENGTH.to_string(),
    ]
}

/// Forks; the child forks again, and the grandchild becomes another program, which looks for the
/// secret of its grandparent.
pub(super) fn start_grandchild(secret: usize) -> Result<(), Errno> {
    // What is allocated here is allocated before either fork: the children only call the kernel.
    let text = |text: &[u8]| CString::new(text).map_err(|_| Errno::INVAL);
    let path = program().map_err(|_| Errno::NOENT)?;
    let path = text(path.as_os_str().as_bytes())?;
    let mut words = vec![path.clone(), text(b"thief")?];
    for word in arguments("grandchild", secret) {
        words.push(text(word.as_bytes())?);
    }
    let pointers: Vec<_> = words
        .iter()
        .map(|word| word.as_ptr())
        .chain([std::ptr::null()])
        .collect();
    // SAFETY: this process has one thread; the child only forks, waits and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above; the grandchild only calls exec. Path and arguments end as they must
        // and outlive the call.
        let status = unsafe {
            match libc::fork() {
                0 => {
                    libc::execv(path.as_ptr(), pointers.as_ptr());
                    process::exit_now(127)
                }
                -1 => 126,
                grandchild => status(grandchild),
            }
        };
        process::exit_now(status);
    }
    let status = if child < 0 { -1 } else { status(child) };
    say(format_args!("grandchild {status}"))
}

/// The exit status of a child, -1 where it has none.
fn status(child: i32) -> i32 {
    use rustix::process::{Pid, WaitOptions, waitpid};
    let Some(child) = Pid::from_raw(child) else {
        return -1;
    };
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(Some((_, status))) => return status.exit_status().unwrap_or(-1),
            _ => return -1,
        }
    }
}
