//! The program that the user names, and what its secret is.

use crate::args::{AttackArgs, NeedleArgs};
use crate::failure::Failure;
use crate::locate;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strongroom_probe::attack::{Needle, Program};

/// The longest needle, in bytes: one is sent to thieves at once.
const LONGEST: usize = 64 << 10;

/// The program of the command line; none where the usual victims are attacked.
pub(super) fn of(args: &AttackArgs) -> Result<Option<Program>, Failure> {
    let Some(arguments) = args.command.get(1..) else {
        return Ok(None);
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
    let needles = needles(&args.needles)?;
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

fn needles(args: &NeedleArgs) -> Result<Vec<Needle>, Failure> {
    let mut needles = Vec::new();
    // By their order, where there are several: a table does not show them.
    let numbered = |option: &str, index: usize, of: usize| match of {
        1 => option.to_owned(),
        _ => format!("{option} {}", index + 1),
    };
    for (index, marker) in args.marker.iter().enumerate() {
        needles.push(Needle {
            name: numbered("--marker", index, args.marker.len()),
            bytes: marker.as_bytes().to_vec(),
        });
    }
    for (index, pattern) in args.pattern.iter().enumerate() {
        needles.push(Needle {
            name: numbered("--pattern", index, args.pattern.len()),
            bytes: digits(pattern)?,
        });
    }
    for file in &args.marker_file {
        needles.push(Needle {
            name: format!("--marker-file {}", file.display()),
            bytes: contents(file)?,
        });
    }
    Ok(needles)
}

fn digits(text: &str) -> Result<Vec<u8>, Failure> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    pairs.collect::<Option<_>>().ok_or_else(|| {
        Failure::new(
            "--pattern is not made of pairs of hexadecimal digits",
            "two digits a byte, without anything between: --pattern 00ff10a4deadbeef",
        )
    })
}

fn contents(file: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(
            format!("{} cannot be read: {error}", file.display()),
            "name a file that holds the secret's bytes and nothing else",
        )
    };
    let size = std::fs::metadata(file).map_err(unreadable)?.len();
    if size > LONGEST as u64 {
        return Err(Failure::new(
            format!("{} has {size} bytes", file.display()),
            format!("a marker has at most {LONGEST}"),
        ));
    }
    std::fs::read(file).map_err(unreadable)
}

/// A needle that is found by chance, or where the user put it, proves nothing.
fn check(needle: &Needle, command: &[impl AsRef<OsStr>]) -> Result<(), Failure> {
    let Needle { name, bytes } = needle;
    let len = bytes.len();
    if !(Needle::SHORTEST..=LONGEST).contains(&len) {
        return Err(Failure::new(
            format!("{name} has {len} bytes"),
            format!(
                "take from {} to {LONGEST}: fewer are found anywhere by chance",
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
    fn patterns_are_pairs_of_digits() {
        assert_eq!(digits("00fFa4").unwrap(), [0, 0xff, 0xa4]);
        for wrong in ["0", "0g", "00 ff", "+1"] {
            assert!(digits(wrong).is_err(), "{wrong}");
        }
    }

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
