//! A victim as its attackers hold it: a process with a secret at a known place, which ends with
//! the handle.

use super::dialogue::PATIENCE;
use super::partner::Partner;
use super::program::{Needle, NotFound, Place, Program, Running};
use super::setup::Ground;
use super::{Broken, Loot, Outcome, Owner};
use crate::masked;
use rustix::process::{Pid, Signal};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use strongroom_sys::page_floor;

/// A running victim. It ends with this value.
#[derive(Debug)]
pub struct Captive {
    life: Life,
    owner: Owner,
    pid: i32,
    /// Where secrets are: one, or for a program several.
    places: Vec<Place>,
    /// Which of them is attacked.
    current: usize,
    ground: Ground,
}

#[derive(Debug)]
enum Life {
    Partner(Partner),
    Program(Running),
}

impl Captive {
    pub(super) fn start(ground: &Ground, owner: Owner, command: Command) -> Result<Self, Broken> {
        let lent = ground.lend(owner);
        let (partner, place) = Partner::start(command, owner)?;
        drop(lent);
        Ok(Self {
            owner,
            pid: partner.pid(),
            life: Life::Partner(partner),
            places: vec![place],
            current: 0,
            ground: ground.clone(),
        })
    }

    pub(super) fn of_program(
        ground: &Ground,
        program: &Program,
        level: Option<&str>,
        receipt: Option<&Path>,
    ) -> Result<Self, NotFound> {
        let (running, places) = Running::start(ground, program, level, receipt)?;
        Ok(Self {
            pid: running.pid(),
            life: Life::Program(running),
            owner: Owner::Process,
            places,
            current: 0,
            ground: ground.clone(),
        })
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    fn place(&self) -> Option<&Place> {
        self.places.get(self.current)
    }

    /// Where the secret is.
    pub fn address(&self) -> usize {
        self.place().map_or(0, |place| place.address)
    }

    /// What is there.
    pub fn secret(&self) -> &[u8] {
        self.place().map_or(&[], |place| &place.secret)
    }

    /// Where the page begins that the secret is in.
    pub fn page(&self) -> usize {
        page_floor(self.address())
    }

    /// All the places: address and secret.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let places = self.places.iter();
        places.map(|place| (place.address, place.secret.as_slice()))
    }

    /// The secrets, each once.
    pub(super) fn secrets(&self) -> Vec<&[u8]> {
        let mut secrets: Vec<_> = self.places().map(|(_, secret)| secret).collect();
        secrets.sort_unstable();
        secrets.dedup();
        secrets
    }

    /// How many places there are of a program's needle.
    pub(super) fn count_of(&self, needle: usize) -> usize {
        let of_needle = |place: &&Place| place.needle == needle;
        self.places.iter().filter(of_needle).count()
    }

    /// How many places there are.
    pub(super) fn count(&self) -> usize {
        self.places.len()
    }

    /// From now on the secret is that of this place.
    pub(super) fn turn_to(&mut self, place: usize) {
        self.current = place;
    }

    /// Whether it is a program that takes no part.
    pub(super) fn is_program(&self) -> bool {
        matches!(self.life, Life::Program(_))
    }

    /// Whether its secret is a guest's, which need not be at the address: there is where the monitor
    /// would see the guest's page.
    pub(super) fn is_monitor(&self) -> bool {
        self.owner == Owner::Guest
    }

    /// Has a monitor look for its guest's secret itself.
    pub(super) fn look(&mut self, way: &str) -> Result<Outcome, Broken> {
        // What it looks for must not be in its own memory already.
        let masked = masked::of(self.secret());
        self.send(format!("look {way}\n").as_bytes())?;
        self.send(&masked)?;
        let mut loot = Vec::new();
        loop {
            let line = self.line()?;
            match Loot::parse(&line) {
                Some(one) => loot.push(one),
                None if line == "looked" && !loot.is_empty() => return Ok(Loot::sum(&loot)),
                None => return Err(Broken(format!("the monitor says: {line}"))),
            }
        }
    }

    /// Whether no earlier place had the same secret.
    pub(super) fn is_first_of_its_secret(&self) -> bool {
        let mut before = self.places.iter().take(self.current);
        before.all(|place| place.secret != self.secret())
    }

    /// The attacked place in words, where it needs any.
    pub(super) fn whereabouts(&self) -> String {
        match self.place() {
            Some(place) if place.mapping.is_empty() => format!("at {:#x}", place.address),
            Some(place) => format!("at {:#x} in {}", place.address, place.mapping),
            None => String::new(),
        }
    }

    /// A program's other processes.
    pub(super) fn others(&self) -> Vec<i32> {
        match &self.life {
            Life::Partner(_) => Vec::new(),
            Life::Program(running) => running.others(&self.ground),
        }
    }

    /// Looks where a program's secrets are by now.
    pub(super) fn look_again(&mut self, needles: &[Needle]) -> Result<(), Broken> {
        if let Life::Program(running) = &self.life {
            self.places = running.places(needles)?;
            self.current = 0;
        }
        Ok(())
    }

