//! What stands outside of the guest: who asks there is told what its physical memory holds.
//!
//! A test in the guest writes a line to its third serial port, `look START SIZE BYTES`: numbers in
//! decimal, bytes in hex, each with all bits turned around, so that the guest's own memory does not hold
//! what is looked for. QEMU saves that range, past everything that the guest's kernel could hide, and
//! the answer is `found N` or `error WHY`. Occurrences do not overlap.

use memchr::memmem;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The port's file in the guest.
pub(super) const PORT: &str = "/dev/ttyS2";
/// How much of a saved range is searched at once.
const CHUNK: usize = 8 << 20;

/// Sockets and files of one run. The sockets' paths must be short (108 bytes), so they are not in the cache.
#[derive(Debug)]
pub(super) struct Outside {
    directory: tempfile::TempDir,
}

impl Outside {
    pub(super) fn new() -> Result<Self, String> {
        let directory =
            tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?;
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// QEMU's arguments for it: the third serial port and the monitor.
    pub(super) fn arguments(&self) -> [String; 6] {
        let socket = |name: &str| {
            let path = self.path(name);
            format!("path={},server=on,wait=off", path.display())
        };
        [
            "-chardev".to_owned(),
            format!("socket,id=outside,{}", socket("port")),
            "-serial".to_owned(),
            "chardev:outside".to_owned(),
            "-qmp".to_owned(),
            format!("unix:{},server=on,wait=off", self.path("qmp").display()),
        ]
    }

    /// Answers until the guest is gone.
    pub(super) fn serve(&self) -> JoinHandle<Result<(), String>> {
        let (port, qmp) = (self.path("port"), self.path("qmp"));
        let saved = self.path("memory");
        thread::spawn(move || {
            let port = connect(&port)?;
            let mut monitor = Monitor::connect(&qmp)?;
            let mut answers = port.try_clone().map_err(because("the guest's port"))?;
            for line in BufReader::new(port).lines() {
                let Ok(line) = line else { break };
                let answer = match look(&mut monitor, &saved, line.trim()) {
                    Ok(found) => format!("found {found}\n"),
                    Err(why) => format!("error {why}\n"),
                };
                if answers.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
            Ok(())
        })
    }
}

fn because<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// QEMU makes its sockets as it starts.
fn connect(path: &Path) -> Result<UnixStream, String> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if start.elapsed() > Duration::from_secs(60) => {
                return Err(format!("{}: {error}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// QEMU's machine protocol (docs/interop/qmp-spec.rst): a line of JSON each way.
struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(path: &Path) -> Result<Self, String> {
        let mut monitor = Self {
            lines: BufReader::new(connect(path)?),
        };
        let mut greeting = String::new();
        monitor
            .lines
            .read_line(&mut greeting)
            .map_err(because("QEMU's greeting"))?;
        monitor.run(&serde_json::json!({ "execute": "qmp_capabilities" }))?;
        Ok(monitor)
    }

    fn run(&mut self, command: &serde_json::Value) -> Result<(), String> {
        let text = format!("{command}\n");
        self.lines
            .get_mut()
            .write_all(text.as_bytes())
            .map_err(because("QEMU's monitor"))?;
        loop {
            let mut line = String::new();
            let read = self
                .lines
                .read_line(&mut line)
                .map_err(because("QEMU's monitor"))?;
            if read == 0 {
                return Err("QEMU's monitor is gone".to_owned());
            }
            let answer: serde_json::Value =
                serde_json::from_str(&line).map_err(because("QEMU's answer"))?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                return Err(format!("QEMU: {error}"));
            }
            // An event.
        }
    }
}

/// One question.
fn look(monitor: &mut Monitor, saved: &Path, question: &str) -> Result<usize, String> {
    let words: Vec<&str> = question.split_whitespace().collect();
    let ["look", start, size, bytes] = words.as_slice() else {
        return Err(format!("not understood: {question}"));
    };
    let number = |text: &str| text.parse::<u64>().map_err(because(text));
    let pattern = turned(bytes)?;
    if pattern.is_empty() {
        return Err("nothing to look for".to_owned());
    }
    monitor.run(&serde_json::json!({
        "execute": "pmemsave",
        "arguments": { "val": number(start)?, "size": number(size)?, "filename": saved },
    }))?;
    let file = File::open(saved).map_err(because("the saved memory"))?;
    let found = count(file, &pattern).map_err(because("the saved memory"));
    let _ = std::fs::remove_file(saved);
    found
}

/// Bytes out of hex, with all bits turned around.
fn turned(hex: &str) -> Result<Vec<u8>, String> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err("half a byte".to_owned());
    }
    digits
        .chunks(2)
        .map(|pair| {
            let text = std::str::from_utf8(pair).map_err(because("hex"))?;
            let byte = u8::from_str_radix(text, 16).map_err(because("hex"))?;
            Ok(!byte)
        })
        .collect()
}

/// How often the pattern is in there.
fn count(mut from: impl Read, pattern: &[u8]) -> std::io::Result<usize> {
    let mut window: Vec<u8> = Vec::new();
    let mut found = 0;
    loop {
        let before = window.len();
        from.by_ref().take(CHUNK as u64).read_to_end(&mut window)?;
        if window.len() == before {
            return Ok(found);
        }
        let mut after = 0;
        for at in memmem::find_iter(&window, pattern) {
            found += 1;
            after = at + pattern.len();
        }
        // The beginning of one may be at the end.
        let kept = after.max(window.len().saturating_sub(pattern.len() - 1));
        window.drain(..kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_counted_across_chunks_and_once_each() {
        let mut bytes = vec![0; 2 * CHUNK + 100];
        for at in [0, 10, CHUNK - 3, 2 * CHUNK, bytes.len() - 6] {
            bytes[at..at + 6].copy_from_slice(b"needle");
        }
        assert_eq!(count(bytes.as_slice(), b"needle").unwrap(), 5);
        assert_eq!(count(bytes.as_slice(), b"needles").unwrap(), 0);
        assert_eq!(count(&b"aaaaa"[..], b"aa").unwrap(), 2);
    }

    #[test]
    fn what_is_asked_for_comes_turned_around() {
        assert_eq!(turned("ff00a5").unwrap(), [0, 0xff, 0x5a]);
        assert!(turned("f").is_err() && turned("zz").is_err());
    }
}
