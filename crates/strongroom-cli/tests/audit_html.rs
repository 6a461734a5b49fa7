//! `strongroom audit PID --html FILE`: the page in a real browser, without a network.
//!
//! Chromium draws it and prints the document that came of it. Where a test has to press a button, it
//! appends a script to a copy of the page: the page's own policy lets only one with its nonce run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers fail the test"
)]

mod support;

use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");

/// A file name that would be markup, if anything took it for that.
const HOSTILE: &str = "script><b id=injected>bold<!-- & \u{202e}gnp.so";
/// So many mappings of a page each.
const SMALL: usize = 1500;

/// Maps the file once in whole and SMALL times by a page, writes a byte to each and waits.
const SUBJECT: &str = r#"
import mmap, sys
file = open(sys.argv[1], "r+b")
kept = []
for size in [0] + [4096] * int(sys.argv[2]):
    mapping = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE)
    mapping[0] = 1
    kept.append(mapping)
print("ready", flush=True)
sys.stdin.read()
"#;

/// The page of a process with hostile names, which is made once, and the process's JSON in it.
struct Page {
    html: String,
    data: Value,
}

fn page() -> &'static Page {
    static PAGE: OnceLock<Page> = OnceLock::new();
    PAGE.get_or_init(|| {
        let room = tempfile::tempdir().unwrap();
        // The path has `</script>` in it: a directory's name ends in `<`.
        let directory = room.path().join("x<");
        fs::create_dir(&directory).unwrap();
        let hostile = directory.join(HOSTILE);
        fs::write(&hostile, vec![7_u8; 1 << 16]).unwrap();
        let mut subject = Command::new("python3")
            .args(["-c", SUBJECT])
            .arg(&hostile)
            .arg(SMALL.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(subject.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        assert_eq!(ready, "ready\n");
        let file = room.path().join("page.html");
        let audit = Command::new(STRONGROOM)
            .arg("audit")
            .arg(subject.id().to_string())
            .arg("--html")
            .arg(&file)
            .output()
            .unwrap();
        drop(subject.stdin.take());
        subject.wait().unwrap();
        assert!(file.exists(), "{audit:?}");
        let html = fs::read_to_string(&file).unwrap();
        let (_, data) = html.split_once("id=\"data\">").unwrap();
        let (data, _) = data.split_once("</script>").unwrap();
        let data = serde_json::from_str(data).unwrap();
        Page { html, data }
    })
}

impl Page {
    fn mappings(&self) -> &Vec<Value> {
        self.data["mappings"].as_array().unwrap()
    }

    /// The mappings that have pages, with how many bytes.
    fn present(&self) -> Vec<(&Value, u64)> {
        let weight = |m: &Value| m["present"].as_u64().unwrap() + m["swapped"].as_u64().unwrap();
        let all = self.mappings().iter().map(|m| (m, weight(m)));
        all.filter(|(_, weight)| *weight > 0).collect()
    }

    /// Whether the adversary reaches the mapping, as the page's data has it.
    fn reach<'a>(&'a self, mapping: &Value, adversary: &str) -> &'a str {
        let adversaries = self.data["adversaries"].as_array().unwrap();
        let place = adversaries
            .iter()
            .position(|one| one["name"] == adversary)
            .unwrap();
        let number = mapping["reach"][place].as_u64().unwrap() as usize;
        self.data["verdicts"][number]["reach"].as_str().unwrap()
    }

    /// The page with this script at its end, which leaves its findings in `data-found`.
    fn driven(&self, script: &str) -> String {
        let (_, nonce) = self.html.split_once("<script nonce=\"").unwrap();
        let (nonce, _) = nonce.split_once('"').unwrap();
        let script = format!(
            "<script nonce=\"{nonce}\">(() => {{ const found = {{}};\n{script}\n\
             document.documentElement.dataset.found = JSON.stringify(found); }})();</script></body>"
        );
        self.html.replace("</body>", &script)
    }
}

/// Chromium, once for each document, in a home of its own.
struct Browser {
    home: TempDir,
}

