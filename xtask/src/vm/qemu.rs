//! Running a guest in QEMU, in software.

use super::cache::{RunDirectory, because};
use super::kernel::Kernel;
use super::outside::Outside;
use super::transcript::{Told, Transcript};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
/// The swap, in MiB.
const SWAP: u64 = 128;
/// The disk below /var/tmp, in MiB.
const SCRATCH: u64 = 1024;

/// What the guest is made of.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    /// Of [`accelerator`].
    pub(super) accelerator: &'static str,
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    pub(super) append: &'a str,
    /// MiB.
    pub(super) memory: u32,
    pub(super) cpus: u32,
    /// Who answers what the guest asks of its memory, where it may.
    pub(super) outside: Option<&'a Outside>,
    /// NUMA nodes, which share the memory and, in turns, the processors.
    pub(super) nodes: u32,
}

/// How a guest ended.
#[derive(Debug)]
pub(super) enum End {
    /// QEMU ended by itself.
    Ended(Told),
    /// It was killed after its time.
    TimedOut(Told),
}

/// QEMU's version, the first two numbers of it.
fn version() -> Result<(u32, u32), String> {
    let output = Command::new(QEMU)
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    let text = match output {
        Ok(output) if output.status.success() => output.stdout,
        _ => return Err(format!("{QEMU} is not here (Debian: qemu-system-x86)")),
    };
    let text = String::from_utf8_lossy(&text);
    numbers(&text).ok_or_else(|| format!("{QEMU} --version says no version: {text}"))
}

/// The numbers after `version`.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let (_, after) = text.split_once(" version ")?;
    let mut parts = after.split(|sign: char| !sign.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// How the QEMU that is here runs a guest, where there is one.
///
/// Before 8.1 a processor's thread reads code without the lock that who changes that code takes, and may keep
/// what was there before (mended by QEMU's deba78709ae8): a kernel that patches its own code at work then dies of
/// a breakpoint that is no longer there. There the processors take turns.
pub(super) fn accelerator() -> Result<&'static str, String> {
    Ok(if version()? < (8, 1) {
        "tcg,thread=single"
    } else {
        "tcg,thread=multi"
    })
}

impl Machine<'_> {
    /// The memory of a node, in MiB. The first one has more, so that the driver's two ranges are not of one.
    fn share(&self, node: u32) -> u32 {
        let rest = self.memory * 3 / 8;
        match (node, self.nodes - 1) {
            (_, 0) => self.memory,
            (0, others) => self.memory - rest / others * others,
            (_, others) => rest / others,
        }
    }

    /// QEMU with a console into `console`. It is killed as this process ends, by whatever.
    fn command(&self, run: &RunDirectory, console: &Path, tests: &str) -> Result<Command, String> {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", QEMU])
            .args(["-accel", self.accelerator, "-cpu", "max"])
            .args(["-m", &self.memory.to_string()])
            // Processors of one socket are not of several nodes.
            .arg("-smp")
            .arg(match self.nodes {
                1 => self.cpus.to_string(),
                _ => format!("{0},sockets={0}", self.cpus),
            })
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-vga", "none"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", self.append])
            .arg("-chardev")
            .arg(format!("file,id=console,path={}", console.display()))
            .args(["-serial", "chardev:console"])
            .args(["-chardev", tests])
            .args(["-serial", "chardev:tests"]);
        if let Some(outside) = self.outside {
            command.args(outside.arguments());
        }
        for node in 0..self.nodes {
            let memory = self.share(node);
            let cpus: String = (node..self.cpus)
                .step_by(self.nodes as usize)
                .map(|cpu| format!(",cpus={cpu}"))
                .collect();
            command
                .arg("-object")
                .arg(format!("memory-backend-ram,id=node{node},size={memory}M"))
                .arg("-numa")
                .arg(format!("node,nodeid={node},memdev=node{node}{cpus}"));
        }
        for (name, size) in [("swap", SWAP), ("scratch", SCRATCH)] {
            let path = run.disk(name, size)?;
            let path = path.display();
            command
                .arg("-drive")
                .arg(format!(
                    "if=none,id={name},format=raw,cache=unsafe,file={path}"
                ))
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive={name},serial={name}"));
        }
        Ok(command)
    }

    /// Boots it with a person at its shell.
    pub(super) fn interact(&self, run: &RunDirectory, console: &Path) -> Result<(), String> {
        let mut command = self.command(run, console, "stdio,id=tests,signal=off")?;
        let status = command.status().map_err(because(Path::new(QEMU)))?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{QEMU}: {status}"))
        }
    }

    /// Boots it and passes on what its tests write, until it ends or its time is over.
    pub(super) fn run(
        &self,
        run: &RunDirectory,
        console: &Path,
        token: &str,
        timeout: Duration,
        output: Output,
    ) -> Result<End, String> {
        let mut command = self.command(run, console, "stdio,id=tests")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(because(Path::new(QEMU)))?;
        let mut child = Killed(child);
        let server = self.outside.map(Outside::serve);
        let stdout = child.0.stdout.take();
        let transcript = Transcript::new(token);
        let reader = thread::spawn(move || listen(stdout, transcript, output));
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.0.try_wait().map_err(because(Path::new(QEMU)))? {
                break Some(status);
            }
            if start.elapsed() >= timeout {
                break None;
            }
            thread::sleep(Duration::from_millis(50));
        };
        drop(child);
        if let Some(server) = server {
            match server.join() {
                Ok(Ok(())) => {}
                Ok(Err(why)) => super::say(&format!("nobody answered the guest: {why}")),
                Err(_) => return Err("who answers the guest panicked".to_owned()),
            }
        }
        let told = reader
            .join()
            .map_err(|_| "what the guest wrote was not read".to_owned())?;
        match status {
            Some(status) if status.success() => Ok(End::Ended(told)),
            Some(status) => Err(format!("{QEMU}: {status}")),
            None => Ok(End::TimedOut(told)),
        }
    }
}

/// Kills and awaits the child as it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where what the jobs write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Shown,
    /// Into [`Told::kept`].
    Kept,
}

fn listen(from: Option<impl Read>, mut transcript: Transcript, output: Output) -> Told {
    let mut out = std::io::stdout();
    let mut kept = Vec::new();
    let mut show = |bytes: &[u8]| match output {
        // Whoever stopped listening is no reason to stop the guest.
        Output::Shown => {
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
        Output::Kept => kept.extend_from_slice(bytes),
    };
    if let Some(mut from) = from {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            show(&transcript.take(bytes.get(..read).unwrap_or_default()));
        }
    }
    show(&transcript.finish());
    transcript.told.kept = String::from_utf8_lossy(&kept).into_owned();
    transcript.told
}

/// A console, as far as it is text.
pub(super) fn text(console: &Path) -> Result<String, String> {
    let bytes = std::fs::read(console).map_err(because(console))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}

/// The last lines of a console.
pub(super) fn tail(console: &Path, lines: usize) -> String {
    let text = text(console).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\n";
        assert_eq!(numbers(debian), Some((7, 2)));
        assert_eq!(numbers("QEMU emulator version 10.0.2"), Some((10, 0)));
        assert_eq!(numbers("QEMU emulator version"), None);
    }
}
