//! `strongroom audit`: who can reach which memory of a running process.

mod groups;
mod json;
mod page;
mod progress;
mod render;
mod text;

use crate::args::AuditArgs;
use crate::failure::Failure;
use groups::Groups;
use progress::Progress;
use std::io::{self, BufWriter, Write};
use strongroom_probe::audit::Audit;
use strongroom_probe::exposure::Refusal;

/// The exit status where the process went away meanwhile.
const PARTIAL: u8 = 2;

/// Audits and prints.
pub(crate) fn run(args: &AuditArgs) -> Result<u8, Failure> {
    let audit = Audit::of(args.pid).map_err(|refusal| failure(args.pid, &refusal))?;
    if let Some(file) = &args.html {
        let mut progress = Progress::new(args.pid);
        let outcome = page::write(file, audit, |entry| progress.add(entry));
        progress.clear();
        return Ok(status(outcome?.partial.is_some()));
    }
    let partial = if args.json {
        print_json(audit)
    } else {
        print_table(audit, args.all)
    }
    .map_err(|error| Failure::new(format!("the findings cannot be written: {error}"), ""))?;
    Ok(status(partial))
}

fn status(partial: bool) -> u8 {
    if partial { PARTIAL } else { 0 }
}

/// Whether it is partial.
fn print_json(audit: Audit) -> io::Result<bool> {
    let mut progress = Progress::new(audit.process.pid);
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = json::write(&mut out, audit, json::Plain, |entry| progress.add(entry))?;
    progress.clear();
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(outcome.partial.is_some())
}

/// Whether it is partial.
fn print_table(mut audit: Audit, all: bool) -> io::Result<bool> {
    let mut progress = Progress::new(audit.process.pid);
    // It drops the colours where they go to no terminal, or NO_COLOR is set.
    let mut out = BufWriter::new(anstream::stdout().lock());
    let mut groups = Groups::default();
    render::head(&mut out, &audit)?;
    if all {
        render::list_head(&mut out)?;
    }
    let outcome = audit.walk(|entry| {
        progress.add(entry);
        groups.add(entry);
        if all {
            progress.clear();
            render::line(&mut out, entry)?;
        }
        Ok::<_, io::Error>(())
    })?;
    progress.clear();
    render::result(&mut out, &audit, &groups, &outcome)?;
    out.flush()?;
    Ok(outcome.partial.is_some())
}

/// What cannot be audited, and what to do.
pub(crate) fn failure(pid: i32, refusal: &Refusal) -> Failure {
    let fix = match refusal {
        Refusal::Absent(_) => "`ps -e` lists the processes, `pidof NAME` finds one".to_owned(),
        Refusal::KernelThread { .. } => {
            "audit a program; the kernel's own memory is in the reach of the kernel".to_owned()
        }
        Refusal::Headless { thread, .. } => format!("strongroom audit {thread}"),
        Refusal::Zombie { .. } => "nothing is left of its memory; audit it while it runs".to_owned(),
        Refusal::Denied { .. } if rustix::process::geteuid().is_root() => {
            "root of a user namespace or without CAP_SYS_PTRACE may not look: run it as root of the machine"
                .to_owned()
        }
        Refusal::Denied { .. } => format!("sudo strongroom audit {pid}"),
        Refusal::Ended(_) | Refusal::Replaced(_) => "run it again, if the process is there".to_owned(),
        Refusal::Io { .. } | Refusal::Line { .. } => String::new(),
    };
    // A name is the process's own to choose.
    Failure::new(text::plain(&refusal.to_string()), fix)
}
