//! `strongroom doctor`: what this machine offers, and a fix for what falls short.

mod check;
mod probes;
mod render;

use crate::failure::Failure;
use crate::json;
use check::Report;
use std::io::{self, Write};
use strongroom_core::Level;

/// Prints the findings. The status is 0 where `run` reaches `hidden`, 1 where it reaches less.
pub(crate) fn run(json: bool) -> Result<u8, Failure> {
    let report = probes::report();
    print(&report, json)
        .map_err(|error| Failure::new(format!("the findings cannot be written: {error}"), ""))?;
    Ok(u8::from(report.level != Some(Level::Hidden)))
}

fn print(report: &Report, as_json: bool) -> io::Result<()> {
    if as_json {
        return json::print(report);
    }
    // It drops the colours where they go to no terminal, or NO_COLOR is set.
    let mut out = anstream::stdout().lock();
    render::table(&mut out, report)?;
    out.flush()
}