impl Browser {
    /// None, and says so, where there is no Chromium.
    fn new() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let version = Command::new("chromium")
            .arg("--version")
            .env("HOME", home.path())
            .output();
        if version.is_err() {
            support::skip("it needs Debian's package chromium");
            return None;
        }
        Some(Self { home })
    }

    /// The document that comes of this page at this hash, when its scripts have run.
    fn document(&self, html: &str, hash: &str) -> String {
        let file = self.home.path().join("page.html");
        fs::write(&file, html).unwrap();
        let dump = self.home.path().join("document");
        let child = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-breakpad",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--window-size=1280,900",
                "--virtual-time-budget=5000",
                "--dump-dom",
            ])
            .arg(format!("--user-data-dir={}", self.profile().display()))
            .arg(format!("file://{}{hash}", file.display()))
            .env("HOME", self.home.path())
            .stdin(Stdio::null())
            .stdout(File::create(&dump).unwrap())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut run = Run {
            child,
            browser: self,
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        while run.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "Chromium does not end");
            sleep(Duration::from_millis(20));
        }
        drop(run);
        fs::read_to_string(&dump).unwrap()
    }

    /// The same, of a page that has to have run to its end without an error.
    fn sound(&self, html: &str, hash: &str) -> String {
        let document = self.document(html, hash);
        let (root, _) = document.split_once("<head>").unwrap();
        assert!(root.contains("data-ready=\"true\""), "{root}");
        assert!(!root.contains("data-errors"), "{root}");
        document
    }

    fn profile(&self) -> PathBuf {
        self.home.path().join("profile")
    }

    /// The processes that work for this browser: its profile is on their command lines.
    fn processes(&self) -> Vec<i32> {
        let profile = self.profile();
        let profile = profile.to_str().unwrap();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| String::from_utf8_lossy(&line).contains(profile))
            })
            .collect()
    }
}

/// A run of the browser, all of whose processes end with it.
struct Run<'a> {
    child: Child,
    browser: &'a Browser,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let group = self.child.id() as i32;
        // SAFETY: killpg touches no memory. The group is the child's own, and none but its processes join it.
        unsafe { libc::killpg(group, libc::SIGKILL) };
        let _ = self.child.wait();
        // Those that left the group.
        for _ in 0..500 {
            let left = self.browser.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                // SAFETY: kill touches no memory. The process has this browser's own profile on its command line.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            sleep(Duration::from_millis(10));
        }
        assert!(std::thread::panicking(), "Chromium's processes do not end");
    }
}

/// A cell of the treemap.
#[derive(Debug)]
struct Cell {
    count: u64,
    bytes: u64,
    /// None where small ones are merged.
    start: Option<String>,
    classes: Vec<String>,
    /// Left, top, width and height in pixels.
    place: [f64; 4],
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = tag.split_once(&format!(" {name}=\""))?;
    Some(value.split_once('"')?.0)
}

fn cells(document: &str) -> Vec<Cell> {
    let (_, map) = document.split_once("id=\"treemap\"").unwrap();
    let (map, _) = map.split_once("id=\"legend\"").unwrap();
    map.split("<button class=\"cell ")
        .skip(1)
        .map(|tag| {
            let (classes, _) = tag.split_once('"').unwrap();
            let number = |name| attribute(tag, name).unwrap().parse().unwrap();
            let style = attribute(tag, "style").unwrap();
            let length = |side: &str| {
                let (_, value) = style.split_once(&format!("{side}: ")).unwrap();
                value.split_once("px").unwrap().0.parse().unwrap()
            };
            Cell {
                count: number("data-count"),
                bytes: number("data-bytes"),
                start: attribute(tag, "data-start").map(str::to_owned),
                classes: classes.split_whitespace().map(str::to_owned).collect(),
                place: ["left", "top", "width", "height"].map(length),
            }
        })
        .collect()
}

