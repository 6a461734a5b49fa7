//! The table that people read, 100 columns wide: attacks down, victims across.

use crate::style::{BOLD, CYAN, DIM, GREEN, RED, YELLOW};
use crate::wrap::wrap;
use anstyle::Style;
use std::io::{self, Write};
use strongroom_probe::attack::{Attack, Owner, Report, Verdict, VictimReport, attackers};

type Victims<'r> = Vec<&'r VictimReport>;

const WIDTH: usize = 100;
const NAME: usize = 16;
const PROTECTION: usize = 15;
/// The narrowest column of a victim.
const CELL: usize = 10;

/// Writes all of it.
pub(super) fn table(out: &mut impl Write, report: &Report, root: bool) -> io::Result<()> {
    for (number, victims) in tables(report).into_iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        rows_of(out, &victims)?;
    }
    writeln!(out)?;
    legend(out)?;
    proven(out, report)?;
    about(out, report)?;
    reasons(out, report)?;
    verdict(out, report, root)
}

/// The victims that are attacked in the same ways stand beside one another, as many as fit.
fn tables(report: &Report) -> Vec<Victims<'_>> {
    let mut tables: Vec<Victims> = Vec::new();
    for owner in [Owner::Process, Owner::Guest] {
        let mut room = 0;
        for victim in report.of_owner(owner) {
            let width = width(victim.name);
            match (room >= width, tables.last_mut()) {
                (true, Some(table)) => {
                    room -= width;
                    table.push(victim);
                }
                _ => {
                    room = WIDTH - NAME - PROTECTION - width;
                    tables.push(vec![victim]);
                }
            }
        }
    }
    tables
}

fn rows_of(out: &mut impl Write, victims: &Victims) -> io::Result<()> {
    // Long names take two lines.
    let names = || victims.iter().map(|victim| victim.name);
    write!(out, "{BOLD}{:NAME$}{:PROTECTION$}", "attack", "on")?;
    for name in names() {
        let width = width(name);
        write!(out, "{:width$}", halves(name).0)?;
    }
    writeln!(out, "{BOLD:#}")?;
    if names().any(|name| !halves(name).1.is_empty()) {
        write!(out, "{BOLD}{:NAME$}{:PROTECTION$}", "", "")?;
        for name in names() {
            let width = width(name);
            write!(out, "{:width$}", halves(name).1)?;
        }
        writeln!(out, "{BOLD:#}")?;
    }
    for row in 0..rows(victims) {
        line(out, victims, row)?;
    }
    Ok(())
}

/// A victim's name as the two lines of the head have it.
fn halves(victim: &str) -> (&str, &str) {
    const FAMILY: &str = "strongroom-";
    if victim.starts_with(FAMILY) {
        victim.split_at(FAMILY.len())
    } else {
        (victim, "")
    }
}

/// How wide a victim's column is.
fn width(victim: &str) -> usize {
    let (first, second) = halves(victim);
    CELL.max(first.len().max(second.len()) + 2)
}

fn rows(victims: &Victims) -> usize {
    victims.first().map_or(0, |victim| victim.attacks.len())
}

fn cells<'v>(victims: &'v Victims, row: usize) -> impl Iterator<Item = (&'static str, &'v Attack)> {
    victims
        .iter()
        .filter_map(move |victim| Some((victim.name, victim.attacks.get(row)?)))
}

fn line(out: &mut impl Write, victims: &Victims, row: usize) -> io::Result<()> {
    for (column, (victim, attack)) in cells(victims, row).enumerate() {
        if column == 0 {
            let protection = attack.protection.name();
            write!(out, "{:NAME$}", attack.attack)?;
            write!(out, "{DIM}{protection:PROTECTION$}{DIM:#}")?;
        }
        let (style, text) = cell(attack);
        let width = width(victim);
        write!(out, "{style}{text:width$}{style:#}")?;
    }
    writeln!(out)
}

/// How one cell looks; without colours the words alone say it.
fn cell(attack: &Attack) -> (Style, &'static str) {
    match (attack.result, attack.control, attack.claimed) {
        _ if attack.void => (YELLOW, "void"),
        _ if attack.broken => (YELLOW, "failed"),
        ("leaked", true, _) => (CYAN, "leaked *"),
        ("held", true, _) => (YELLOW, "HELD *"),
        ("leaked", _, true) => (RED, "LEAKED"),
        ("held", _, true) => (GREEN, "held"),
        ("leaked", ..) => (DIM, "– leaked"),
        ("held", ..) => (DIM, "– held"),
        _ => (DIM, "skipped"),
    }
}

