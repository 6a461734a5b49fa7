//! The library as a file: what it exports, and what it does to a process that has it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use support::{Workshop, compiler, manifest, run};

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(manifest("include/strongroom.h")).unwrap();
    let (_, code) = header.split_once("#ifndef STRONGROOM_H").unwrap();
    let mut declared = BTreeSet::new();
    for line in code.lines().filter(|line| line.ends_with(");")) {
        let (before, _) = line.split_once('(').unwrap();
        let name = before.rsplit([' ', '*']).next().unwrap();
        if name.starts_with("strongroom_") && !line.starts_with(' ') {
            declared.insert(name.to_owned());
        }
    }
    declared
}

#[test]
fn what_the_header_declares_is_exported_and_nothing_else() {
    let workshop = Workshop::new();
    let exported: BTreeSet<String> = run(Command::new("nm")
        .args(["--dynamic", "--defined-only", "--format=just-symbols"])
        .arg(workshop.library()))
    .lines()
    .map(str::to_owned)
    .collect();
    assert_eq!(exported, declared());
    assert!(exported.len() > 30);
}

#[test]
fn programs_are_bound_to_the_interface_number() {
    let workshop = Workshop::new();
    let needed = |file| {
        run(Command::new("readelf").arg("--dynamic").arg(file))
            .lines()
            .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
            .collect::<Vec<_>>()
    };
    assert!(needed(workshop.library()).contains(&"libstrongroom.so.0".to_owned()));
    assert!(needed(workshop.program("values")).contains(&"libstrongroom.so.0".to_owned()));
}

/// `malloc` stays the program's: a library that brought an allocator would be seen here.
#[test]
fn the_programs_malloc_is_its_own() {
    let workshop = Workshop::new();
    let undefined = run(Command::new("nm")
        .args(["--dynamic", "--undefined-only", "--format=just-symbols"])
        .arg(workshop.library()));
    let undefined: BTreeSet<_> = undefined
        .lines()
        .filter_map(|line| line.split('@').next())
        .collect();
    for name in ["malloc", "calloc", "realloc", "free"] {
        assert!(undefined.contains(name), "{name} in {undefined:?}");
    }
}

#[test]
fn who_only_links_it_has_no_thread_no_handler_and_no_memory_of_it() {
    let workshop = Workshop::new();
    let compile = |name: &str, flags: &[String]| {
        let program = workshop.path().join(name);
        let source = manifest("tests/programs/idle.c");
        run(compiler("gcc", "c99")
            .arg(source)
            .arg("-o")
            .arg(&program)
            .args(flags));
        let said = run(&mut workshop.command(program));
        let mut facts = BTreeMap::new();
        for line in said.lines() {
            let mut words = line.split_whitespace();
            let key = (
                words.next().unwrap(),
                words.next().unwrap().trim_end_matches(':'),
            );
            let key = (key.0.to_owned(), key.1.to_owned());
            facts.insert(key, words.collect::<Vec<_>>().join(" "));
        }
        facts
    };
    let mut flags = vec!["-DUSE".to_owned()];
    flags.extend(workshop.flags(&[]));
    let (without, with) = (compile("without", &[]), compile("with", &flags));
    let fact = |of: &BTreeMap<_, String>, when: &str, what: &str| {
        of[&(when.to_owned(), what.to_owned())].clone()
    };
    for what in ["Threads", "SigCgt", "SigIgn", "SigBlk", "VmLck"] {
        let plain = fact(&without, "before", what);
        assert_eq!(fact(&with, "before", what), plain, "{what}");
        assert_eq!(fact(&with, "asked", what), plain, "{what}");
        if what != "VmLck" {
            assert_eq!(fact(&with, "used", what), plain, "{what}");
        }
    }
    // The control: memory that is taken shows, by the same eyes.
    let mappings = |when| fact(&with, when, "mappings").parse::<i32>().unwrap();
    assert_eq!(mappings("before"), mappings("asked"));
    assert!(mappings("used") > mappings("asked"), "{with:?}");
}

#[test]
fn it_is_opened_at_run_time_and_stays() {
    let workshop = Workshop::new();
    let program = workshop.program("plugin");
    let said = run(Command::new(program).arg(workshop.library()));
    assert_eq!(said, "still there\n");
}

#[test]
fn it_is_linked_statically() {
    let workshop = Workshop::new();
    let program = workshop.path().join("static");
    let mut flags = workshop.flags(&["--static"]);
    for flag in &mut flags {
        if flag == "-lstrongroom" {
            *flag = "-l:libstrongroom.a".to_owned();
        }
    }
    run(compiler("gcc", "c99")
        .args(["-D_GNU_SOURCE"])
        .arg(manifest("tests/programs/values.c"))
        .arg("-o")
        .arg(&program)
        .args(flags));
    // Without the directory of the shared one.
    assert_eq!(run(&mut Command::new(program)), "all as it was\n");
}

/// The example of docs/c.md: compiled as it says, and run.
#[test]
fn the_documentations_example_works() {
    let workshop = Workshop::new();
    let text = std::fs::read_to_string(manifest("../../docs/c.md")).unwrap();
    let (_, example) = text.split_once("```c\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let source = workshop.path().join("key.c");
    std::fs::write(&source, example).unwrap();
    let program = workshop.path().join("key");
    run(compiler("gcc", "c99")
        .arg(source)
        .arg("-o")
        .arg(&program)
        .args(workshop.flags(&[])));
    assert_eq!(run(&mut workshop.command(program)), "");
}

/// DESTDIR is where it is written to, and in no file.
#[test]
fn packagers_have_a_place_of_their_own() {
    let place = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    run(Command::new(manifest("install"))
        .arg(test.parent().unwrap())
        .arg("/opt/strongroom")
        .env("DESTDIR", place.path()));
    let root = place.path().join("opt/strongroom");
    let config = std::fs::read_to_string(root.join("lib/pkgconfig/strongroom.pc")).unwrap();
    assert!(config.starts_with("prefix=/opt/strongroom\n"), "{config}");
    assert!(!config.contains('@'), "{config}");
    let link = std::fs::read_link(root.join("lib/libstrongroom.so.0")).unwrap();
    assert_eq!(
        link.to_str(),
        Some(concat!("libstrongroom.so.", env!("CARGO_PKG_VERSION")))
    );
}
