//! How fast `strongroom scan` searches.

use super::report::{Group, Row, Target};
use super::samples::{Side, interleave};
use super::{Bench, Result, process};
use std::fs::File;
use std::io::{self, Read};
use std::process::Command;
use std::time::Instant;

const METHOD: &str = "\
`strongroom scan` of a file of 512 MiB of random bytes in the page cache, on one core, from the start of the process to its \
end: reading included. The peers are `xtask/bench-programs/scan.c`, which reads in the same way: glibc's `memmem` for one \
pattern of 32 bytes, and a search for AES-128 schedules, of one form and one direction, word by word. The last three rows \
have no peer that does the same and stand beside one that does less: an RSA key of 3072 bits is some 90 places of its numbers in two orders and in hexadecimal.";

const MIB: usize = 512;
const PATTERN: &str = "a pattern that is nowhere, 32 of";

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let workshop = &bench.workshop;
    let peer = workshop.compile("scan", "scan", &[])?;
    let file = workshop.path().join("random");
    let mut random = File::open("/dev/urandom")?.take((MIB as u64) << 20);
    io::copy(&mut random, &mut File::create(&file)?)?;
    let key = workshop.path().join("key");
    let mut keygen = workshop.plain("ssh-keygen");
    keygen.args(["-q", "-t", "rsa", "-b", "3072", "-N", "", "-f"]);
    process::output(keygen.arg(&key))?;

    let ours = |options: &[&str]| -> Command {
        // On one core, as the peers are.
        let mut command = workshop.plain("taskset");
        command.arg("1").arg(workshop.path().join("strongroom"));
        command.arg("scan").arg(&file).args(options);
        command
    };
    let theirs = |options: &[&str]| -> Command {
        let mut command = workshop.plain("taskset");
        let (what, more) = options.split_at(1);
        command.arg("1").arg(&peer).args(what).arg(&file).args(more);
        command
    };
    let key = key.to_string_lossy().into_owned();
    let pattern: Vec<&str> = vec!["--only", "given", "--text", PATTERN];
    let mut rows = Vec::new();
    for (what, peer, theirs, ours, target) in [
        (
            "one pattern",
            "memmem",
            theirs(&["memmem", PATTERN]),
            ours(&pattern),
            Target::AtLeast(1024.0),
        ),
        (
            "AES schedules, all sizes and forms",
            "AES-128 word by word, one form",
            theirs(&["aes"]),
            ours(&["--only", "schedules"]),
            Target::AtLeast(300.0),
        ),
        (
            "one RSA key",
            "memmem, one pattern",
            theirs(&["memmem", PATTERN]),
            ours(&["--only", "given", "--key", &key]),
            Target::AtLeast(1024.0),
        ),
        (
            "private keys in all formats",
            "memmem, one pattern",
            theirs(&["memmem", "-----BEGIN "]),
            ours(&["--only", "formats"]),
            Target::AtLeast(1024.0),
        ),
        (
            "everything, and one RSA key",
            "AES-128 word by word, one form",
            theirs(&["aes"]),
            ours(&["--key", &key]),
            Target::AtLeast(300.0),
        ),
    ] {
        let speed = |mut command: Command| -> Side<'_> {
            Box::new(move || {
                let start = Instant::now();
                process::output(&mut command)?;
                Ok(MIB as f64 / start.elapsed().as_secs_f64())
            })
        };
        let what = what.to_owned();
        let [theirs, ours] = interleave(
            &format!("scan, {what}"),
            bench.rounds,
            [speed(theirs), speed(ours)],
        )?;
        rows.push(Row {
            what,
            peer: peer.into(),
            unit: "MiB/s",
            theirs,
            ours,
            target,
        });
    }
    std::fs::remove_file(&file)?;
    Ok(Group {
        plot: None,
        title: "Scan",
        method: METHOD,
        rows,
        notes: Vec::new(),
    })
}
