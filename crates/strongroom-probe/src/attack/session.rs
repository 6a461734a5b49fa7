//! A session: every attacker against every victim, and what it proves.

use super::roster::{Owner, Spec};
use super::setup;
use super::stage::{self, Stage};
use super::{Attacker, Broken, Outcome, Setup, attackers};
use serde::Serialize;
use strongroom_core::{Level, Protection, Protections};

/// Which attackers are to run, and against what.
#[derive(Debug, Default)]
pub struct Selection {
    names: Vec<String>,
    level: Option<Level>,
}

/// The name of all attacks on guests: those that are a monitor's own, which have it in their names, and
/// those of others.
const GUESTS: &str = "vmm";

/// A name that no attacker has.
#[derive(Debug, thiserror::Error)]
#[error("there is no attack `{name}`")]
pub struct UnknownName {
    /// The name.
    pub name: String,
    /// Those that there are.
    pub names: Vec<&'static str>,
}

impl Selection {
    /// Those of the given names, or of the families of these names; all for none.
    ///
    /// # Errors
    /// Where a name is neither an attacker nor a family.
    pub fn of(names: &[String]) -> Result<Self, UnknownName> {
        let all = attackers();
        for name in names {
            if !all.iter().any(|attacker| is(attacker.as_ref(), name)) {
                return Err(UnknownName {
                    name: name.clone(),
                    names: all.iter().map(|attacker| attacker.name()).collect(),
                });
            }
        }
        let names = names.to_vec();
        Ok(Self { names, level: None })
    }

    /// The same, with strongroom at one level only; `None` is all that there are.
    #[must_use]
    pub fn at(self, level: Option<Level>) -> Self {
        Self { level, ..self }
    }

    fn includes(&self, spec: &Spec) -> bool {
        match (self.level, spec.level) {
            (Some(level), Some(name)) => level.name() == name,
            // Guests have no level.
            (Some(_), None) => spec.owner == Owner::Process,
            (None, _) => true,
        }
    }

    /// Whether an attack is to be made on such victims.
    fn holds(&self, attacker: &dyn Attacker, owner: Owner) -> bool {
        let wanted = |name: &String| {
            is(attacker, name) || (name.as_str() == GUESTS && owner == Owner::Guest)
        };
        attacker.control(owner).is_some()
            && (self.names.is_empty() || self.names.iter().any(wanted))
    }
}

fn is(attacker: &dyn Attacker, name: &str) -> bool {
    let own = attacker.name();
    own == name || own.split('-').next() == Some(name)
}

/// One attack on one victim.
#[derive(Clone, Debug, Serialize)]
pub struct Attack {
    /// The attacker.
    pub attack: &'static str,
    /// What it tries to break.
    pub protection: Protection,
    /// Whether the victim's receipt claims it.
    pub claimed: bool,
    /// What came of it: `held`, `leaked` or `skipped`.
    pub result: &'static str,
    /// How.
    pub detail: String,
    /// Whether it must leak here.
    #[serde(skip)]
    pub control: bool,
    /// Whether the attack itself broke.
    #[serde(skip)]
    pub broken: bool,
    /// Whether it is void, as its control did not leak.
    #[serde(skip)]
    pub void: bool,
}

/// What was done to one victim.
#[derive(Debug, Serialize)]
pub struct VictimReport {
    /// Its name.
    pub name: &'static str,
    /// Its receipt, where it has one.
    pub receipt: Option<serde_json::Value>,
    /// Of a program: what was proven to be in its memory before it was attacked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven: Option<Vec<Proven>>,
    /// Whose its secret is.
    #[serde(skip)]
    pub owner: Owner,
    /// The attacks, in the same order for all victims of the same kind of owner.
    pub attacks: Vec<Attack>,
}

/// A secret of a program's, and in how many places it was found there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// What the user calls it.
    pub secret: String,
    /// None is none: nothing is known of it.
    pub places: usize,
}

/// What all of it proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every claim was held and every control leaked.
    Proven,
    /// Something that is claimed leaked.
    Leaked,
    /// A control was held: its row proves nothing.
    Void,
    /// An attack, or a victim, broke.
    Broken,
}

