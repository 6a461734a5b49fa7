//! The page of `strongroom audit --html`, in a headless Chromium.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail the test"
)]

mod support;

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use support::{How, Room, Session, Who, need};

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");

/// The browser, where there is one.
fn browser() -> Option<&'static str> {
    let found = ["/usr/bin/chromium", "/usr/bin/chromium-browser"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    if found.is_none() {
        support::skip("there is no chromium; `cargo xtask test` installs it");
    }
    found
}

fn subject(room: &Room, name: &str, mappings: &str) -> (Session, i32) {
    let file = room.file(name, "x");
    let program = room.program("audited.c", &[]);
    let mut session = room.session(room.command(program).arg(file).arg(mappings));
    session.stage("heap");
    session.go();
    session.stage("large");
    session.go();
    let pid = session.stage("file").pid;
    (session, pid)
}

/// Writes the page, and what `--json` tells at the same time.
fn page(pid: i32, to: &Path) -> Value {
    let output = Command::new(STRONGROOM)
        .args(["audit", &pid.to_string(), "--json", "--html"])
        .arg(to)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The page's elements after its script ran, and what the browser logged of it.
fn dom(browser: &str, room: &Room, page: &Path, hash: &str) -> (String, String) {
    let profile = room.path().join(format!("profile{}", hash.len()));
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--window-size=1200,1000",
            "--virtual-time-budget=10000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}{hash}", page.display()))
        .env("HOME", room.path())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    (String::from_utf8(output.stdout).unwrap(), log)
}

/// The tags of the map's rectangles.
fn cells(dom: &str) -> Vec<&str> {
    dom.split("<div class=\"cell")
        .skip(1)
        .map(|rest| rest.split('>').next().unwrap())
        .collect()
}

#[track_caller]
fn assert_quiet(log: &str) {
    assert!(!log.contains("CONSOLE"), "{log}");
}

#[test]
fn a_rectangle_for_each_mapping_and_a_filter() {
    need!(root);
    let Some(browser) = browser() else { return };
    let room = Room::new(Who::Root, How::Plain);
    let (_session, pid) = subject(&room, "mapped", "0");
    let path = room.path().join("audit.html");
    let report = page(pid, &path);
    let mappings = report["mappings"].as_array().unwrap();
    let present: Vec<_> = mappings
        .iter()
        .filter(|mapping| mapping["present_pages"] != 0 || mapping["swapped_pages"] != 0)
        .collect();
    let (dom_all, log) = dom(browser, &room, &path, "");
    assert_quiet(&log);
    let all = cells(&dom_all);
    assert_eq!(all.len(), present.len());
    for mapping in &present {
        let start = mapping["start"].as_str().unwrap().trim_start_matches("0x");
        let start = format!("data-start=\"{start}\"");
        let cell = all.iter().find(|cell| cell.contains(&start)).unwrap();
        assert!(
            cell.contains("width:") && cell.contains("aria-label="),
            "{cell}"
        );
    }
    // The holes are there with their fixes.
    for hole in report["holes"].as_array().unwrap() {
        assert!(dom_all.contains(hole["hole"].as_str().unwrap()));
    }

    for (hash, adversary) in [
        ("#adversary=root", "root"),
        ("#adversary=fork-child", "fork-child"),
    ] {
        let (filtered, log) = dom(browser, &room, &path, hash);
        assert_quiet(&log);
        let reachable = present
            .iter()
            .filter(|mapping| mapping["exposure"][adversary]["reach"] == "reachable")
            .count();
        let shown = cells(&filtered);
        let red = shown
            .iter()
            .filter(|cell| cell.contains("data-reach=\"reachable\""));
        assert_eq!(
            (shown.len(), red.count()),
            (present.len(), reachable),
            "{adversary}"
        );
        let pressed = format!(
            "<button type=\"button\" aria-pressed=\"true\"><span class=\"name\">{adversary}<"
        );
        assert!(filtered.contains(&pressed), "{filtered}");
    }
}

#[test]
fn names_stay_text() {
    need!(root);
    let Some(browser) = browser() else { return };
    let room = Room::new(Who::Root, How::Plain);
    // A slash would be a directory: `</script>` needs one.
    let directory = room.path().join("x<");
    std::fs::create_dir(&directory).unwrap();
    let name = "x</script><b id=pwned><img src=x onerror=alert(1)>";
    let (_session, pid) = subject(&room, name, "0");
    let path = room.path().join("audit.html");
    page(pid, &path);
    let source = std::fs::read_to_string(&path).unwrap();
    assert_eq!(source.matches("</script>").count(), 2, "data and script");
    let (dom, log) = dom(browser, &room, &path, "");
    assert_quiet(&log);
    assert!(!dom.contains("<b id="), "{dom}");
    assert!(!dom.contains("<img"), "{dom}");
    assert!(dom.contains("&lt;/script&gt;&lt;b id=pwned&gt;"), "{dom}");
}

#[test]
fn nothing_comes_from_a_network() {
    let room = Room::new(Who::User, How::Plain);
    let path = room.path().join("audit.html");
    page(std::process::id() as i32, &path);
    let source = std::fs::read_to_string(&path).unwrap();
    assert!(source.contains("default-src 'none'"));
    for word in [
        "http:",
        "https:",
        "src=",
        "@import",
        "url(",
        "fetch(",
        "XMLHttpRequest",
    ] {
        assert!(!source.contains(word), "{word}");
    }
    // The file is replaced as a whole, and nothing else is left.
    let before = std::fs::metadata(&path).unwrap();
    page(std::process::id() as i32, &path);
    let after = std::fs::metadata(&path).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_ne!(before.ino(), after.ino());
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 1);
}

#[test]
fn five_thousand_mappings_are_drawn() {
    need!(root);
    let Some(browser) = browser() else { return };
    let room = Room::new(Who::Root, How::Plain);
    let (_session, pid) = subject(&room, "mapped", "5000");
    let path = room.path().join("audit.html");
    page(pid, &path);
    let (dom, log) = dom(browser, &room, &path, "#adversary=pin");
    assert_quiet(&log);
    assert!(cells(&dom).len() > 5000);
}
