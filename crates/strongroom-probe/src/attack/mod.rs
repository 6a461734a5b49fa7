//! Attackers, each bound to one protection, and the proof that they ran.

mod bounds;
mod captive;
mod core_dump;
mod dialogue;
pub mod direct_map;
mod fd;
mod fork;
mod frames;
mod free;
mod heir;
mod idle;
pub mod inject;
mod inside;
mod partner;
mod peek;
mod pin;
mod pinned;
mod pool;
mod program;
mod puppet;
pub mod residue;
mod roster;
pub(crate) mod search;
mod session;
mod setup;
mod stage;
mod swap;
mod sweep;
mod tree;
mod vmm;

pub use captive::Captive;
pub use program::{Needle, NotFound, Program};
pub use roster::{Owner, Visitor};
pub use session::{Attack, Proven, Report, Selection, UnknownName, Verdict, VictimReport};
pub use setup::{Setup, SetupError};

use frames::After;
use std::fmt;
use strongroom_core::Protection;

/// What came of an attack, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran, and did not get the secret.
    Held(String),
    /// It got the secret.
    Leaked(String),
    /// It could not run here.
    Skipped(String),
}

impl Outcome {
    /// What two looks at one thing come to: one that leaked is a leak.
    pub(crate) fn and(self, other: Outcome) -> Outcome {
        use Outcome::{Held, Leaked, Skipped};
        match (self, other) {
            (Leaked(one), Leaked(other)) => Leaked(format!("{one}; {other}")),
            (Leaked(one), _) | (_, Leaked(one)) => Leaked(one),
            (Held(one), Held(other)) => Held(format!("{one}; {other}")),
            (Held(held), Skipped(skipped)) | (Skipped(skipped), Held(held)) => {
                Held(format!("{held} (not counted: {skipped})"))
            }
            (Skipped(one), Skipped(other)) => Skipped(format!("{one}; {other}")),
        }
    }
}

/// The attack itself broke: nothing is proven.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// A program that really tries to break one protection.
pub trait Attacker {
    /// Its name; `peek-root` belongs to the family `peek`.
    fn name(&self) -> &'static str;

    /// What it tries to break.
    fn protection(&self) -> Protection;

    /// What it does, in a few words.
    fn about(&self) -> &'static str;

    /// Which victims it can be made on.
    fn reach(&self) -> Reach {
        Reach::Partner
    }

    /// Whether it is root that attacks.
    fn needs_root(&self) -> bool {
        false
    }

    /// Whether a receipt's word is meant against this adversary, too.
    fn claimable(&self) -> bool {
        true
    }

    /// The victim on which it must succeed, among those whose secret is a process's or a guest's. None
    /// where it is not made on those.
    fn control(&self, owner: Owner) -> Option<&'static str> {
        match owner {
            Owner::Process => Some("plain"),
            Owner::Guest => None,
        }
    }

    /// The ways that must all leak on the control; what it held by another one proves nothing.
    fn ways(&self) -> &'static [&'static str] {
        &[]
    }

    /// How often it is tried on a fresh victim before it counts as held: more than once where luck
    /// has a part in it.
    fn attempts(&self) -> usize {
        1
    }

    /// Tries it.
    ///
    /// # Errors
    /// Where the victim or the attacker itself failed: neither held nor leaked.
    fn attack(&self, victim: &mut Captive) -> Result<Outcome, Broken>;
}

/// Which victims an attack can be made on, and what of them it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only a victim that takes part.
    Partner,
    /// Any process: one place where a secret is, after another.
    Place,
    /// Any process, all of it at once.
    Whole,
    /// The same, and the process ends by it.
    End,
}

/// All of them, in the order of the table.
pub fn attackers() -> Vec<Box<dyn Attacker>> {
    let mut all: Vec<Box<dyn Attacker>> = vec![
        Box::new(peek::Peek { root: false }),
        Box::new(peek::Peek { root: true }),
        Box::new(fd::Fd { root: false }),
        Box::new(fd::Fd { root: true }),
        Box::new(heir::Heir),
        Box::new(pin::Vmsplice),
        Box::new(pin::Direct),
        Box::new(pin::IoUring),
        Box::new(frames::DirectMap),
        Box::new(swap::Swap),
        Box::new(core_dump::Kernel),
        Box::new(core_dump::Gcore),
        Box::new(fork::Fork),
        Box::new(heir::Grandchild),
        Box::new(free::Free),
        Box::new(frames::Residue { after: After::Free }),
        Box::new(frames::Residue { after: After::Exit }),
        Box::new(frames::Residue { after: After::Kill }),
        Box::new(bounds::OverRead),
        Box::new(bounds::OverWrite),
        Box::new(bounds::Dangling),
        Box::new(bounds::DoubleFree),
        Box::new(idle::Idle),
        Box::new(idle::Cache),
        Box::new(puppet::Inject { root: false }),
        Box::new(puppet::Inject { root: true }),
    ];
    all.extend(vmm::ALL.map(|attacker| Box::new(attacker) as Box<dyn Attacker>));
    all
}