/// Everything that was tried.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    /// The victims.
    pub victims: Vec<VictimReport>,
    /// Whether they are a program that the user named.
    #[serde(skip)]
    program: bool,
}

impl Report {
    /// Runs the selected attacks. `progress` hears what is tried next: attack and victim.
    pub fn of(setup: &Setup, selection: &Selection, mut progress: impl FnMut(&str, &str)) -> Self {
        let attackers = attackers();
        let chosen = |owner| {
            let attackers = attackers.iter().map(AsRef::as_ref);
            attackers
                .filter(|attacker: &&dyn Attacker| selection.holds(*attacker, owner))
                .collect::<Vec<_>>()
        };
        let mut victims: Vec<VictimReport> = Vec::new();
        let specs = setup.roster().iter();
        for spec in specs.filter(|spec| selection.includes(spec)) {
            let attackers = chosen(spec.owner);
            if attackers.is_empty() {
                continue;
            }
            progress("receipt", spec.name);
            let receipt = setup.receipt(spec);
            let claims = match &receipt {
                Ok(Some(receipt)) => setup::held(receipt),
                _ => Protections::empty(),
            };
            let mut stage = Stage::new(setup, spec);
            let attacks: Vec<_> = attackers
                .iter()
                .map(|attacker| {
                    progress(attacker.name(), spec.name);
                    let outcome = match &receipt {
                        Ok(_) => stage.attempt(*attacker),
                        Err(_) if attacker.needs_root() && !setup.is_root() => {
                            Ok(Outcome::Skipped(stage::NEEDS_ROOT.to_owned()))
                        }
                        // It cannot be had here, and nothing is claimed for it.
                        Err(Broken(why)) => Ok(Outcome::Skipped(why.clone())),
                    };
                    let claimed =
                        attacker.claimable() && claims.contains(attacker.protection().only());
                    entry(*attacker, spec, claimed, outcome)
                })
                .collect();
            victims.push(VictimReport {
                name: spec.name,
                owner: spec.owner,
                proven: stage.proven,
                attacks,
                receipt: receipt.unwrap_or_default(),
            });
        }
        let mut report = Self {
            schema: 1,
            victims,
            program: setup.program().is_some(),
        };
        for owner in Owner::ALL {
            for row in 0..chosen(owner).len() {
                report.void(owner, row);
            }
        }
        report
    }

    /// The victims whose secret is such an owner's.
    pub fn of_owner(&self, owner: Owner) -> impl Iterator<Item = &VictimReport> {
        self.victims
            .iter()
            .filter(move |victim| victim.owner == owner)
    }

    /// Nothing is held in a row whose control did not leak.
    fn void(&mut self, owner: Owner, row: usize) {
        let cells = |victim: &VictimReport| victim.attacks.get(row).cloned();
        let control = self
            .of_owner(owner)
            .filter_map(cells)
            .find(|attack| attack.control);
        let Some(control) = control.filter(|control| control.result != "leaked") else {
            return;
        };
        let of_owner = |victim: &&mut VictimReport| victim.owner == owner;
        for victim in self.victims.iter_mut().filter(of_owner) {
            let Some(attack) = victim.attacks.get_mut(row) else {
                continue;
            };
            if !attack.control && attack.result == "held" {
                attack.result = "skipped";
                attack.void = true;
                attack.detail = format!(
                    "void, as the control did not leak ({}); here: {}",
                    control.detail, attack.detail
                );
            }
        }
    }

    /// The victim under strongroom, a program, on which no attack was made: of its own secret
    /// nothing is known. The victims that take part always have theirs.
    pub fn unproven(&self) -> Option<&'static str> {
        let kept = |victim: &&VictimReport| self.program && victim.name.starts_with("strongroom-");
        let ran = |attack: &Attack| attack.result != "skipped";
        let mut kept = self.victims.iter().filter(kept);
        kept.find(|victim| !victim.attacks.iter().any(ran))
            .map(|victim| victim.name)
    }

    /// What it proves.
    pub fn verdict(&self) -> Verdict {
        let any = |test: fn(&Attack) -> bool| {
            self.victims
                .iter()
                .any(|victim| victim.attacks.iter().any(test))
        };
        if any(|attack| attack.claimed && attack.result == "leaked") {
            Verdict::Leaked
        } else if any(|attack| attack.control && attack.result == "held")
            || self.unproven().is_some()
        {
            Verdict::Void
        } else if any(|attack| (attack.claimed || attack.control) && attack.broken) {
            Verdict::Broken
        } else {
            Verdict::Proven
        }
    }
}

