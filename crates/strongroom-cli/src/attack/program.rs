//! The program that the user names, and what its secret is.

use crate::args::{AttackArgs, GivenArgs};
use crate::failure::Failure;
use crate::given;
use crate::locate;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;
use strongroom_probe::attack::{Needle, Program};

/// The program of the command line; none where the usual victims are attacked.
pub(super) fn of(args: &AttackArgs) -> Result<Option<Program>, Failure> {
    let Some(arguments) = args.command.get(1..) else {
        return match needles(&args.given)?.first() {
            None => Ok(None),
            Some(needle) => Err(Failure::new(
                format!("{} is given, and no program that has it", needle.name),
                "name the program: strongroom attack --text SECRET -- CMD",
            )),
        };
    };
    let executable = locate::find(&args.command)?;
    let file = PathBuf::from(OsStr::from_bytes(executable.path.as_bytes()));
    // It runs in another directory.
    let file = std::path::absolute(&file).map_err(|error| {
        Failure::new(format!("{} cannot be named: {error}", file.display()), "")
    })?;
    if !file.exists() {
        return Err(Failure::new(
            format!("cannot run {}: no such file", file.display()),
            "give its path, or install it",
        )
        .with_status(locate::NOT_FOUND));
    }
    let needles = needles(&args.given)?;
    for needle in &needles {
        check(needle, &args.command)?;
    }
    Ok(Some(Program {
        file,
        arguments: arguments.to_vec(),
        needles,
        then: args.then.clone(),
        wait: Duration::from_secs(args.wait),
    }))
}

/// What the user gives, as the program may have it in memory: one that is found is enough.
fn needles(args: &GivenArgs) -> Result<Vec<Needle>, Failure> {
    let mut needles: Vec<Needle> = given::patterns(args)?
        .into_iter()
        .map(|pattern| Needle {
            name: pattern.name,
            bytes: pattern.bytes.to_vec(),
        })
        .collect();
    for key in given::keys(args)? {
        needles.extend(key.secrets().map(|(what, bytes)| Needle {
            name: what,
            bytes: bytes.to_vec(),
        }));
    }
    Ok(needles)
}

/// A needle that is found by chance, or where the user put it, proves nothing.
fn check(needle: &Needle, command: &[impl AsRef<OsStr>]) -> Result<(), Failure> {
    let Needle { name, bytes } = needle;
    let len = bytes.len();
    if len < Needle::SHORTEST {
        return Err(Failure::new(
            format!("{name} has {len} bytes"),
            format!(
                "take {} or more: fewer are found anywhere by chance",
                Needle::SHORTEST
            ),
        ));
    }
    let holds = |text: &OsStr| {
        let text = text.as_bytes();
        text.windows(len).any(|window| window == bytes.as_slice())
    };
    if command.iter().any(|argument| holds(argument.as_ref())) {
        return Err(Failure::new(
            format!("{name} is in the arguments of CMD, which /proc/PID/cmdline shows to everyone"),
            "have the program make it or read it: from a file, or by --then",
        ));
    }
    match std::env::vars_os().find(|(_, value)| holds(value)) {
        Some((variable, _)) => Err(Failure::new(
            format!(
                "{name} is in the environment that CMD would get, in {}",
                variable.display()
            ),
            "have the program make it or read it: from a file, or by --then",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needles_are_not_found_by_chance_or_in_the_arguments() {
        let needle = |bytes: &[u8]| Needle {
            name: "x".to_owned(),
            bytes: bytes.to_vec(),
        };
        assert!(check(&needle(b"1234567"), &["cat"]).is_err());
        assert!(check(&needle(b"a marker"), &["cat", "a marker."]).is_err());
        assert!(check(&needle(b"a marker"), &["cat", "a market"]).is_ok());
    }
}
