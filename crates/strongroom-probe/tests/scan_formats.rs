//! Keys that OpenSSL and OpenSSH made, in every format: told by themselves, and found by their parts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::path::Path;
use std::process::Command;
use strongroom_probe::scan::{Finders, Key, Kind, Pattern, Report, Scan, Unusable};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// Makes keys by a shell in a directory of its own.
fn workshop(script: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    carry_out(directory.path(), script);
    directory
}

fn carry_out(directory: &Path, script: &str) {
    let done = Command::new("/bin/sh")
        .args(["-e", "-c", script])
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{script}\n{said}");
}

fn parse(bytes: &[u8], passphrase: Option<&str>) -> Result<Key, Unusable> {
    let passphrase = passphrase.map(|text| Zeroizing::new(text.to_owned()));
    Key::parse("key", bytes, &mut || {
        passphrase.clone().ok_or_else(|| "nobody knows".to_owned())
    })
}

fn scan(scan: &Scan, contents: &[u8]) -> Report {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), contents).unwrap();
    scan.file(file.path(), &mut |_, _| {}).unwrap()
}

/// Between other bytes, at an odd offset.
fn buried(bytes: &[u8]) -> Vec<u8> {
    let mut all: Vec<u8> = (0..70_001)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    all.extend(bytes);
    all.extend(std::iter::repeat_n(0xa5, 3000));
    all
}

const KEYS: &str = "
exec 2>/dev/null
ssh-keygen -q -t rsa -b 2048 -N '' -f rsa
ssh-keygen -q -t ed25519 -N '' -f ed25519
ssh-keygen -q -t ecdsa -b 384 -N '' -f ecdsa
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa-pkcs8.pem
openssl rsa -in rsa-pkcs8.pem -traditional -out rsa-pkcs1.pem
openssl ecparam -name prime256v1 -genkey -out ec-sec1.pem
openssl pkcs8 -topk8 -nocrypt -in ec-sec1.pem -out ec-pkcs8.pem
openssl genpkey -algorithm ed25519 -out ed25519-pkcs8.pem
for name in rsa ec ed25519; do
  openssl pkcs8 -topk8 -nocrypt -in $name-pkcs8.pem -outform DER -out $name-pkcs8.der
done
openssl rsa -in rsa-pkcs8.pem -traditional -outform DER -out rsa-pkcs1.der
openssl ec -in ec-sec1.pem -outform DER -out ec-sec1.der
for key in rsa ed25519 ecdsa; do
  (echo '-----BEGIN'; cat $key) >/dev/null
  grep -v -- '-----' $key | base64 -d > $key.bin
done
for key in rsa-pkcs8 rsa-pkcs1 ec-sec1 ec-pkcs8; do
  cp $key.pem copy; chmod 600 copy; ssh-keygen -y -f copy > $key.pub
done
# ssh-keygen of Debian 12 reads no PKCS#8 of Ed25519: the public half by hand.
(printf '\\000\\000\\000\\013ssh-ed25519\\000\\000\\000\\040'
 openssl pkey -in ed25519-pkcs8.pem -pubout -outform DER | tail -c 32) | base64 -w0 |
 sed 's/^/ssh-ed25519 /' > ed25519-pkcs8.pub
";

fn fingerprint(directory: &Path, name: &str) -> String {
    let said = Command::new("ssh-keygen")
        .args(["-l", "-f"])
        .arg(directory.join(name))
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    said.split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("{name}: {said}"))
        .to_owned()
}

