//! What another process sees of a C program's secrets: nothing, by ways that show it all that is plain.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use strongroom::keeper::{self, SECRETMEM};
use support::Workshop;

const SECRET: usize = 64;

/// `put_secret` of tests/programs/check.h.
fn secret(seed: u32) -> [u8; SECRET] {
    std::array::from_fn(|i| {
        let i = i as u32;
        ((i + seed) * 151 + i * i * 7 + 43) as u8
    })
}

/// The program, which runs until it is dropped.
struct Watched {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Watched {
    fn start(workshop: &Workshop) -> Self {
        let mut child = workshop
            .command(workshop.program("watched"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            input,
            output: BufReader::new(output),
        }
    }

    /// What is where at the next stage.
    fn stage(&mut self) -> Vec<(String, u64)> {
        let mut places = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the program ended: {:?}", self.child.wait());
            if line == "go?\n" {
                return places;
            }
            let (name, address) = line.trim_end().split_once(" 0x").unwrap();
            places.push((name.to_owned(), u64::from_str_radix(address, 16).unwrap()));
        }
    }

    fn go(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    fn by_mem(&self, address: u64) -> io::Result<[u8; SECRET]> {
        let mut bytes = [0; SECRET];
        let mem = File::open(format!("/proc/{}/mem", self.child.id())).unwrap();
        mem.read_exact_at(&mut bytes, address)?;
        Ok(bytes)
    }

    fn by_vm_readv(&self, address: u64) -> io::Result<[u8; SECRET]> {
        let mut bytes = [0u8; SECRET];
        let local = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: SECRET,
        };
        let remote = libc::iovec {
            iov_base: address as *mut _,
            iov_len: SECRET,
        };
        let pid = self.child.id() as i32;
        // SAFETY: `local` describes `bytes`; the remote addresses are the kernel's to check.
        match unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) } {
            -1 => Err(io::Error::last_os_error()),
            n => {
                assert_eq!(n, SECRET as isize);
                Ok(bytes)
            }
        }
    }

    /// How often the bytes are in what /proc/PID/mem gives.
    fn count(&self, wanted: &[u8]) -> usize {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap();
        let mem = File::open(format!("/proc/{}/mem", self.child.id())).unwrap();
        let mut page = [0; 4096];
        let mut count = 0;
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let range =
                u64::from_str_radix(start, 16).unwrap()..u64::from_str_radix(end, 16).unwrap();
            for at in range.step_by(page.len()) {
                if mem.read_exact_at(&mut page, at).is_ok() {
                    count += page.windows(wanted.len()).filter(|w| *w == wanted).count();
                }
            }
        }
        count
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nothing_of_a_secret_is_read_from_outside_before_or_after_it_is_freed() {
    if let Err(reason) = keeper::probe(SECRETMEM) {
        return support::skip(&reason.to_string());
    }
    let workshop = Workshop::new();
    let mut watched = Watched::start(&workshop);

    // The control: what is to be concealed is still plain, and either way leads to it.
    let places = watched.stage();
    assert_eq!(places.len(), 2);
    for ((_, address), seed) in places.into_iter().zip([1, 0]) {
        assert_eq!(watched.by_mem(address).unwrap(), secret(seed));
        assert_eq!(watched.by_vm_readv(address).unwrap(), secret(seed));
        assert_eq!(watched.count(&secret(seed)), 1);
    }
    watched.go();

    let places = watched.stage();
    assert_eq!(places.len(), 7);
    for (name, address) in places {
        if name == "plain" {
            assert_eq!(watched.by_mem(address).unwrap(), secret(1));
            assert_eq!(watched.by_vm_readv(address).unwrap(), secret(1));
        } else {
            let errno = |result: io::Result<_>| result.unwrap_err().raw_os_error();
            assert_eq!(errno(watched.by_mem(address)), Some(libc::EIO));
            assert_eq!(errno(watched.by_vm_readv(address)), Some(libc::EFAULT));
        }
    }
    // Nor is a copy anywhere else: not where the concealed pages were, either.
    assert_eq!(
        (watched.count(&secret(0)), watched.count(&secret(1))),
        (0, 1)
    );
    watched.go();

    // The program itself has checked that its freed blocks are zero, and that malloc's are not.
    assert_eq!(watched.stage(), []);
    assert_eq!(
        (watched.count(&secret(0)), watched.count(&secret(1))),
        (0, 0)
    );
    assert_eq!(
        watched.count(&secret(2)),
        1,
        "malloc's free leaves what was there"
    );
    watched.go();
    assert!(watched.child.wait().unwrap().success());
}
