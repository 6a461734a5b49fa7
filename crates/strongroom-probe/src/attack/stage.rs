//! One victim under attack: fresh each time, or a program that goes on from one attack to the next.

use super::roster::{Spec, Subject};
use super::session::Proven;
use super::{Attacker, Broken, Captive, Outcome, Reach, Setup};

/// Why an attack of root's is not made.
pub(super) const NEEDS_ROOT: &str = "needs root";

/// One victim, and the running program that is kept from one attack to the next.
pub(super) struct Stage<'a> {
    setup: &'a Setup,
    spec: &'a Spec,
    kept: Option<Captive>,
    /// Of a program: what was there at first.
    pub(super) proven: Option<Vec<Proven>>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(setup: &'a Setup, spec: &'a Spec) -> Self {
        Self {
            setup,
            spec,
            kept: None,
            proven: None,
        }
    }

    /// Makes an attack, as often as it is to be tried.
    pub(super) fn attempt(&mut self, attacker: &dyn Attacker) -> Result<Outcome, Broken> {
        let only_control = self.spec.is_control_only(self.setup.roster());
        if only_control && !is_control(attacker, self.spec) {
            return Ok(Outcome::Skipped("here only as a control".to_owned()));
        }
        if attacker.needs_root() && !self.setup.is_root() {
            return Ok(Outcome::Skipped(NEEDS_ROOT.to_owned()));
        }
        if self.spec.subject == Subject::Program && attacker.reach() == Reach::Partner {
            return Ok(Outcome::Skipped(
                "needs a victim that takes part".to_owned(),
            ));
        }
        let mut outcome = self.once(attacker)?;
        for _ in 1..attacker.attempts() {
            if !matches!(outcome, Outcome::Held(_)) {
                break;
            }
            outcome = self.once(attacker)?;
        }
        Ok(outcome)
    }

    /// A program that runs already and has its secret still, or a fresh victim.
    fn victim(&mut self) -> Result<Captive, Broken> {
        if let (Some(mut kept), Some(program)) = (self.kept.take(), self.setup.program())
            && kept.look_again(&program.needles).is_ok()
            && kept.count() > 0
        {
            return Ok(kept);
        }
        self.setup.victim(self.spec)
    }

    fn once(&mut self, attacker: &dyn Attacker) -> Result<Outcome, Broken> {
        let mut victim = match self.victim() {
            Ok(victim) => victim,
            // It cannot be had here: its row may be void, but nothing broke.
            Err(Broken(why)) if self.spec.optional => return Ok(Outcome::Skipped(why)),
            Err(broken) => return Err(broken),
        };
        if let (None, Some(program), true) =
            (&self.proven, self.setup.program(), victim.is_program())
        {
            let needles = program.needles.iter().enumerate();
            let proven = needles.map(|(index, needle)| Proven {
                secret: needle.name.clone(),
                places: victim.count_of(index),
            });
            self.proven = Some(proven.collect());
        }
        let outcome = if attacker.reach() == Reach::Place {
            at_each_place(attacker, &mut victim)?
        } else {
            attacker.attack(&mut victim)?
        };
        if victim.is_program() && attacker.reach() != Reach::End {
            self.kept = Some(victim);
        }
        let missing: Vec<&str> = match &outcome {
            Outcome::Leaked(detail)
                if attacker.control(self.spec.owner) == Some(self.spec.name) =>
            {
                let ways = attacker.ways().iter().copied();
                ways.filter(|way| !detail.contains(way)).collect()
            }
            _ => Vec::new(),
        };
        Ok(if missing.is_empty() {
            outcome
        } else {
            Outcome::Held(format!("it did not leak by {}", missing.join(", ")))
        })
    }
}

/// The same attack wherever the secret is. It is held where it is held at every place.
fn at_each_place(attacker: &dyn Attacker, victim: &mut Captive) -> Result<Outcome, Broken> {
    let places = victim.count();
    if places == 1 && !victim.is_program() {
        return attacker.attack(victim);
    }
    let (mut held, mut leaked, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    let mut gone = 0;
    for place in 0..places {
        victim.turn_to(place);
        // A program goes on meanwhile, and may have dropped a copy.
        if victim.is_program() && victim.prove().is_err() {
            gone += 1;
            continue;
        }
        let (list, detail) = match attacker.attack(victim) {
            Ok(Outcome::Held(detail)) => (&mut held, detail),
            Ok(Outcome::Leaked(detail)) => (&mut leaked, detail),
            Ok(Outcome::Skipped(detail)) => (&mut skipped, detail),
            Err(_) if victim.is_program() && victim.prove().is_err() => {
                (&mut skipped, "it did not stay there".to_owned())
            }
            Err(broken) => return Err(broken),
        };
        list.push(format!("{}: {detail}", victim.whereabouts()));
    }
    let places = places - gone;
    let told = |list: &[String]| match list {
        [one] if places == 1 => one.clone(),
        [first, ..] => format!("{} of {places} places, as {first}", list.len()),
        [] => "no place".to_owned(),
    };
    if places == 0 {
        return Ok(Outcome::Skipped("the secret stayed at no place".to_owned()));
    }
    Ok(match (leaked.is_empty(), skipped.is_empty()) {
        (false, _) => Outcome::Leaked(told(&leaked)),
        (true, false) => Outcome::Skipped(told(&skipped)),
        (true, true) => Outcome::Held(told(&held)),
    })
}

/// Whether the victim, which takes part, is the control of an attack on a program, which does not.
fn is_control(attacker: &dyn Attacker, spec: &Spec) -> bool {
    attacker.control(spec.owner) == Some(spec.name) && attacker.reach() != Reach::Partner
}