#[test]
fn every_format_tells_its_key_and_is_found() {
    let directory = workshop(KEYS);
    for (file, public, kind) in [
        ("rsa", "rsa.pub", Kind::Pem),
        ("ed25519", "ed25519.pub", Kind::Pem),
        ("ecdsa", "ecdsa.pub", Kind::Pem),
        ("rsa-pkcs8.pem", "rsa-pkcs8.pub", Kind::Pem),
        ("rsa-pkcs1.pem", "rsa-pkcs1.pub", Kind::Pem),
        ("ec-sec1.pem", "ec-sec1.pub", Kind::Pem),
        ("ec-pkcs8.pem", "ec-pkcs8.pub", Kind::Pem),
        ("ed25519-pkcs8.pem", "ed25519-pkcs8.pub", Kind::Pem),
        ("rsa.bin", "rsa.pub", Kind::OpenSsh),
        ("ed25519.bin", "ed25519.pub", Kind::OpenSsh),
        ("ecdsa.bin", "ecdsa.pub", Kind::OpenSsh),
        ("rsa-pkcs8.der", "rsa-pkcs8.pub", Kind::Der),
        ("rsa-pkcs1.der", "rsa-pkcs1.pub", Kind::Der),
        ("ec-sec1.der", "ec-sec1.pub", Kind::Der),
        ("ec-pkcs8.der", "ec-pkcs8.pub", Kind::Der),
        ("ed25519-pkcs8.der", "ed25519-pkcs8.pub", Kind::Der),
    ] {
        let contents = std::fs::read(directory.path().join(file)).unwrap();
        let fingerprint = fingerprint(directory.path(), public);
        // Without being told, and exactly once.
        let report = scan(&Scan::default(), &buried(&contents));
        let [hit] = report.hits.as_slice() else {
            panic!("{file}: {report:#?}");
        };
        assert_eq!(hit.kind, kind, "{file}");
        // OpenSSL puts the curve's parameters before a key.
        let start = contents.len() as u64 - hit.length;
        assert!(file == "ec-sec1.pem" || start < 2, "{file}: {hit:?}");
        let subject = &report.subjects[hit.subject];
        assert_eq!(
            subject.fingerprint.as_deref(),
            Some(fingerprint.as_str()),
            "{file}"
        );
        // As a key that is given, its parts are found in its own DER and in hexadecimal.
        if kind == Kind::OpenSsh {
            continue;
        }
        let key = parse(&contents, None).unwrap();
        assert_eq!(key.fingerprint(), Some(fingerprint.as_str()), "{file}");
    }
}

