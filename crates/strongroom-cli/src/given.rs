//! What the user gives to look for: keys, with their passphrases, and bytes.

use crate::args::GivenArgs;
use crate::failure::Failure;
use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use strongroom_probe::scan::{Key, LONGEST, Pattern, SHORTEST, Unusable};
use zeroize::Zeroizing;

/// The keys of `--key`.
pub(crate) fn keys(args: &GivenArgs) -> Result<Vec<Key>, Failure> {
    // Once for all keys: standard input has one first line.
    let passphrase = args
        .passphrase_file
        .as_deref()
        .map(first_line)
        .transpose()?;
    args.key
        .iter()
        .map(|path| key(path, passphrase.as_ref()))
        .collect()
}

fn key(path: &Path, passphrase: Option<&Zeroizing<String>>) -> Result<Key, Failure> {
    let name = path.display().to_string();
    let contents = read(path)?;
    let mut ask = || match passphrase {
        Some(passphrase) => Ok(passphrase.clone()),
        None => prompt(&name),
    };
    Key::parse(&name, &contents, &mut ask).map_err(|unusable| {
        let fix = match unusable {
            Unusable::NoPassphrase(_) => {
                "run it on a terminal, or name a file with the passphrase by --passphrase-file"
            }
            Unusable::Passphrase => {
                "give the right passphrase; `ssh-keygen -p` and `openssl pkcs8 -topk8` change the encryption"
            }
            Unusable::OldEncryption => "convert a copy: `openssl pkey -aes256 -in OLD -out NEW`",
            Unusable::GnupgEncryption => {
                "remove a copy's passphrase: `gpg --homedir COPY --change-passphrase`"
            }
            Unusable::Public => "name the private key's file",
            _ => "",
        };
        Failure::new(format!("the key {name}: {unusable}"), fix)
    })
}

/// Asks on the terminal, without an echo.
fn prompt(name: &str) -> Result<Zeroizing<String>, String> {
    if !io::stdin().is_terminal() {
        return Err("there is no terminal to ask on".to_owned());
    }
    rpassword::prompt_password(format!("Passphrase of {name}: "))
        .map(Zeroizing::new)
        .map_err(|error| format!("the terminal cannot be asked: {error}"))
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    if path.as_os_str() == "-" {
        let read = io::stdin().lock().read_line(&mut line);
        read.map_err(|error| cannot_read(path, &error))?;
    } else {
        let contents = read(path)?;
        let text = std::str::from_utf8(&contents).map_err(|_| {
            let cause = format!("the passphrase in {} is not UTF-8", path.display());
            Failure::new(cause, "")
        })?;
        line.push_str(text.lines().next().unwrap_or_default());
    }
    while line.ends_with(['\n', '\r']) {
        line.pop();
    }
    Ok(line)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| cannot_read(path, &error))
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "name a file that exists",
        io::ErrorKind::PermissionDenied => "run it as a user who may read the file",
        _ => "",
    };
    Failure::new(format!("{}: {error}", path.display()), fix)
}

/// The bytes of `--pattern`, `--text` and `--text-file`. Their names do not tell them.
pub(crate) fn patterns(args: &GivenArgs) -> Result<Vec<Pattern>, Failure> {
    let mut patterns = Vec::new();
    for (number, digits) in args.pattern.iter().enumerate() {
        let name = format!("--pattern {}", number + 1);
        let bytes = unhex(digits).ok_or_else(|| {
            Failure::new(
                format!("{name} is not pairs of hexadecimal digits"),
                "write each byte as two digits, as in --pattern 00ff13a0",
            )
        })?;
        patterns.push(pattern(name, bytes)?);
    }
    for (number, text) in args.text.iter().enumerate() {
        let bytes = Zeroizing::new(text.as_bytes().to_vec());
        patterns.push(pattern(format!("--text {}", number + 1), bytes)?);
    }
    for path in &args.text_file {
        let mut bytes = read(path)?;
        while bytes.last().is_some_and(|last| b"\r\n".contains(last)) {
            bytes.pop();
        }
        patterns.push(pattern(format!("--text-file {}", path.display()), bytes)?);
    }
    Ok(patterns)
}

fn pattern(name: String, bytes: Zeroizing<Vec<u8>>) -> Result<Pattern, Failure> {
    if (SHORTEST..=LONGEST).contains(&bytes.len()) {
        return Ok(Pattern { name, bytes });
    }
    Err(Failure::new(
        format!("{name} has {} bytes", bytes.len()),
        format!("give {SHORTEST} to {LONGEST} bytes: fewer are found everywhere"),
    ))
}

/// Pairs of digits, with colons or blanks between.
fn unhex(digits: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    let mut high = None;
    for digit in digits.chars().filter(|c| !matches!(c, ':' | ' ')) {
        let digit = digit.to_digit(16)?;
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push(u8::try_from(high << 4 | digit).ok()?),
        }
    }
    high.is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::unhex;

    #[test]
    fn pairs_of_digits() {
        assert_eq!(
            unhex("00fF:13 a0").unwrap().as_slice(),
            [0, 255, 0x13, 0xa0]
        );
        for wrong in ["0", "0g", "0x00"] {
            assert!(unhex(wrong).is_none(), "{wrong}");
        }
    }
}
