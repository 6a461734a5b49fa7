//! The page tables as debugfs shows them, where the kernel has CONFIG_PTDUMP_DEBUGFS.

use crate::object::skip_on_this_kernel;
use std::fs;
use std::ops::Range;

/// One line of a dump: what is mapped alike.
pub(crate) struct Line {
    pub(crate) addresses: Range<u64>,
    pub(crate) flags: Vec<String>,
}

impl Line {
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|word| word == flag)
    }

    /// Whether the processor takes these entries: what is not there has no flags but its level.
    pub(crate) fn is_present(&self) -> bool {
        self.flags.len() > 1
    }
}

/// The sections of a dump by their titles.
pub(crate) fn dump(name: &str) -> Option<Vec<(String, Vec<Line>)>> {
    let path = format!("/sys/kernel/debug/page_tables/{name}");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            skip_on_this_kernel("STRONGROOM_PTDUMP", &format!("{path}: {error}"));
            return None;
        }
    };
    let mut sections: Vec<(String, Vec<Line>)> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("---[ ") {
            let title = title.trim_end_matches(" ]---").to_owned();
            sections.push((title, Vec::new()));
            continue;
        }
        let mut words = line.split_whitespace();
        let Some((start, end)) = words.next().and_then(|word| word.split_once('-')) else {
            continue;
        };
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        // After the addresses comes the size.
        let flags = words.skip(1).map(str::to_owned).collect();
        let (_, lines) = sections.last_mut().unwrap();
        lines.push(Line {
            addresses: number(start)..number(end),
            flags,
        });
    }
    Some(sections)
}

/// The kernel's direct map, from physical address 0 on.
pub(crate) fn direct_map() -> Option<Vec<Line>> {
    let sections = dump("kernel")?;
    let title = "Low Kernel Mapping";
    let section = sections.into_iter().find(|(name, _)| name == title);
    Some(section.expect("the dump has a direct map").1)
}
