//! The victims, by name.

use crate::victim::Kind;

/// Whose the secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The process's itself.
    Process,
    /// That of a guest which the process runs.
    Guest,
}

impl Owner {
    /// The victims in the order of the report.
    pub(super) const ALL: [Owner; 2] = [Owner::Process, Owner::Guest];

    /// The control of an attack that is made on both: a process that is named, or the ordinary guest.
    pub(super) fn control(self, process: &'static str) -> &'static str {
        match self {
            Owner::Process => process,
            Owner::Guest => "guest-plain",
        }
    }
}

/// What a victim is and how it is started.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) subject: Subject,
    pub(super) owner: Owner,
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
    /// Whether it is strongroom's, and has a receipt.
    pub(super) fn is_kept(&self) -> bool {
        self.name.starts_with("strongroom-")
    }

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
            owner: Owner::Process,
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

/// A victim that the caller brings. Where its name says that it is strongroom's, it tells its receipt itself.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Its name in the table.
    pub name: &'static str,
    /// What `strongroom victim` is told to be it.
    pub argument: &'static str,
    /// Whose its secret is.
    pub owner: Owner,
    /// The level of strongroom's that it stands for.
    pub level: Option<&'static str>,
}

impl From<Visitor> for Spec {
    fn from(visitor: Visitor) -> Self {
        Self {
            name: visitor.name,
            subject: Subject::Partner(visitor.argument),
            owner: visitor.owner,
            level: visitor.level,
            run: None,
            optional: true,
        }
    }
}
