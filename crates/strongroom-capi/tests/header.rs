//! The header: C of each standard and C++, and what Rust has.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use strongroom_capi::conceal::strongroom_concealed;
use strongroom_capi::error::CODES;
use strongroom_capi::policy::*;
use strongroom_capi::version::{SR_ABI, SR_VERSION};
use support::{Workshop, compiler, manifest, run};

#[test]
fn it_is_strict_c_and_cpp() {
    let workshop = Workshop::new();
    // Nothing before it, it twice, and a policy from either macro.
    let source = "#include <strongroom.h>\n#include <strongroom.h>\n\
        int main(void)\n{\n    strongroom_policy a = SR_REQUIRE(SR_HIDDEN), b = SR_PREFER(SR_HIDDEN);\n    \
        return a.required == SR_HIDDEN && b.required == SR_LOCKED && strongroom_abi() == SR_ABI ? 0 : 1;\n}\n";
    for (name, standards) in [
        ("gcc", &["c99", "c11", "c17"][..]),
        ("g++", &["c++11", "c++17", "c++20"]),
    ] {
        for standard in standards {
            let file = workshop
                .path()
                .join(if name == "gcc" { "a.c" } else { "a.cpp" });
            std::fs::write(&file, source).unwrap();
            let program = workshop.path().join("a");
            run(compiler(name, standard)
                .args(["-pedantic-errors", "-Wconversion", "-Wshadow"])
                .arg(&file)
                .arg("-o")
                .arg(&program)
                .args(workshop.flags(&[])));
            run(&mut workshop.command(&program));
        }
    }
}

/// What Rust says of each constant and structure, by its name in C.
fn in_rust() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (code, name, _) in CODES {
        all.insert((*name).to_owned(), *code as u64);
    }
    for (bit, name) in PROTECTIONS {
        all.insert((*name).to_owned(), u64::from(*bit));
    }
    let more = [
        ("SR_LOCKED", u64::from(SR_LOCKED)),
        ("SR_HIDDEN", u64::from(SR_HIDDEN)),
        ("SR_CLOSED", u64::from(SR_CLOSED)),
        ("SR_FORK_COPY", u64::from(SR_FORK_COPY)),
        ("SR_FORK_DROP", u64::from(SR_FORK_DROP)),
        ("SR_FORK_DENY", u64::from(SR_FORK_DENY)),
        ("SR_ABI", u64::from(SR_ABI)),
        (
            "sizeof(strongroom_policy)",
            size_of::<strongroom_policy>() as u64,
        ),
        (
            "sizeof(strongroom_concealed)",
            size_of::<strongroom_concealed>() as u64,
        ),
    ];
    all.extend(more.map(|(name, value)| (name.to_owned(), value)));
    macro_rules! fields {
        ($structure:ident: $($field:ident)*) => {$(
            let name = concat!("offsetof(", stringify!($structure), ", ", stringify!($field), ")");
            all.insert(name.to_owned(), std::mem::offset_of!($structure, $field) as u64);
        )*};
    }
    fields!(strongroom_policy: size required preferred fork besides);
    fields!(strongroom_concealed: secret locked);
    all
}

/// The constants that the header has.
fn in_header() -> Vec<String> {
    let header = std::fs::read_to_string(manifest("include/strongroom.h")).unwrap();
    header
        .lines()
        .filter_map(|line| {
            let line = line.trim_start();
            let name = line.strip_prefix("#define ").unwrap_or(line);
            let (name, rest) = name.split_once(' ')?;
            let constant = name.starts_with("SR_") && !name.contains('(') && !rest.starts_with('"');
            (constant && (line.starts_with('#') || rest.starts_with("= "))).then(|| name.to_owned())
        })
        .collect()
}

#[test]
fn it_says_what_rust_says() {
    let workshop = Workshop::new();
    let in_rust = in_rust();
    let mut source = "#include <strongroom.h>\n#include <stdio.h>\nint main(void)\n{\n".to_owned();
    for name in in_rust.keys() {
        let _ = writeln!(
            source,
            "    printf(\"%lu {name}\\n\", (unsigned long)({name}));"
        );
    }
    source.push_str("    printf(\"%s %s\\n\", SR_VERSION, strongroom_version());\n");
    source.push_str("    return strongroom_abi() == SR_ABI ? 0 : 1;\n}\n");
    let file = workshop.path().join("constants.c");
    std::fs::write(&file, source).unwrap();
    let program = workshop.path().join("constants");
    run(compiler("gcc", "c99")
        .arg(&file)
        .arg("-o")
        .arg(&program)
        .args(workshop.flags(&[])));
    let said = run(&mut workshop.command(&program));
    let mut expected: String = String::new();
    for (name, value) in &in_rust {
        let _ = writeln!(expected, "{value} {name}");
    }
    let _ = writeln!(expected, "{SR_VERSION} {SR_VERSION}");
    assert_eq!(said, expected);

    // And nothing in it that Rust does not know.
    let in_header = in_header();
    assert!(in_header.len() > 40, "{in_header:?}");
    for name in &in_header {
        assert!(in_rust.contains_key(name), "{name} is in the header alone");
    }
    let constants = in_rust.keys().filter(|name| name.starts_with("SR_"));
    assert_eq!(constants.count(), in_header.len());
}

/// Receipts and codes use the same words for the same reason.
#[test]
fn the_words_are_those_of_receipts() {
    use strongroom::{Protection, Reason};
    let word = |code| {
        let found = CODES.iter().find(|(number, ..)| *number == code);
        found.map(|(.., word)| *word).unwrap()
    };
    use strongroom_capi::error::*;
    assert_eq!(
        word(SR_E_LOCK_LIMIT),
        Reason::LockLimit { need: 0, limit: 0 }.word()
    );
    assert_eq!(word(SR_E_NO_SECRET_MEMORY), Reason::NoSecretMemory.word());
    assert_eq!(word(SR_E_POOL_FULL), Reason::PoolFull { need: 0 }.word());
    for protection in Protection::ALL {
        let name = strongroom_protection_name(protection.only().bits());
        // SAFETY: a static text.
        let name = unsafe { std::ffi::CStr::from_ptr(name) };
        assert_eq!(name.to_str().unwrap(), protection.name());
    }
    assert_eq!(PROTECTIONS.len(), Protection::ALL.len());
    assert!(strongroom_protection_name(0).is_null() && strongroom_protection_name(3).is_null());
    assert!(
        strongroom_error_name(-1).is_null() && strongroom_error_name(CODES.len() as i32).is_null()
    );
}
