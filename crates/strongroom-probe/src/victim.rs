//! The victim: a process with a secret in one buffer, which does what it is told by lines on its
//! standard input.
//!
//! It reads the secret by read(2) straight into the buffer, so that no copy of it is on the stack
//! or the heap, and nothing here allocates once the buffer is there.

use std::alloc::Layout;
use std::fmt::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use strongroom_sys::memory::{self, Advice, Place};
use strongroom_sys::{Errno, PAGE, peek, secret_memory};

/// Where in its page the secret is: past what an allocator writes into freed memory.
pub const OFFSET: usize = 1024;
/// How long the secret is, in bytes.
pub const LENGTH: usize = 64;

/// How a victim keeps its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In memory from malloc.
    Plain,
    /// As libsodium does: mmap, mlock, MADV_DONTDUMP; wiped before it is unmapped.
    Locked,
    /// In memfd_secret memory whose descriptor stays open.
    OpenFd,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Plain, Kind::Locked, Kind::OpenFd];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Locked => "locked",
            Kind::OpenFd => "open-fd",
        }
    }
}

/// The hash by which a victim tells what is in its buffer without showing it (FNV-1a).
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Lives as a victim until it is told `end` or its standard input closes. Returns its exit status.
pub fn live(kind: Kind) -> u8 {
    peek::let_anyone_trace();
    let buffer = match Buffer::new(kind) {
        Ok(buffer) => buffer,
        Err(error) => {
            let _ = say(format_args!("refused {}", error.raw_os_error()));
            return 1;
        }
    };
    let ready = say(format_args!(
        "ready {} {} {LENGTH}",
        strongroom_sys::process::id(),
        buffer.secret() as usize
    ));
    if ready.is_err() || buffer.fill().is_err() {
        return 1;
    }
    let mut line = Line::default();
    while line.read().is_ok() {
        let done = match line.words() {
            ("end", _) => return 0,
            ("hash", _) => say(format_args!("hash {:x}", buffer.hash())),
            ("fork", _) => buffer.fork(),
            ("vmsplice", _) => buffer.vmsplice(),
            ("direct", path) => say(format_args!("direct {}", code(buffer.direct(path)))),
            ("io-uring", _) => buffer.io_uring(),
            ("dump", _) => buffer.dump(),
            ("page-out", _) => {
                // SAFETY: the buffer is a page of ours; this advice keeps its contents.
                let done = unsafe { memory::advise(buffer.start, PAGE, Advice::LinuxPageOut) };
                say(format_args!("MADV_PAGEOUT {}", code(done.map(|()| 0))))
            }
            ("start-heir", _) => start_heir(),
            ("free", _) => {
                buffer.free();
                say(format_args!("freed"))
            }
            ("abort", _) => std::process::abort(),
            _ => say(format_args!("unknown")),
        };
        if done.is_err() {
            return 1;
        }
    }
    0
}

struct Buffer {
    kind: Kind,
    start: *mut u8,
    /// The descriptor that this kind leaves open.
    _file: Option<OwnedFd>,
}

const LAYOUT: Layout = match Layout::from_size_align(PAGE, PAGE) {
    Ok(layout) => layout,
    Err(_) => Layout::new::<u8>(),
};

impl Buffer {
    fn new(kind: Kind) -> Result<Self, Errno> {
        let (start, file) = match kind {
            Kind::Plain => {
                // SAFETY: the layout's size is not 0.
                let start = unsafe { std::alloc::alloc(LAYOUT) };
                if start.is_null() {
                    return Err(Errno::NOMEM);
                }
                (start, None)
            }
            Kind::Locked => {
                // SAFETY: a new mapping replaces nothing.
                let start = unsafe { memory::map_private(Place::Anywhere, PAGE) }?;
                // SAFETY: mapped above.
                unsafe {
                    memory::lock(start, PAGE)?;
                    memory::advise(start, PAGE, Advice::LinuxDontDump)?;
                }
                (start, None)
            }
            Kind::OpenFd => {
                let file = secret_memory::create()?;
                secret_memory::set_length(&file, PAGE)?;
                // SAFETY: a new mapping replaces nothing.
                let start = unsafe { secret_memory::map(&file, Place::Anywhere, PAGE) }?;
                // Open past exec, too, as a descriptor is unless somebody thinks of it.
                rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
                (start, Some(file))
            }
        };
        Ok(Self {
            kind,
            start,
            _file: file,
        })
    }

    fn secret(&self) -> *mut u8 {
        self.start.wrapping_add(OFFSET)
    }

