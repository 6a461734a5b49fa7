//! `audit --html`: one file with everything in it, which fetches nothing.
//!
//! page.html, page.css and the scripts are the page; this puts the audit into it, while the mappings are
//! walked.

mod output;
mod script_safe;
mod verdicts;

use super::json;
use crate::failure::Failure;
use script_safe::ScriptSafe;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use strongroom_probe::audit::{Audit, Entry, Outcome};
use verdicts::ToldOnce;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// One script. data.js reads the data and comes first; page.js starts it all and comes last.
const SCRIPT: &str = concat!(
    include_str!("script/data.js"),
    include_str!("script/words.js"),
    include_str!("script/choice.js"),
    include_str!("script/summary.js"),
    include_str!("script/treemap.js"),
    include_str!("script/inspector.js"),
    include_str!("script/table.js"),
    include_str!("script/page.js"),
);

/// Writes the page of an audit, shows each mapping, and returns what it all came to. A file that is there
/// already is replaced only when the new one is whole.
pub(super) fn write(
    file: &Path,
    audit: Audit,
    show: impl FnMut(&Entry),
) -> Result<Outcome, Failure> {
    let nonce = nonce()
        .map_err(|error| Failure::new(format!("the kernel gives no random bytes: {error}"), ""))?;
    output::replace(file, |out| {
        fill(out, &nonce, |out| {
            json::write(&mut ScriptSafe(out), audit, ToldOnce::default(), show)
        })
    })
}

/// The template with its places filled, in one pass: what looks like a place in the data stays.
fn fill<T>(
    out: &mut dyn Write,
    nonce: &str,
    data: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> io::Result<T> {
    let (before, after) = HTML
        .split_once("{{data}}")
        .ok_or_else(|| io::Error::other("the template has no place for the data"))?;
    shell(out, before, nonce)?;
    let data = data(out)?;
    shell(out, after, nonce)?;
    Ok(data)
}

fn shell(out: &mut dyn Write, template: &str, nonce: &str) -> io::Result<()> {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (place, after) = after.split_once("}}").unwrap_or((after, ""));
        out.write_all(before.as_bytes())?;
        out.write_all(match place {
            "nonce" => nonce.as_bytes(),
            "style" => STYLE.as_bytes(),
            "script" => SCRIPT.as_bytes(),
            other => return Err(io::Error::other(format!("the template names {other}"))),
        })?;
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

/// The word by which the page's policy knows its own script and style from any other. Nobody who chose a
/// path in the data could know it.
fn nonce() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_markup_or_a_place_in_the_data_stays_data() {
        let name = "/x/</script><b>&{{style}}<!--\u{2028}";
        let mut page = Vec::new();
        fill(&mut page, "word", |out| {
            serde_json::to_writer(ScriptSafe(out), name).map_err(io::Error::from)
        })
        .unwrap();
        let page = String::from_utf8(page).unwrap();
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(!page.contains("</script><b>"));
        assert_eq!(page.matches("{{").count(), 1);
        let (_, data) = page.split_once("id=\"data\">").unwrap();
        let (data, _) = data.split_once("</script>").unwrap();
        assert!(!data.contains(['<', '>', '&', '\u{2028}']), "{data}");
        assert_eq!(serde_json::from_str::<String>(data).unwrap(), name);
    }

    #[test]
    fn the_script_and_the_style_end_no_element() {
        assert!(!SCRIPT.contains("</script"));
        assert!(!SCRIPT.contains("<!--"));
        assert!(!STYLE.contains("</style"));
    }

    #[test]
    fn every_page_has_a_nonce_of_its_own() {
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }
}