fn found(document: &str) -> Value {
    let (root, _) = document.split_once("<head>").unwrap();
    let text = attribute(root, "data-found").unwrap_or_else(|| panic!("{root}"));
    let text = text
        .replace("&quot;", "\"")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&nbsp;", " ")
        .replace("&amp;", "&");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_treemap_shows_every_present_mapping_once() {
    let Some(browser) = Browser::new() else {
        return;
    };
    let page = page();
    let cells = cells(&browser.sound(&page.html, ""));
    let present = page.present();
    assert!(present.len() > SMALL);
    assert_eq!(
        cells.iter().map(|cell| cell.count).sum::<u64>(),
        present.len() as u64
    );
    assert_eq!(
        cells.iter().map(|cell| cell.bytes).sum::<u64>(),
        present.iter().map(|(_, weight)| weight).sum::<u64>()
    );
    assert!(
        cells.iter().any(|cell| cell.count > SMALL as u64 / 2),
        "the small ones are not merged: {cells:?}"
    );
    // Each can be seen and hit, and none lies on another.
    for (at, cell) in cells.iter().enumerate() {
        let [left, top, width, height] = cell.place;
        assert!(width >= 4.0 && height >= 4.0, "{cell:?}");
        for other in &cells[..at] {
            let [x, y, w, h] = other.place;
            let across = (left + width).min(x + w) - left.max(x);
            let down = (top + height).min(y + h) - top.max(y);
            assert!(across < 0.1 || down < 0.1, "{cell:?} lies on {other:?}");
        }
    }
}

#[test]
fn the_hash_filters_by_adversary() {
    let Some(browser) = Browser::new() else {
        return;
    };
    let page = page();
    let mut seen = std::collections::HashSet::new();
    for adversary in ["swap", "direct-map"] {
        let document = browser.sound(&page.html, &format!("#adversary={adversary}"));
        let cells = cells(&document);
        let single = cells.iter().filter(|cell| cell.start.is_some());
        for cell in single {
            let mapping = page
                .mappings()
                .iter()
                .find(|mapping| mapping["start"] == *cell.start.as_ref().unwrap())
                .unwrap();
            let class = match page.reach(mapping, adversary) {
                "reachable" => "is-reachable",
                "out-of-reach" => "is-out",
                "unknown" => "is-unknown",
                other => panic!("{other} of {mapping}"),
            };
            assert!(
                cell.classes.iter().any(|c| c == class),
                "{cell:?} {mapping}"
            );
            seen.insert(class);
        }
        let (_, choices) = document.split_once("id=\"adversaries\"").unwrap();
        let (choices, _) = choices.split_once("</ul>").unwrap();
        let current = choices
            .split("<li>")
            .find(|li| li.contains("aria-current"))
            .unwrap();
        assert!(current.contains(&format!(">{adversary}</a>")), "{current}");
    }
    assert!(seen.contains("is-reachable") && seen.len() > 1, "{seen:?}");

    // Only what may hold a secret.
    let cells = cells(&browser.sound(&page.html, "#adversary=all&only=own"));
    let own = page.present();
    let own = own.iter().filter(|(m, _)| m["own"].as_u64().unwrap() > 0);
    assert_eq!(
        cells.iter().map(|cell| cell.count).sum::<u64>(),
        own.count() as u64
    );

    let document = browser.sound(&page.html, "#adversary=nobody");
    assert!(document.contains("No adversary is called “nobody”"));
}

#[test]
fn a_name_that_looks_like_markup_stays_text() {
    let Some(browser) = Browser::new() else {
        return;
    };
    let page = page();
    let hostile = page
        .mappings()
        .iter()
        .filter(|mapping| mapping["name"].as_str().unwrap().contains("x</script>"))
        .count();
    assert!(hostile > SMALL, "{hostile}");
    assert!(!page.html.contains("<b id=injected"));
    let html = page.driven(
        "found.elements = document.querySelectorAll('#injected').length;
         found.names = [...document.querySelectorAll('td.named')].map((cell) => cell.textContent);
         found.markup = document.querySelectorAll('td.named *').length;",
    );
    let found = found(&browser.sound(&html, ""));
    assert_eq!(found["elements"], 0);
    assert_eq!(found["markup"], 0);
    // What turns the direction of text round is shown by its number.
    let shown = format!("/x</{HOSTILE}").replace('\u{202e}', "\\u{202e}");
    let names = found["names"].as_array().unwrap();
    assert!(
        names
            .iter()
            .any(|name| name.as_str().unwrap().ends_with(&shown)),
        "{shown} is not in {names:?}"
    );
}

#[test]
fn small_ones_open_and_the_table_searches_sorts_and_prints() {
    let Some(browser) = Browser::new() else {
        return;
    };
    let page = page();
    let html = page.driven(
        r##"
        const all = (what) => [...document.querySelectorAll(what)];
        const count = () => all(".treemap .cell").reduce((sum, cell) => sum + Number(cell.dataset.count), 0);
        const rows = () => all("#rows tr").length;
        const merged = all(".treemap .merged").sort((a, b) => b.dataset.count - a.dataset.count)[0];
        found.merged = Number(merged.dataset.count);
        merged.click();
        found.opened = count();
        found.cells = all(".treemap .cell").filter((cell) => cell.dataset.start).length;
        document.querySelector("#treemap .cell").focus();
        const before = document.activeElement;
        before.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
        found.moved = document.activeElement !== before && document.activeElement.matches("#treemap button");
        const single = all(".treemap .cell").find((cell) => cell.dataset.start);
        single.click();
        found.chosen = single.dataset.start;
        found.inspected = document.querySelector("#inspector .range").textContent;
        found.verdicts = all("#inspector .verdicts li").length;
        single.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
        found.closed = count();
        found.rows = rows();
        all("#head button")[1].click();
        found.biggest = document.querySelector("#rows td.number").textContent;
        dispatchEvent(new Event("beforeprint"));
        found.printed = rows();
        dispatchEvent(new Event("afterprint"));
        found.after = rows();
        document.getElementById("search").value = (BigInt(found.chosen) + 5n).toString(16);
        document.getElementById("search").dispatchEvent(new Event("input"));
        setTimeout(() => {
          found.hits = all("#rows td.address").map((cell) => cell.textContent);
          document.documentElement.dataset.found = JSON.stringify(found);
        }, 1000);
        "##,
    );
    let found = found(&browser.sound(&html, ""));
    let number = |name: &str| found[name].as_u64().unwrap_or_else(|| panic!("{found}")) as usize;
    assert!(number("merged") > SMALL / 2, "{found}");
    assert_eq!(number("opened"), number("merged"), "{found}");
    assert!(number("cells") >= 40, "{found}");
    assert_eq!(found["moved"], true, "{found}");
    let chosen = found["chosen"].as_str().unwrap();
    assert!(
        found["inspected"].as_str().unwrap().starts_with(chosen),
        "{found}"
    );
    assert_eq!(
        number("verdicts"),
        page.data["adversaries"].as_array().unwrap().len()
    );
    assert_eq!(number("closed"), page.present().len());
    assert!(number("rows") < page.mappings().len(), "{found}");
    assert_eq!(number("printed"), page.mappings().len());
    assert_eq!(number("after"), number("rows"));
    let hits = found["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 1, "{found}");
    assert!(hits[0].as_str().unwrap().starts_with(chosen), "{found}");
    let biggest = page
        .mappings()
        .iter()
        .map(|m| m["size"].as_u64().unwrap())
        .max();
    let unit = match biggest.unwrap() {
        size if size >= 1 << 30 => "GiB",
        size if size >= 1 << 20 => "MiB",
        _ => "KiB",
    };
    assert!(
        found["biggest"].as_str().unwrap().ends_with(unit),
        "{found}"
    );
}

/// Answers whoever asks it, and remembers that it was asked.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Server {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            ended: Arc::default(),
        };
        let (asked, ended) = (server.asked.clone(), server.ended.clone());
        std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                let Ok((mut stream, _)) = listener.accept() else {
                    sleep(Duration::from_millis(5));
                    continue;
                };
                asked.store(true, Ordering::SeqCst);
                // Whoever hangs up has asked all the same.
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(
                    b"HTTP/1.1 404 None\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                );
            }
        });
        server
    }

    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

