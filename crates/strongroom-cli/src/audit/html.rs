//! The page for a browser: one file with everything in it.
//!
//! Names of mappings are anybody's to choose. They are data in a JSON block in which no `<` is left,
//! and the script puts them into the page as text only.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use strongroom_probe::audit::{Audit, Audited, Measured};
use strongroom_probe::exposure::{Adversary, Reach};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Writes the page: under another name first, so that there is never half of it.
pub(super) fn write(path: &Path, audit: &Audit) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this names no file"))?;
    // What is no regular file, such as /dev/stdout, cannot be replaced.
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return File::options()
            .write(true)
            .open(path)?
            .write_all(page(audit)?.as_bytes());
    }
    let mut draft = name.to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(draft);
    let written = File::create_new(&draft).and_then(|mut file| {
        file.write_all(page(audit)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    });
    if written.is_err() {
        // Nothing of ours may be there at all.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn page(audit: &Audit) -> io::Result<String> {
    // No `<`: nothing in it ends the block or starts a comment.
    let data = serde_json::to_string(&data(audit))?.replace('<', "\\u003c");
    let mut page = String::new();
    for (place, part) in PAGE.split("@@").enumerate() {
        // Texts and the names of what goes between them take turns.
        page.push_str(match (place % 2, part) {
            (0, text) => text,
            (_, "STYLE") => STYLE,
            (_, "SCRIPT") => SCRIPT,
            (_, "DATA") => &data,
            (_, other) => return Err(io::Error::other(format!("the page has no {other}"))),
        });
    }
    Ok(page)
}

/// What the script needs; the reasons, which are few, are told once.
fn data(audit: &Audit) -> Value {
    let mut reasons: Vec<&str> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mappings: Vec<Value> = audit
        .mappings
        .iter()
        .map(|audited| {
            let findings: Vec<Value> = audited
                .exposure
                .iter()
                .map(|(_, finding)| {
                    let place = *places.entry(&finding.why).or_insert_with(|| {
                        reasons.push(&finding.why);
                        reasons.len() - 1
                    });
                    json!([reach(finding.reach), place])
                })
                .collect();
            mapping(audited, findings)
        })
        .collect();
    let adversaries: Vec<_> = Adversary::ALL
        .into_iter()
        .map(|adversary| json!({"name": adversary.name(), "about": adversary.about()}))
        .collect();
    json!({
        "process": {
            "pid": audit.process.pid,
            "name": audit.process.name,
            "user": audit.process.user(),
            "command": audit.process.command,
        },
        "partial": audit.partial,
        "directMap": match &audit.direct_map {
            Measured::Mappings(count) => {
                format!("measured on pages of {count} mappings, else inferred")
            }
            Measured::Inferred(why) => format!("inferred, not measured ({why})"),
        },
        "adversaries": adversaries,
        "totals": audit.totals,
        "holes": audit.holes,
        "reasons": reasons,
        "mappings": mappings,
    })
}

fn reach(reach: Reach) -> u8 {
    match reach {
        Reach::OutOfReach => 0,
        Reach::Reachable => 1,
        Reach::Unknown => 2,
    }
}

fn mapping(audited: &Audited, findings: Vec<Value>) -> Value {
    let mapping = &audited.mapping;
    json!({
        "start": format!("{:x}", mapping.start),
        "end": format!("{:x}", mapping.end),
        "size": mapping.len(),
        "access": String::from_utf8_lossy(&mapping.access),
        "flags": String::from_utf8_lossy(&mapping.flags),
        "name": String::from_utf8_lossy(&mapping.name),
        "group": audited.group,
        "present": audited.present_pages,
        "swapped": audited.swapped_pages,
        "own": audited.own_pages,
        "findings": findings,
    })
}
