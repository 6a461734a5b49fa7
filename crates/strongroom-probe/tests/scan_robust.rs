//! Whatever lies in memory or in a file, nothing panics; a core that is cut says so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use proptest::prelude::*;
use std::process::Command;
use std::sync::LazyLock;
use strongroom_probe::scan::{Key, Pattern, Report, Scan, Target};
use zeroize::Zeroizing;

fn scan(scan: &Scan, contents: &[u8]) -> Report {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), contents).unwrap();
    scan.file(file.path(), &mut |_, _| {}).unwrap()
}

/// Real keys in all formats.
static KEYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let script = "
        ssh-keygen -q -t rsa -b 1024 -N '' -f 1; ssh-keygen -q -t ed25519 -N '' -f 2
        ssh-keygen -q -t ecdsa -N '' -f 3; ssh-keygen -q -t ed25519 -N secret -f 4
        openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out 5
        openssl rsa -in 5 -traditional -outform DER -out 6
        openssl pkcs8 -topk8 -nocrypt -in 5 -outform DER -out 7
        openssl ecparam -name prime256v1 -genkey -noout -outform DER -out 8
        openssl genpkey -algorithm ed25519 -outform DER -out 9
        for i in 1 2 3; do grep -v -- ----- $i | base64 -d > 1$i; done
        printf '(11:private-key(3:ecc(5:curve7:Ed25519)(1:q3:abc)(1:d32:' > 14
        printf '01234567890123456789012345678901)))' >> 14
        printf 'Key: (private-key (rsa (n #00FF#)(e #03#)(d #12#)\n (p #0F#)(q #11#)(u #01#)))' > 15";
    let done = Command::new("/bin/sh")
        .args(["-e", "-c", script])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    (1..=15)
        .filter_map(|i| std::fs::read(directory.path().join(i.to_string())).ok())
        .collect()
});

fn look_at(bytes: &[u8]) {
    for passphrase in [None, Some("secret")] {
        let key = Key::parse("key", bytes, &mut || {
            passphrase
                .map(|text| Zeroizing::new(text.to_owned()))
                .ok_or_else(String::new)
        });
        let given = Scan {
            keys: key.into_iter().collect(),
            ..Scan::default()
        };
        scan(&given, bytes);
    }
}

#[test]
fn keys_cut_at_every_point() {
    for key in KEYS.iter() {
        for end in (0..key.len()).step_by(1 + key.len() / 50) {
            look_at(&key[..end]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        look_at(&bytes);
    }

    #[test]
    fn mutated_keys(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        repeats in 1usize..3,
    ) {
        let mut bytes = KEYS[which.index(KEYS.len())].repeat(repeats);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        look_at(&bytes);
    }

    #[test]
    fn mutated_cores(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = core();
        for (place, value) in changes {
            // The heads, mostly.
            let place = place.index(512);
            bytes[place] = value;
        }
        scan(&needle(), &bytes);
    }
}

const NEEDLE: &[u8] = b"a needle in a core, of some length";

fn needle() -> Scan {
    Scan {
        patterns: vec![Pattern {
            name: "needle".to_owned(),
            bytes: Zeroizing::new(NEEDLE.to_vec()),
        }],
        ..Scan::default()
    }
}

/// A core of two segments next to each other, with the needle across their border, and a list of files.
fn core() -> Vec<u8> {
    let word = |value: u64| value.to_le_bytes().to_vec();
    let mut note = Vec::new();
    for half in [5u32, 0, 0x4649_4c45] {
        note.extend(half.to_le_bytes());
    }
    note.extend(b"CORE\0\0\0\0");
    let mut files = [word(1), word(4096), word(0x10000), word(0x11000), word(0)].concat();
    files.extend(b"/a/file\0");
    note[4..8].copy_from_slice(&(files.len() as u32).to_le_bytes());
    note.extend(files);

    let mut core = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    core.extend([4, 0, 62, 0, 1, 0, 0, 0]);
    for value in [0, 64, 0] {
        core.extend(word(value));
    }
    for half in [0u16, 0, 64, 56, 3, 0, 0, 0] {
        core.extend(half.to_le_bytes());
    }
    let (first, size) = (0x200u64, 0x1000u64);
    let mut head = |kind: u32, flags: u32, offset: u64, address: u64, file: u64, memory: u64| {
        core.extend(kind.to_le_bytes());
        core.extend(flags.to_le_bytes());
        for value in [offset, address, 0, file, memory, 1] {
            core.extend(word(value));
        }
    };
    head(4, 4, 64 + 3 * 56, 0, note.len() as u64, 0);
    head(1, 6, first, 0x10000, size, size);
    head(1, 4, first + size, 0x11000, size, 4 * size);
    core.extend(note);
    core.resize((first + 2 * size) as usize, 0x33);
    let place = (first + size) as usize - 10;
    core[place..place + NEEDLE.len()].copy_from_slice(NEEDLE);
    core
}

#[test]
fn a_core_is_read_by_its_addresses() {
    let report = scan(&needle(), &core());
    assert!(matches!(report.target, Target::Core { .. }), "{report:#?}");
    assert!(report.complete, "{report:#?}");
    let [hit] = report.hits.as_slice() else {
        panic!("{report:#?}");
    };
    assert_eq!(hit.address, 0x11000 - 10);
    let place = &report.places[hit.place.unwrap()];
    assert_eq!((place.start, place.end), (0x10000, 0x11000));
    assert_eq!(
        (place.name.as_str(), place.access.as_str()),
        ("/a/file", "rw-")
    );
    assert_eq!(report.coverage.absent, 3 * 0x1000);
}

/// Wherever it is cut, it is not complete; and what is there still is found.
#[test]
fn a_core_that_is_cut_is_partial() {
    let whole = core();
    let end = 0x1200 - 10 + NEEDLE.len();
    for length in (18..whole.len())
        .filter(|length| *length < 0x300 || length % 31 == 0 || length.abs_diff(end) < 3)
    {
        let report = scan(&needle(), &whole[..length]);
        assert!(!report.complete, "cut after {length} bytes");
        assert_eq!(report.has_hits(), length >= end, "cut after {length} bytes");
    }
}

/// Segments that overlap, or reach past the end of all addresses.
#[test]
fn heads_that_lie() {
    for (place, value) in [
        (64 + 56 + 16, u64::MAX - 100),
        (64 + 56 + 32, u64::MAX),
        (64 + 2 * 56 + 16, 0x10100),
    ] {
        let mut bytes = core();
        bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
        scan(&needle(), &bytes);
    }
}