fn legend(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{GREEN}held{GREEN:#} claimed and kept   {RED}LEAKED{RED:#} claimed and stolen   \
         {DIM}–{DIM:#} not claimed   {CYAN}*{CYAN:#} control: must leak"
    )
}

/// Where a program's secrets were found before it was attacked.
fn proven(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut label = "\nproven to be there";
    for victim in &report.victims {
        let Some(secrets) = &victim.proven else {
            continue;
        };
        let secrets = secrets.iter().map(|proven| match proven.places {
            0 => format!("{} nowhere: nothing is known of it", proven.secret),
            1 => format!("{} at 1 place", proven.secret),
            places => format!("{} at {places} places", proven.secret),
        });
        if !label.is_empty() {
            writeln!(out, "{BOLD}{label}{BOLD:#}")?;
            label = "";
        }
        let secrets = secrets.collect::<Vec<_>>().join("; ");
        for line in wrap(&format!("{}: {secrets}", victim.name), WIDTH - 2) {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}

/// What each attack does.
fn about(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "\n{BOLD}attacks{BOLD:#}")?;
    let made = |name| {
        let attacks = report.victims.iter().flat_map(|victim| &victim.attacks);
        attacks.into_iter().any(|attack| attack.attack == name)
    };
    for attacker in attackers().iter().filter(|a| made(a.name())) {
        paragraph(out, attacker.name(), attacker.about())?;
    }
    Ok(())
}

/// Why cells were skipped or are not as they should be, one reason a paragraph.
fn reasons(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut reasons: Vec<(String, &str, Vec<&str>)> = Vec::new();
    let tables = tables(report);
    let rows = tables
        .iter()
        .flat_map(|victims| (0..rows(victims)).map(move |row| cells(victims, row)));
    for row in rows {
        for (victim, attack) in row {
            let leak = attack.claimed && attack.result == "leaked";
            let stray = attack.control && attack.result == "held";
            if !(attack.result == "skipped" || leak || stray) {
                continue;
            }
            let place = reasons
                .iter_mut()
                .find(|(name, why, _)| *name == attack.attack && *why == attack.detail);
            match place {
                Some((.., victims)) => victims.push(victim),
                None => reasons.push((attack.attack.to_owned(), &attack.detail, vec![victim])),
            }
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    // The same reason for several attacks is said once.
    let mut said: Vec<(Vec<String>, &str, Vec<&str>)> = Vec::new();
    for (name, why, victims) in reasons {
        match said
            .iter_mut()
            .find(|(_, other, of)| *other == why && *of == victims)
        {
            Some((names, ..)) => names.push(name),
            None => said.push((vec![name], why, victims)),
        }
    }
    writeln!(out, "\n{BOLD}why{BOLD:#}")?;
    for (names, why, victims) in said {
        let made = |victim: &&VictimReport| {
            let made = |attack: &Attack| names.iter().any(|name| attack.attack == name);
            victim.attacks.iter().any(made)
        };
        let whom = if victims.len() == report.victims.iter().filter(made).count() {
            String::new()
        } else {
            format!(" on {}", victims.join(", "))
        };
        for line in wrap(&format!("{}{whom}: {why}", names.join(", ")), WIDTH - 2) {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}

fn paragraph(out: &mut impl Write, label: &str, text: &str) -> io::Result<()> {
    let mut label = label;
    for line in wrap(text, WIDTH - NAME - 2) {
        writeln!(out, "  {label:NAME$}{DIM}{line}{DIM:#}")?;
        label = "";
    }
    Ok(())
}

fn verdict(out: &mut impl Write, report: &Report, root: bool) -> io::Result<()> {
    let count = |test: fn(&Attack) -> bool| {
        let attacks = report.victims.iter().flat_map(|victim| &victim.attacks);
        attacks.filter(|attack| test(attack)).count()
    };
    let held = count(|attack| attack.claimed && attack.result == "held");
    let claimed = count(|attack| attack.claimed);
    let leaked = count(|attack| attack.claimed && attack.result == "leaked");
    let controls = count(|attack| attack.control && attack.result == "leaked");
    let (style, text) = match report.verdict() {
        Verdict::Proven => {
            let skipped = match claimed - held {
                0 => String::new(),
                some => format!(", {some} skipped"),
            };
            let text = format!(
                "{claimed} attacks on what receipts claim: {held} held, none leaked{skipped}. \
                 {controls} controls leaked, as they must."
            );
            (GREEN, text)
        }
        Verdict::Leaked => (
            RED,
            format!("{leaked} of {claimed} attacks on what is claimed got the secret."),
        ),
        Verdict::Void => (
            YELLOW,
            match report.unproven() {
                Some(victim) => format!(
                    "No attack on {victim} could be made on a secret that is proven to be there: \
                     nothing is known of it."
                ),
                None => "A control did not leak: its attack proves nothing here.".to_owned(),
            },
        ),
        Verdict::Broken => (
            YELLOW,
            "An attack failed of itself: nothing is proven by it.".to_owned(),
        ),
    };
    writeln!(out)?;
    for line in wrap(&text, WIDTH) {
        writeln!(out, "{style}{line}{style:#}")?;
    }
    if !root {
        writeln!(out, "Root can try more: sudo strongroom attack")?;
    }
    Ok(())
}