#[test]
fn nothing_is_fetched_and_no_foreign_script_runs() {
    let Some(browser) = Browser::new() else {
        return;
    };
    let page = page();
    let (shell, _) = page.html.split_once("id=\"data\">").unwrap();
    let (_, script) = page.html.rsplit_once("<script nonce=").unwrap();
    for part in [shell, script] {
        for way in [
            "http://",
            "https://",
            " src=",
            "@import",
            "url(",
            "fetch(",
            "XMLHttp",
            "WebSocket",
        ] {
            assert!(!part.contains(way), "{way}");
        }
    }

    let server = Server::new();
    // What an attacker would put in, if a way to put something in were found.
    let put_in = format!(
        "<script>document.documentElement.dataset.injected = \"yes\"</script>\
         <img src=\"http://{}/\"></main>",
        server.address
    );
    let attacked = page.html.replace("</main>", &put_in);
    let document = browser.document(&attacked, "");
    assert!(!document.contains("data-injected"));
    assert!(!server.was_asked(), "the page fetched something");

    // The control: without the policy both work.
    let (before, policy) = attacked.split_once("<meta http-equiv").unwrap();
    let (_, after) = policy.split_once('>').unwrap();
    let document = browser.document(&format!("{before}{after}"), "");
    assert!(document.contains("data-injected=\"yes\""));
    assert!(
        server.was_asked(),
        "the control is void: an image was not fetched"
    );
}

#[test]
fn what_cannot_be_written_is_refused_by_name_and_leaves_nothing() {
    let room = tempfile::tempdir().unwrap();
    let lost = room.path().join("no").join("page.html");
    for (file, fix) in [
        (lost.as_path(), "name a directory that exists"),
        (room.path(), "name a file"),
    ] {
        let output = audit_self(file);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(error.contains(&file.display().to_string()), "{error}");
        assert!(error.contains(fix), "{error}");
    }
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0);
}

fn audit_self(file: &Path) -> std::process::Output {
    Command::new(STRONGROOM)
        .arg("audit")
        .arg(std::process::id().to_string())
        .arg("--html")
        .arg(file)
        .output()
        .unwrap()
}