    /// Where it works.
    pub(super) fn directory(&self) -> &Path {
        match &self.life {
            Life::Partner(_) => &self.ground.directory,
            Life::Program(running) => running.directory(),
        }
    }

    pub(super) fn is_attacked_by_root(&self) -> bool {
        self.ground.is_root()
    }

    /// Has the victim look whether the secret is where it says; a program is made to show it.
    ///
    /// # Errors
    /// Where it is not, or the victim does not answer.
    pub fn prove(&mut self) -> Result<(), Broken> {
        let gone = || Broken("the secret is not where it was said to be".to_owned());
        let place = self.places.get(self.current).ok_or_else(gone)?;
        let there = match &mut self.life {
            Life::Partner(partner) => partner.shows(place)?,
            Life::Program(running) => running.shows(place)?,
        };
        if there { Ok(()) } else { Err(gone()) }
    }

    fn partner(&mut self) -> Result<&mut Partner, Broken> {
        match &mut self.life {
            Life::Partner(partner) => Ok(partner),
            Life::Program(_) => Err(Broken("the program takes no part".to_owned())),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.partner()?.dialogue.send(bytes)
    }

    /// Sends a command and returns the line that answers it.
    pub(super) fn ask(&mut self, command: &str) -> Result<String, Broken> {
        self.partner()?.dialogue.ask(command)
    }

    /// Sends a command that is answered by pages, and returns those and the call's result.
    pub(super) fn pages(&mut self, command: &str) -> Result<(Vec<u8>, i64), Broken> {
        self.partner()?.dialogue.pages(command)
    }

    pub(super) fn line(&mut self) -> Result<String, Broken> {
        self.partner()?.dialogue.line()
    }

    /// Waits until it has ended by itself.
    pub(super) fn ended(&mut self) -> Result<ExitStatus, Broken> {
        self.partner()?.ended()
    }

    /// Kills it, and returns once it is gone.
    pub(super) fn kill(&mut self) -> Result<(), Broken> {
        match &mut self.life {
            Life::Partner(partner) => partner.kill(),
            Life::Program(running) => running.end(Signal::KILL).map(|_| ()),
        }
    }

    /// Has it end by SIGABRT; how it ended is not known of a process that is somebody else's child.
    pub(super) fn abort(&mut self) -> Result<Option<ExitStatus>, Broken> {
        match &mut self.life {
            Life::Partner(partner) => {
                partner.dialogue.send(b"abort\n")?;
                partner.ended().map(Some)
            }
            Life::Program(running) => running.end(Signal::ABORT),
        }
    }

    /// Asks a program to end, so that it writes its receipt.
    pub(super) fn end_gently(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        if let Life::Program(running) = &mut self.life {
            running.end_gently(PATIENCE);
        }
    }

    /// Lifts the victim's limit on core dumps, from outside.
    pub(super) fn allow_core(&self) -> Result<(), rustix::io::Errno> {
        use rustix::process::{Resource, Rlimit, prlimit};
        let pid = Pid::from_raw(self.pid);
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        prlimit(pid, Resource::Core, unlimited).map(|_| ())
    }

    /// The victim's hard limit on core dumps, as /proc shows it, is 0.
    pub(super) fn may_not_dump(&self) -> bool {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.pid));
        limits.is_ok_and(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("Max core file size"))
                .any(|line| line.split_whitespace().nth(1) == Some("0"))
        })
    }

    /// Lets a thief look for the secret, as the victim's user or as root.
    pub(super) fn rob(&mut self, way: &str, root: bool) -> Result<Outcome, Broken> {
        self.rob_process(self.pid, way, root)
    }

    /// The same in one of the [`Captive::others`].
    pub(super) fn rob_process(
        &mut self,
        pid: i32,
        way: &str,
        root: bool,
    ) -> Result<Outcome, Broken> {
        let broken = |error: io::Error| Broken(format!("the thief cannot be started: {error}"));
        let mut thief = self
            .ground
            .start(&self.ground.command, root)
            .arg("thief")
            .arg(way)
            .args([pid.to_string(), self.address().to_string()])
            .arg(self.secret().len().to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(broken)?;
        if let Some(mut stdin) = thief.stdin.take() {
            let _ = stdin.write_all(self.secret());
        }
        let status = wait(&mut thief)?;
        let mut text = String::new();
        if let Some(mut stdout) = thief.stdout.take() {
            stdout.read_to_string(&mut text).map_err(broken)?;
        }
        let loot: Option<Vec<Loot>> = text.lines().map(Loot::parse).collect();
        match loot {
            Some(loot) if status.success() && !loot.is_empty() => Ok(Loot::sum(&loot)),
            _ => Err(Broken(format!("the thief failed ({status})"))),
        }
    }
}

/// Waits for a child that should end soon; one that does not is killed.
pub(super) fn wait(child: &mut Child) -> Result<ExitStatus, Broken> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if start.elapsed() > 2 * PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Broken("it did not end in time".to_owned()));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(Broken(format!("it cannot be waited for: {error}"))),
        }
    }
}
