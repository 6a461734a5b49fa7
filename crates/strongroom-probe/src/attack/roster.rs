//! The victims, by name.

use crate::victim::Kind;

/// What a victim is and how it is started.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) subject: Subject,
    /// The level of strongroom's that it stands for.
    pub(super) level: Option<&'static str>,
    /// The level of `strongroom run`, where that is around it.
    pub(super) run: Option<&'static str>,
    /// Whether it may be impossible here without anything being broken.
    pub(super) optional: bool,
}

/// What runs as a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// `strongroom victim`, told this: it takes part.
    Partner(&'static str),
    /// The program that the user names.
    Program,
}

impl Spec {
    /// Whether it is here for rows alone whose control it is.
    pub(super) fn is_control_only(&self, among: &[Spec]) -> bool {
        let program = |spec: &Spec| spec.subject == Subject::Program;
        !program(self) && among.iter().any(program)
    }

    /// The user's program, plain and under `run` at each level, and the control that it cannot be.
    pub(super) fn of_program() -> Vec<Spec> {
        let mut usual = Self::usual();
        usual.retain(|spec| spec.name != "locked");
        for spec in &mut usual {
            if spec.name != "open-fd" {
                spec.subject = Subject::Program;
            }
            // Where it does not get its secret under `run`, nothing is proven, and that is said.
            spec.optional |= spec.run.is_some();
        }
        usual
    }

    pub(super) fn usual() -> Vec<Spec> {
        let plain = |name, kind: Kind| Spec {
            name,
            subject: Subject::Partner(kind.name()),
            level: None,
            run: None,
            optional: kind != Kind::Plain,
        };
        let kept = |name, level| Spec {
            level: Some(level),
            run: Some(level),
            ..plain(name, Kind::Plain)
        };
        vec![
            plain("plain", Kind::Plain),
            plain("locked", Kind::Locked),
            plain("open-fd", Kind::OpenFd),
            kept("strongroom-locked", "locked"),
            kept("strongroom-hidden", "hidden"),
        ]
    }
}

/// A victim that the caller brings: a store of its own, which tells its receipt itself.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name in the table.
    pub name: &'static str,
    /// What `strongroom victim` is told to be it.
    pub argument: &'static str,
    /// The level of strongroom's that it stands for.
    pub level: &'static str,
}

impl From<Guest> for Spec {
    fn from(guest: Guest) -> Self {
        Self {
            name: guest.name,
            subject: Subject::Partner(guest.argument),
            level: Some(guest.level),
            run: None,
            optional: true,
        }
    }
}
