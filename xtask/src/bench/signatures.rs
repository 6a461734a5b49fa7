//! Signatures by agents: gpg-agent and ssh-agent.
//!
//! Both of a kind serve at once, one plain and one protected, and answer requests on one
//! connection each: what is measured is the agent's work and the way there and back.

use super::process::{
    Daemon, Service, copy_directory, must_be_protected, output, processor_time, wait_for,
};
use super::report::{Group, Row};
use super::samples::{Samples, Side};
use super::{Bench, Result, served};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const METHOD: &str = "\
A plain and a protected agent serve at the same time. A client of their protocols (`xtask/src/bench/signatures.rs`) keeps one \
connection to each and asks for one signature after another, in turns of a quarter of a second. Time is the \
median by the clock; *processor* is the mean of what the agent itself used. `gpg --sign` is the whole command, unprotected, with the agent behind it.";

const TURN: Duration = Duration::from_millis(250);

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let mut rows = Vec::new();
    gpg(bench, &mut rows)?;
    ssh(bench, &mut rows)?;
    Ok(Group {
        plot: None,
        title: "Signatures",
        method: METHOD,
        rows,
        notes: Vec::new(),
    })
}

/// Who signs when asked.
trait Signer {
    fn sign(&mut self) -> Result<()>;
    fn pid(&self) -> u32;
}

/// Has both sign in turns.
fn compare(
    bench: &Bench,
    what: &str,
    rows: &mut Vec<Row>,
    [mut plain, mut protected]: [impl Signer; 2],
) -> Result<()> {
    let plain: Side<'_, _> = Box::new(|| turn(&mut plain));
    let protected: Side<'_, _> = Box::new(|| turn(&mut protected));
    rows.extend(served::compare(what, bench.rounds, [plain, protected])?);
    Ok(())
}

/// Milliseconds a signature: by the clock, the median, as other work interrupts some; and of the
/// agent's processor time, the mean.
fn turn(signer: &mut impl Signer) -> Result<[f64; 2]> {
    let (begin, used) = (Instant::now(), processor_time(signer.pid())?);
    let mut times = Samples::default();
    while begin.elapsed() < TURN {
        let start = Instant::now();
        signer.sign()?;
        times.0.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let used = processor_time(signer.pid())? - used;
    Ok([times.median(), used / 1e6 / times.0.len() as f64])
}

// --- gpg-agent

fn gpg(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let workshop = &bench.workshop;
    let first = workshop.directory("gpg-plain")?;
    let plain = GpgAgent::start(workshop.plain("gpg-agent"), &first)?;
    for kind in ["rsa3072", "ed25519"] {
        output(gpg_command(&first).args([
            "--passphrase",
            "",
            "--quick-generate-key",
            kind,
            kind,
            "sign",
            "never",
        ]))?;
    }
    let second = workshop.path().join("gpg-protected");
    copy_directory(&first, &second)?;
    let protected = GpgAgent::start(workshop.protected("gpg-agent"), &second)?;
    must_be_protected(protected.daemon.pid())?;
    for kind in ["rsa3072", "ed25519"] {
        let grip = keygrip(&first, kind)?;
        compare(
            bench,
            &format!("gpg-agent, {kind}"),
            rows,
            [plain.signer(&grip)?, protected.signer(&grip)?],
        )?;
    }
    let sign = |home: &Path, agent: &GpgAgent| {
        let mut command = gpg_command(home);
        command.args([
            "--local-user",
            "ed25519",
            "--output",
            "-",
            "--sign",
            "/etc/passwd",
        ]);
        GpgSign {
            command,
            pid: agent.daemon.pid(),
        }
    };
    compare(
        bench,
        "gpg --sign, ed25519",
        rows,
        [sign(&first, &plain), sign(&second, &protected)],
    )
}

fn gpg_command(home: &Path) -> Command {
    let mut gpg = Command::new("gpg");
    gpg.arg("--homedir").arg(home).args([
        "--no-autostart",
        "--batch",
        "--quiet",
        "--yes",
        "--pinentry-mode",
        "loopback",
    ]);
    gpg
}

/// The name that gpg-agent knows a key by.
fn keygrip(home: &Path, user: &str) -> Result<String> {
    let text =
        output(gpg_command(home).args(["--with-colons", "--with-keygrip", "--list-keys", user]))?;
    text.lines()
        .find(|line| line.starts_with("grp:"))
        .and_then(|line| line.split(':').nth(9))
        .map(str::to_owned)
        .ok_or_else(|| format!("gpg lists no keygrip of {user}").into())
}

struct GpgAgent {
    daemon: Daemon,
    socket: PathBuf,
}

impl GpgAgent {
    /// Starts an agent, which goes into the background.
    fn start(mut agent: Command, home: &Path) -> Result<Self> {
        agent.arg("--homedir").arg(home);
        output(agent.args(["--daemon", "--quiet", "--disable-scdaemon"]))?;
        let mut list = Command::new("gpgconf");
        let list = list.arg("--homedir").arg(home);
        let socket = output(list.args(["--list-dirs", "agent-socket"]))?;
        let socket = PathBuf::from(socket.trim_end());
        let mut assuan = Assuan::connect(&socket)?;
        let pid = String::from_utf8(assuan.ask("GETINFO pid")?)?.parse()?;
        Ok(Self {
            daemon: Daemon::of(pid),
            socket,
        })
    }

    fn signer(&self, keygrip: &str) -> Result<GpgSigner> {
        let mut assuan = Assuan::connect(&self.socket)?;
        assuan.ask(&format!("SIGKEY {keygrip}"))?;
        Ok(GpgSigner {
            assuan,
            pid: self.daemon.pid(),
        })
    }
}

/// A connection to gpg-agent: lines, answered by `OK` or `ERR`.
struct Assuan(BufReader<UnixStream>);

impl Assuan {
    fn connect(socket: &Path) -> Result<Self> {
        let mut this = Self(BufReader::new(UnixStream::connect(socket)?));
        this.answer()?;
        Ok(this)
    }

    /// Sends a command; returns its data, still escaped.
    fn ask(&mut self, line: &str) -> Result<Vec<u8>> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let mut line = Vec::new();
            self.0.read_until(b'\n', &mut line)?;
            if line.starts_with(b"OK") {
                return Ok(data);
            }
            match line.strip_prefix(b"D ") {
                Some(more) => data.extend_from_slice(more.strip_suffix(b"\n").unwrap_or(more)),
                None if line.starts_with(b"S ") || line.starts_with(b"#") => {}
                None => {
                    let line = String::from_utf8_lossy(&line);
                    return Err(format!("gpg-agent answers {line:?}").into());
                }
            }
        }
    }
}