/// What one way of a thief's came to. It prints as a line and parses from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loot {
    word: Word,
    way: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Leaked,
    Held,
    Skipped,
}

impl Word {
    const ALL: [(Word, &'static str); 3] = [
        (Word::Leaked, "leaked"),
        (Word::Held, "held"),
        (Word::Skipped, "skipped"),
    ];
}

impl Loot {
    pub(crate) fn leaked(way: impl Into<String>) -> Self {
        let way = way.into();
        Self {
            word: Word::Leaked,
            way,
        }
    }

    pub(crate) fn held(way: impl Into<String>) -> Self {
        let way = way.into();
        Self {
            word: Word::Held,
            way,
        }
    }

    pub(crate) fn skipped(way: impl Into<String>) -> Self {
        let way = way.into();
        Self {
            word: Word::Skipped,
            way,
        }
    }

    /// The same, by another name of the way.
    pub(crate) fn by(self, name: &str) -> Self {
        let rest = self.way.split_once(": ").map(|(_, rest)| rest);
        let way = rest.map_or_else(|| name.to_owned(), |rest| format!("{name}: {rest}"));
        Self { way, ..self }
    }

    fn parse(line: &str) -> Option<Self> {
        let (word, way) = line.split_once(' ')?;
        let (word, _) = Word::ALL.into_iter().find(|(_, name)| *name == word)?;
        let way = way.to_owned();
        Some(Self { word, way })
    }

    /// What several ways come to together: one that leaked is a leak.
    fn sum(all: &[Loot]) -> Outcome {
        let ways = |word| {
            let ways = all.iter().filter(|loot| loot.word == word);
            ways.map(|loot| loot.way.as_str())
                .collect::<Vec<_>>()
                .join("; ")
        };
        let [leaked, held, skipped] = [Word::Leaked, Word::Held, Word::Skipped].map(ways);
        if !leaked.is_empty() {
            Outcome::Leaked(leaked)
        } else if held.is_empty() {
            Outcome::Skipped(skipped)
        } else if skipped.is_empty() {
            Outcome::Held(held)
        } else {
            Outcome::Held(format!("{held} (not counted: {skipped})"))
        }
    }
}

impl fmt::Display for Loot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Word::ALL.iter().find(|(word, _)| *word == self.word);
        write!(
            f,
            "{} {}",
            name.map_or("skipped", |(_, name)| name),
            self.way
        )
    }
}

/// Whether `needle` is in `haystack`.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leak_is_a_leak() {
        let all = [Loot::held("a"), Loot::leaked("b"), Loot::skipped("c")];
        assert_eq!(Loot::sum(&all), Outcome::Leaked("b".to_owned()));
        assert_eq!(Loot::sum(&all[2..]), Outcome::Skipped("c".to_owned()));
        assert_eq!(
            Loot::sum(&[Loot::held("a"), Loot::skipped("c")]),
            Outcome::Held("a (not counted: c)".to_owned())
        );
        assert_eq!(Loot::sum(&[]), Outcome::Skipped(String::new()));
        for loot in all {
            assert_eq!(Loot::parse(&loot.to_string()), Some(loot));
        }
        assert_eq!(Loot::parse("nonsense"), None);
    }

    #[test]
    fn two_looks_at_one_thing() {
        use Outcome::{Held, Leaked, Skipped};
        let [a, b] = ["a", "b"].map(str::to_owned);
        let (held, leaked, skipped) = (Held(a.clone()), Leaked(b.clone()), Skipped(b));
        assert_eq!(held.clone().and(leaked.clone()), leaked);
        assert_eq!(skipped.clone().and(leaked.clone()), leaked);
        let not_counted = Held("a (not counted: b)".to_owned());
        assert_eq!(held.clone().and(skipped.clone()), not_counted);
        assert_eq!(skipped.and(held.clone()), not_counted);
        assert_eq!(held.and(Held(a)), Held("a; a".to_owned()));
    }

    #[test]
    fn needles_are_found_at_the_ends_too() {
        assert!(contains(b"aab", b"ab"));
        assert!(contains(b"ab", b"ab"));
        assert!(!contains(b"a", b"ab"));
        assert!(!contains(b"", b"ab"));
    }
}
