//! `strongroom scan`: key material in memory, and where it is.

mod render;

use crate::args::{ScanArgs, WhatArg};
use crate::failure::Failure;
use crate::given;
use crate::json;
use crate::progress::Bar;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use strongroom_probe::exposure::Refusal;
use strongroom_probe::scan::{Failed, Finders, Report, Scan};

/// Scans and prints what was found.
pub(crate) fn run(args: &ScanArgs) -> Result<u8, Failure> {
    let pid = pid(&args.target);
    let wanted = |what| args.only.is_empty() || args.only.contains(&what);
    let finders = Finders {
        formats: wanted(WhatArg::Formats),
        schedules: wanted(WhatArg::Schedules),
    };
    let scan = Scan {
        keys: given::keys(&args.given)?,
        patterns: given::patterns(&args.given)?,
        finders,
        show: args.show,
    };
    let is_given = !scan.keys.is_empty() || !scan.patterns.is_empty();
    if is_given && !wanted(WhatArg::Given) {
        return Err(Failure::new(
            "--only leaves out what is given to look for",
            "add `given` to --only",
        ));
    }
    if !is_given && args.only == [WhatArg::Given] {
        return Err(Failure::new(
            "--only given, and nothing is given to look for",
            "name a key by --key or bytes by --pattern",
        ));
    }
    let mut progress = Bar::new();
    let mut step = |done, total| {
        let text = format_args!("{} of {} MiB", done >> 20, total >> 20);
        progress.show(done, total, text);
    };
    let report = match pid {
        Some(pid) => scan.process(pid, &mut step),
        None => scan.file(Path::new(&args.target), &mut step),
    };
    progress.clear();
    let report = report.map_err(|failed| failure(&failed, &args.target))?;
    print(&report, args)
        .map_err(|error| Failure::new(format!("the results cannot be written: {error}"), ""))?;
    Ok(match (report.has_hits(), report.complete) {
        (true, _) => 1,
        (false, true) => 0,
        (false, false) => 2,
    })
}

/// Digits are a process; a file of that name is written with a slash.
fn pid(target: &OsStr) -> Option<i32> {
    let text = target.to_str()?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // One too large for the kernel is no process.
    Some(text.parse().unwrap_or(i32::MAX))
}

fn failure(failed: &Failed, target: &OsStr) -> Failure {
    let fix = match failed {
        Failed::Process(Refusal::Denied { .. }) => if rustix::process::geteuid().is_root() {
            "root is refused, too: by a security module, a filter, or as that process is in a \
                 user namespace that this one has no rights over. Run it outside of the container"
        } else {
            "run it as root, or as the process's user where that process is dumpable and \
                 kernel.yama.ptrace_scope is 0"
        }
        .to_owned(),
        Failed::Process(Refusal::Absent(_)) if Path::new(target).exists() => {
            format!(
                "a file of that name is there: `strongroom scan ./{}`",
                target.display()
            )
        }
        Failed::Process(Refusal::Absent(_)) => "`pgrep NAME` lists processes by name".to_owned(),
        Failed::File { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
            "run it as a user who may read the file".to_owned()
        }
        Failed::File { error, .. } if error.kind() == io::ErrorKind::NotFound => {
            "name a process by its number, or a file that exists".to_owned()
        }
        _ => String::new(),
    };
    Failure::new(failed.to_string(), fix)
}

fn print(report: &Report, args: &ScanArgs) -> io::Result<()> {
    if args.json {
        let mut value = serde_json::to_value(report)?;
        // The bytes are only in the object where they were asked for.
        if let Some(hits) = value.get_mut("hits").and_then(|hits| hits.as_array_mut()) {
            for (entry, hit) in hits.iter_mut().zip(&report.hits) {
                if let (Some(entry), Some(bytes)) = (entry.as_object_mut(), &hit.bytes) {
                    entry.insert("bytes".to_owned(), render::hexadecimal(bytes).into());
                }
            }
        }
        return json::print(&value);
    }
    let mut out = anstream::stdout().lock();
    render::report(&mut out, report)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_a_process() {
        assert_eq!(pid("123".as_ref()), Some(123));
        assert_eq!(pid("99999999999999999999".as_ref()), Some(i32::MAX));
        for file in ["./123", "core.123", "", "-1", "1a"] {
            assert_eq!(pid(file.as_ref()), None, "{file}");
        }
    }
}