/// The parts of an RSA key, as openssl prints them, in both orders and in pieces.
#[test]
fn parts_of_rsa_are_found_in_any_order_and_in_pieces() {
    let directory = workshop(KEYS);
    let text = Command::new("openssl")
        .args(["pkey", "-noout", "-text", "-in", "rsa-pkcs8.pem"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let number = |name: &str| -> Vec<u8> {
        let (_, rest) = text.split_once(&format!("\n{name}:\n")).unwrap();
        let lines = rest.lines().take_while(|line| line.starts_with(' '));
        let digits: String = lines
            .flat_map(str::chars)
            .filter(char::is_ascii_hexdigit)
            .collect();
        let bytes = (0..digits.len() / 2)
            .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap());
        bytes.skip_while(|&byte| byte == 0).collect()
    };
    // The same key, from a format that has all numbers, and from one that lacks two.
    let openssh = workshop(&format!(
        "cp {}/rsa-pkcs8.pem key; chmod 600 key; ssh-keygen -q -p -N '' -f key",
        directory.path().display()
    ));
    for file in [
        directory.path().join("rsa-pkcs8.pem"),
        openssh.path().join("key"),
    ] {
        let given = Scan {
            keys: vec![parse(&std::fs::read(file).unwrap(), None).unwrap()],
            finders: Finders {
                formats: false,
                schedules: false,
            },
            ..Scan::default()
        };
        for name in [
            "privateExponent",
            "prime1",
            "prime2",
            "exponent1",
            "exponent2",
            "coefficient",
        ] {
            let big = number(name);
            let little: Vec<u8> = big.iter().rev().copied().collect();
            let lower: String = big.iter().map(|byte| format!("{byte:02x}")).collect();
            for (bytes, order) in [
                (big.clone(), "big endian"),
                (little.clone(), "little endian"),
                (lower.to_uppercase().into_bytes(), "in hexadecimal"),
                (lower.into_bytes(), "in hexadecimal"),
            ] {
                let report = scan(&given, &buried(&bytes));
                let [hit] = report.hits.as_slice() else {
                    panic!("{name} {order}: {report:#?}");
                };
                assert_eq!((hit.address, hit.length), (70_001, bytes.len() as u64));
                assert!(hit.what.ends_with(order), "{name}: {}", hit.what);
                assert_eq!(report.subjects[hit.subject].given.as_deref(), Some("key"));
            }
            // A heap's lists have overwritten the first 16 bytes of what was freed: the last of them, too,
            // which else is the number's own by chance, once in 256 keys.
            let overwritten = [&[!little[15]], &little[16..]].concat();
            let report = scan(&given, &buried(&overwritten));
            let hit = &report.hits[0];
            assert_eq!(
                (hit.address, hit.length),
                (70_002, little.len() as u64 - 16)
            );
            let rest = format!("bytes 16 to {0} of {0}", little.len());
            assert!(hit.what.ends_with(&rest), "{}", hit.what);
            // 15 bytes are no fragment.
            let fragment = [&big[..15], &[!big[15]]].concat();
            assert!(!scan(&given, &buried(&fragment)).has_hits());
        }
    }
}

/// The seed, and what SHA-512 makes of it.
#[test]
fn parts_of_ed25519_are_found() {
    let directory = workshop(
        "openssl genpkey -algorithm ed25519 -out key
         openssl pkey -in key -outform DER | tail -c 32 > seed
         openssl dgst -sha512 -binary seed > hash",
    );
    let read = |name| std::fs::read(directory.path().join(name)).unwrap();
    let given = Scan {
        keys: vec![parse(&read("key"), None).unwrap()],
        finders: Finders {
            formats: false,
            schedules: false,
        },
        ..Scan::default()
    };
    let hash = read("hash");
    let mut scalar = hash[..32].to_vec();
    scalar[0] &= 248;
    scalar[31] = scalar[31] & 127 | 64;
    let reversed: Vec<u8> = scalar.iter().rev().copied().collect();
    for (bytes, what) in [
        (read("seed"), "Ed25519 seed"),
        (scalar, "Ed25519 scalar, little endian"),
        (reversed, "Ed25519 scalar, big endian"),
        (hash[..32].to_vec(), "Ed25519 hash of the seed, first half"),
        (hash[32..].to_vec(), "Ed25519 hash of the seed, second half"),
    ] {
        let report = scan(&given, &buried(&bytes));
        assert!(
            report
                .hits
                .iter()
                .any(|hit| hit.what == what && hit.length == 32),
            "{what}: {report:#?}"
        );
    }
}

#[test]
fn encrypted_keys_ask() {
    let directory = workshop(
        "ssh-keygen -q -t ed25519 -N secret -f openssh
         openssl genpkey -algorithm ed25519 -aes256 -pass pass:secret -out pkcs8
         openssl genrsa -traditional -aes128 -passout pass:secret -out old 2>/dev/null",
    );
    let read = |name| std::fs::read(directory.path().join(name)).unwrap();
    for name in ["openssh", "pkcs8"] {
        let open = parse(&read(name), Some("secret")).unwrap();
        assert!(
            open.fingerprint()
                .is_some_and(|print| print.starts_with("SHA256:"))
        );
        let wrong = parse(&read(name), Some("wrong")).unwrap_err();
        assert_eq!(wrong, Unusable::Passphrase, "{name}");
        let nobody = parse(&read(name), None).unwrap_err();
        assert_eq!(
            nobody,
            Unusable::NoPassphrase("nobody knows".to_owned()),
            "{name}"
        );
        let report = scan(&Scan::default(), &buried(&read(name)));
        assert!(
            report.hits[0].what.contains("encrypted"),
            "{:?}",
            report.hits
        );
    }
    assert_eq!(
        parse(&read("old"), Some("secret")).unwrap_err(),
        Unusable::OldEncryption
    );
    assert_eq!(
        parse(&read("openssh.pub"), None).unwrap_err(),
        Unusable::Public
    );
    assert_eq!(parse(b"nothing", None).unwrap_err(), Unusable::NotAKey);
}

/// OpenSSH writes a scalar without the zero bytes that it begins with: one key of four on P-521, and there
/// are enough tries here to have one.
#[test]
fn scalars_may_be_short() {
    let is_short = |directory: &TempDir| {
        let contents = std::fs::read(directory.path().join("key")).unwrap();
        let key = parse(&contents, None).unwrap();
        let (_, scalar) = key.secrets().next().unwrap();
        scalar.len() < 65 || (scalar.len() == 65 && scalar[0] < 0x80)
    };
    let directory =
        std::iter::repeat_with(|| workshop("ssh-keygen -q -t ecdsa -b 521 -N '' -f key"))
            .take(100)
            .find(is_short)
            .expect("one of a hundred keys is short");
    carry_out(
        directory.path(),
        "cp key encrypted; ssh-keygen -q -p -P '' -N secret -f encrypted
         cp key sealed; ssh-keygen -q -p -P '' -N secret -Z aes256-gcm@openssh.com -f sealed
         sed '/-----/d' key | base64 -d > contents",
    );
    let read = |name| std::fs::read(directory.path().join(name)).unwrap();
    let print = fingerprint(directory.path(), "key.pub");
    for (name, passphrase) in [
        ("key", None),
        ("encrypted", Some("secret")),
        ("sealed", Some("secret")),
    ] {
        let key = parse(&read(name), passphrase).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(key.fingerprint(), Some(print.as_str()), "{name}");
    }
    assert_eq!(
        parse(&read("encrypted"), Some("wrong")).unwrap_err(),
        Unusable::Passphrase
    );
    for name in ["key", "contents"] {
        let report = scan(&Scan::default(), &buried(&read(name)));
        assert!(!report.hits.is_empty(), "{name}: {report:#?}");
    }
    // The numbers alone, as they go to an agent.
    let contents = read("contents");
    let private = memchr::memmem::rfind(&contents, b"\0\0\0\x13ecdsa-sha2-").unwrap();
    let report = scan(&Scan::default(), &buried(&contents[private..]));
    assert_eq!(report.hits[0].kind, Kind::OpenSsh, "{report:#?}");
}

/// PEM inside JSON, without its end, and only its first line, as programs have it that write PEM.
#[test]
fn blocks_in_other_texts() {
    let directory = workshop("openssl genpkey -algorithm ed25519 -out key");
    let pem = std::fs::read_to_string(directory.path().join("key")).unwrap();
    let json = format!("{{\"key\":\"{}\"}}", pem.replace('\n', "\\n"));
    assert_eq!(scan(&Scan::default(), json.as_bytes()).hits.len(), 1);
    let cut = scan(&Scan::default(), &pem.as_bytes()[..90]);
    assert_eq!(cut.hits.len(), 1);
    assert!(
        cut.hits[0].what.ends_with("without its end"),
        "{:?}",
        cut.hits
    );
    for none in [
        "-----BEGIN PRIVATE KEY-----\n\0",
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "-----BEGIN ",
    ] {
        assert!(
            !scan(&Scan::default(), none.as_bytes()).has_hits(),
            "{none}"
        );
    }
}

/// Wherever a thing lies, also across the edges of the pieces that are read, it is found once.
#[test]
fn nothing_is_lost_or_doubled_between_pieces() {
    const EVERY: usize = 4099;
    let needle: Vec<u8> = (0..48u8).map(|byte| byte ^ 0x35).collect();
    let given = Scan {
        patterns: vec![Pattern {
            name: "needle".to_owned(),
            bytes: Zeroizing::new(needle.clone()),
        }],
        show: true,
        ..Scan::default()
    };
    let mut contents = vec![0x11; 3 << 20];
    let places: Vec<usize> = (7..contents.len() - EVERY).step_by(EVERY).collect();
    for &place in &places {
        contents[place..place + needle.len()].copy_from_slice(&needle);
    }
    let report = scan(&given, &contents);
    let found: Vec<usize> = report.hits.iter().map(|hit| hit.address as usize).collect();
    assert_eq!(found, places);
    assert!(
        report
            .hits
            .iter()
            .all(|hit| hit.bytes.as_deref() == Some(&needle))
    );
    assert_eq!(report.coverage.scanned, contents.len() as u64);
    // At the very start and the very end.
    let report = scan(&given, &[needle.clone(), needle].concat());
    assert_eq!(report.hits.len(), 2);
}

#[test]
fn random_data_has_no_keys() {
    use std::io::Read;
    let mut contents = vec![0; 96 << 20];
    std::fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut contents)
        .unwrap();
    let directory = workshop("ssh-keygen -q -t rsa -b 2048 -N '' -f key");
    let key = std::fs::read(directory.path().join("key")).unwrap();
    let given = Scan {
        keys: vec![parse(&key, None).unwrap()],
        ..Scan::default()
    };
    let report = scan(&given, &contents);
    assert!(!report.has_hits(), "{report:#?}");
    assert!(report.complete);
}