fn entry(
    attacker: &dyn Attacker,
    spec: &Spec,
    claimed: bool,
    outcome: Result<Outcome, Broken>,
) -> Attack {
    let broken = outcome.is_err();
    let (result, detail) = match outcome {
        Ok(Outcome::Held(detail)) => ("held", detail),
        Ok(Outcome::Leaked(detail)) => ("leaked", detail),
        Ok(Outcome::Skipped(detail)) => ("skipped", detail),
        Err(Broken(why)) => ("skipped", format!("failed: {why}")),
    };
    Attack {
        attack: attacker.name(),
        protection: attacker.protection(),
        claimed,
        result,
        detail,
        control: attacker.control(spec.owner) == Some(spec.name),
        broken,
        void: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(control: bool, claimed: bool, result: &'static str) -> VictimReport {
        let attack = Attack {
            attack: "peek",
            protection: Protection::NoPeek,
            claimed,
            result,
            detail: String::new(),
            control,
            broken: false,
            void: false,
        };
        VictimReport {
            name: "x",
            receipt: None,
            owner: Owner::Process,
            proven: None,
            attacks: vec![attack],
        }
    }

    fn report(control: &'static str, claimed: &'static str) -> Report {
        let mut report = Report {
            schema: 1,
            program: false,
            victims: vec![cell(true, false, control), cell(false, true, claimed)],
        };
        report.void(Owner::Process, 0);
        report
    }

    #[test]
    fn held_counts_only_beside_a_control_that_leaked() {
        assert_eq!(report("leaked", "held").verdict(), Verdict::Proven);
        assert_eq!(report("leaked", "leaked").verdict(), Verdict::Leaked);
        assert_eq!(report("held", "leaked").verdict(), Verdict::Leaked);
        let void = report("held", "held");
        assert_eq!(void.verdict(), Verdict::Void);
        assert_eq!(void.victims[1].attacks[0].result, "skipped");
        let skipped = report("skipped", "held");
        assert_eq!(skipped.verdict(), Verdict::Proven);
        assert_eq!(skipped.victims[1].attacks[0].result, "skipped");
    }

    #[test]
    fn a_program_that_was_not_attacked_proves_nothing() {
        let of = |name, result, program| {
            let victim = VictimReport {
                name,
                ..cell(false, true, result)
            };
            let victims = vec![cell(true, false, "leaked"), victim];
            let report = Report {
                schema: 1,
                program,
                victims,
            };
            report.verdict()
        };
        assert_eq!(of("strongroom-hidden", "held", true), Verdict::Proven);
        assert_eq!(of("strongroom-hidden", "skipped", true), Verdict::Void);
        assert_eq!(of("open-fd", "skipped", true), Verdict::Proven);
        assert_eq!(of("strongroom-hidden", "skipped", false), Verdict::Proven);
    }

    #[test]
    fn families_and_names_select() {
        let selects = |name: &str, attacker: &str| {
            let selection = Selection::of(&[name.to_owned()]).unwrap();
            let owner = |a: &dyn Attacker| Owner::ALL.map(|owner| selection.holds(a, owner));
            let attackers = attackers();
            let attacker = attackers.iter().find(|a| a.name() == attacker);
            owner(attacker.unwrap().as_ref())
        };
        assert_eq!(selects("peek", "peek-root"), [true, true]);
        assert_eq!(selects("peek-root", "peek-root"), [true, true]);
        assert_eq!(selects("peek-root", "peek"), [false, false]);
        assert_eq!(selects("vmm", "vmm-map"), [false, true]);
        assert_eq!(selects("vmm-map", "vmm-map"), [false, true]);
        // All that is made on guests, and none of it on others.
        assert_eq!(selects("vmm", "peek"), [false, true]);
        assert_eq!(selects("vmm", "free"), [false, false]);
        assert!(Selection::of(&["nonsense".to_owned()]).is_err());
    }
}
