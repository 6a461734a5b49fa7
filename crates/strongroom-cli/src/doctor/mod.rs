//! `strongroom doctor`: what this machine offers, and a fix for what falls short.

mod check;
mod probes;
mod render;

use crate::failure::Failure;
use check::Report;
use std::io::{self, Write};
use std::process::ExitCode;
use strongroom_core::Level;

/// Prints the findings. Success is `hidden` within reach; a failure of its own ends the process.
pub(crate) fn run(json: bool) -> ExitCode {
    match examine(json) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            failure.print();
            std::process::exit(i32::from(failure.status()))
        }
    }
}

/// Prints the findings, and returns whether `run` reaches `hidden`.
fn examine(json: bool) -> Result<bool, Failure> {
    let report = probes::report();
    print(&report, json)
        .map_err(|error| Failure::new(format!("the findings cannot be written: {error}"), ""))?;
    Ok(report.level == Some(Level::Hidden))
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    if json {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, report)?;
        out.write_all(b"\n")?;
        return out.flush();
    }
    // It drops the colours where they go to no terminal, or NO_COLOR is set.
    let mut out = anstream::stdout().lock();
    render::table(&mut out, report)?;
    out.flush()
}