    /// Reads the secret from standard input, straight to where it is to be.
    fn fill(&self) -> Result<(), Errno> {
        let mut done = 0;
        while done < LENGTH {
            let at = self.secret().wrapping_add(done);
            // SAFETY: the buffer is a page, and OFFSET + LENGTH lies within it.
            done += match unsafe { peek::read_into(stdin(), at, LENGTH - done) } {
                Ok(0) => return Err(Errno::PIPE),
                Ok(read) => read,
                Err(Errno::INTR) => 0,
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    fn byte(&self, index: usize) -> u8 {
        // SAFETY: callers stay below LENGTH; volatile, as a child or a parent may have written it.
        unsafe { self.secret().wrapping_add(index).read_volatile() }
    }

    fn set_byte(&self, index: usize, value: u8) {
        // SAFETY: as in `byte`.
        unsafe { self.secret().wrapping_add(index).write_volatile(value) };
    }

    fn hash(&self) -> u64 {
        hash((0..LENGTH).map(|index| self.byte(index)))
    }

    /// The pages themselves into standard output, framed by lines.
    fn vmsplice(&self) -> Result<(), Errno> {
        say(format_args!("pages"))?;
        // SAFETY: the buffer is a page of ours.
        let result = unsafe { peek::vmsplice(stdout(), self.start, PAGE) };
        say(format_args!("\nresult {}", code(result)))
    }

    /// The buffer by write(2) into standard output: what the process itself sees there.
    fn dump(&self) -> Result<(), Errno> {
        say(format_args!("pages"))?;
        let result = peek::write_from(stdout(), self.start as usize, PAGE);
        say(format_args!("\nresult {}", code(result)))
    }

    /// An O_DIRECT write of the buffer.
    fn direct(&self, path: &str) -> Result<usize, Errno> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::DIRECT;
        let mut name = [0u8; 512];
        let name = name.get_mut(..=path.len()).ok_or(Errno::NAMETOOLONG)?;
        name[..path.len()].copy_from_slice(path.as_bytes());
        let name = std::ffi::CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
        let file = rustix::fs::open(name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .map_err(|_| Errno::OPNOTSUPP)?;
        peek::write_from(&file, self.start as usize, PAGE)
    }

    /// A registered io_uring buffer, written from there into standard output.
    fn io_uring(&self) -> Result<(), Errno> {
        let write = || {
            let ring = peek::Ring::new().map_err(|_| Errno::OPNOTSUPP)?;
            // SAFETY: the buffer is a page of ours.
            unsafe { ring.register_buffer(self.start, PAGE) }?;
            ring.write_fixed(stdout(), self.start, PAGE as u32)
        };
        say(format_args!("pages"))?;
        let result = write();
        say(format_args!("\nresult {}", code(result)))
    }

    /// A child that looks for what the parent writes after the fork, and writes itself.
    fn fork(&self) -> Result<(), Errno> {
        let (child_reads, parent_writes) = rustix::pipe::pipe()?;
        let (parent_reads, child_writes) = rustix::pipe::pipe()?;
        let before = [self.byte(0), self.byte(1)];
        // SAFETY: this process has one thread, and the child only reads, writes and exits.
        let child = unsafe { libc::fork() };
        match child {
            -1 => return say(format_args!("fork refused")),
            0 => {
                let mut go = [0u8];
                let _ = rustix::io::read(&child_reads, &mut go);
                let _ = rustix::io::write(&child_writes, b"s");
                // Where the child has no such memory, it ends here by SIGSEGV.
                let seen = self.byte(0) != before[0];
                self.set_byte(1, !before[1]);
                let _ = rustix::io::write(&child_writes, if seen { b"1" } else { b"0" });
                strongroom_sys::process::exit_now(0);
            }
            _ => {}
        }
        drop(child_reads);
        drop(child_writes);
        self.set_byte(0, !before[0]);
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
        strongroom_sys::process::reap(child);
        let child_wrote = self.byte(1) != before[1];
        self.set_byte(0, before[0]);
        self.set_byte(1, before[1]);
        let started = count > 0;
        let survived = count == 2;
        let child_saw = answers[1] == b'1';
        say(format_args!(
            "fork {started} {survived} {child_saw} {child_wrote}"
        ))
    }

    fn free(&self) {
        match self.kind {
            // SAFETY: allocated in `new` with this layout; a victim is told `free` once, and what
            // it is asked afterwards (`dump`) goes through the kernel.
            Kind::Plain => unsafe { std::alloc::dealloc(self.start, LAYOUT) },
            // SAFETY: mapped in `new`; as above.
            Kind::Locked => unsafe {
                for index in 0..PAGE {
                    self.start.wrapping_add(index).write_volatile(0);
                }
                let _ = memory::unmap(self.start, PAGE);
            },
            // SAFETY: mapped in `new`; as above.
            Kind::OpenFd => unsafe {
                let _ = memory::unmap(self.start, PAGE);
            },
        }
    }
}

/// Starts a program that looks through what it inherits, and waits for it.
fn start_heir() -> Result<(), Errno> {
    let status = std::env::current_exe().and_then(|program| {
        let own = strongroom_sys::process::id().to_string();
        std::process::Command::new(program)
            .args(["thief", "inherited", &own, "0"])
            .status()
    });
    say(format_args!(
        "heir {}",
        status.ok().and_then(|status| status.code()).unwrap_or(-1)
    ))
}

fn code(result: Result<usize, Errno>) -> i64 {
    match result {
        Ok(value) => i64::try_from(value).unwrap_or(i64::MAX),
        Err(error) => -i64::from(error.raw_os_error()),
    }
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

fn stdout() -> BorrowedFd<'static> {
    rustix::stdio::stdout()
}

/// A line on standard output, by one write and without allocating.
fn say(text: fmt::Arguments<'_>) -> Result<(), Errno> {
    let mut line = Line::default();
    // A line that is too long is cut; none is.
    let _ = line.write_fmt(text);
    let _ = line.write_char('\n');
    let mut rest = line.bytes.get(..line.len).unwrap_or_default();
    while !rest.is_empty() {
        match rustix::io::write(stdout().as_fd(), rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Line {
    bytes: [u8; 600],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 600],
            len: 0,
        }
    }
}

impl Line {
    /// One line of standard input, byte by byte: nothing is read ahead.
    fn read(&mut self) -> Result<(), Errno> {
        self.len = 0;
        while let Some(place) = self.bytes.get_mut(self.len..=self.len) {
            match rustix::io::read(stdin(), &mut *place) {
                Ok(0) => return Err(Errno::PIPE),
                Ok(_) if *place == *b"\n" => return Ok(()),
                Ok(_) => self.len += 1,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::TOOBIG)
    }

    fn words(&self) -> (&str, &str) {
        let text = self.bytes.get(..self.len).unwrap_or_default();
        let text = std::str::from_utf8(text).unwrap_or_default();
        text.split_once(' ').unwrap_or((text, ""))
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