struct GpgSigner {
    assuan: Assuan,
    pid: u32,
}

impl Signer for GpgSigner {
    fn sign(&mut self) -> Result<()> {
        self.assuan
            .ask(&format!("SETHASH --hash=sha256 {}", "5A".repeat(32)))?;
        match self.assuan.ask("PKSIGN")?.is_empty() {
            false => Ok(()),
            true => Err("gpg-agent signs nothing".into()),
        }
    }

    fn pid(&self) -> u32 {
        self.pid
    }
}

struct GpgSign {
    command: Command,
    pid: u32,
}

impl Signer for GpgSign {
    fn sign(&mut self) -> Result<()> {
        let result = self.command.stdin(std::process::Stdio::null()).output()?;
        match result.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&result.stderr).into()),
        }
    }

    fn pid(&self) -> u32 {
        self.pid
    }
}

// --- ssh-agent

fn ssh(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let workshop = &bench.workshop;
    let directory = workshop.directory("ssh")?;
    // Debian's is set-group-id, and such a program takes no preload object; a copy is not.
    let program = directory.join("ssh-agent");
    fs::copy("/usr/bin/ssh-agent", &program)?;
    for (kind, bits, what) in [
        ("rsa", "3072", "ssh-agent, RSA-3072"),
        ("ed25519", "256", "ssh-agent, ed25519"),
    ] {
        let key = directory.join(kind);
        let mut keygen = Command::new("ssh-keygen");
        output(
            keygen
                .args(["-q", "-t", kind, "-b", bits, "-N", "", "-f"])
                .arg(&key),
        )?;
        let start = |agent, name: &str| {
            SshAgent::start(agent, &directory.join(format!("{kind}-{name}")), &key)
        };
        let plain = start(workshop.plain(&program), "plain")?;
        let protected = start(workshop.protected(&program), "protected")?;
        must_be_protected(protected.pid())?;
        compare(bench, what, rows, [plain, protected])?;
    }
    Ok(())
}

struct SshAgent {
    service: Service,
    connection: UnixStream,
    request: Vec<u8>,
}

// draft-miller-ssh-agent, 5.1 and 5.3.
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const RSA_SHA2_512: u32 = 4;

impl SshAgent {
    /// Starts an agent and gives it a key.
    fn start(mut agent: Command, socket: &Path, key: &Path) -> Result<Self> {
        let service =
            Service::start(agent.args([OsStr::new("-D"), OsStr::new("-a"), socket.as_os_str()]))?;
        let mut connection = wait_for("ssh-agent", || UnixStream::connect(socket).ok())?;
        output(
            Command::new("ssh-add")
                .arg("-q")
                .arg(key)
                .env("SSH_AUTH_SOCK", socket),
        )?;
        let answer = ask(&mut connection, &[REQUEST_IDENTITIES])?;
        // A count, then each key's blob and comment.
        let blob = match answer.split_first() {
            Some((&IDENTITIES_ANSWER, rest)) => rest.get(4..).and_then(string),
            _ => None,
        };
        let blob = blob.ok_or("ssh-agent names no key")?;
        let mut request = vec![SIGN_REQUEST];
        for part in [blob, &[0x5a; 64]] {
            request.extend_from_slice(&(part.len() as u32).to_be_bytes());
            request.extend_from_slice(part);
        }
        request.extend_from_slice(&RSA_SHA2_512.to_be_bytes());
        Ok(Self {
            service,
            connection,
            request,
        })
    }
}

/// A string as the protocol writes it: its length, then itself.
fn string(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.get(..u32::from_be_bytes(*len) as usize)
}

/// Sends a message and returns the answer.
fn ask(connection: &mut UnixStream, message: &[u8]) -> Result<Vec<u8>> {
    let mut framed = (message.len() as u32).to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    connection.write_all(&framed)?;
    let mut len = [0; 4];
    connection.read_exact(&mut len)?;
    let mut answer = vec![0; u32::from_be_bytes(len) as usize];
    connection.read_exact(&mut answer)?;
    Ok(answer)
}

impl Signer for SshAgent {
    fn sign(&mut self) -> Result<()> {
        match ask(&mut self.connection, &self.request)?.first() {
            Some(&SIGN_RESPONSE) => Ok(()),
            other => Err(format!("ssh-agent answers {other:?} and does not sign").into()),
        }
    }

    fn pid(&self) -> u32 {
        self.service.pid()
    }
}
