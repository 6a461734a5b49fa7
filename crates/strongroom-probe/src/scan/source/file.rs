//! Any file, as one run of bytes: their addresses are offsets.

use super::window::Window;
use super::{Outcome, Place};
use crate::scan::Step;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Reads all of it.
///
/// # Errors
/// Where reading fails at the start; later it is a gap.
pub(in crate::scan) fn read(
    path: &Path,
    mut file: &File,
    window: &mut Window<'_>,
    step: Step<'_>,
) -> io::Result<Outcome> {
    let total = file.metadata()?.len();
    let mut outcome = Outcome::default();
    let mut at = 0;
    loop {
        match file.read(window.room(at)) {
            Ok(0) => break,
            Ok(count) => {
                window.fill(count);
                at += count as u64;
                step(at, total);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if at == 0 => return Err(error),
            Err(error) => {
                let gap = format!("after {at} bytes the file cannot be read: {error}");
                outcome.gaps.push(gap);
                break;
            }
        }
    }
    outcome.places.push(Place {
        start: 0,
        end: at,
        access: String::new(),
        name: path.display().to_string(),
        exposure: None,
    });
    Ok(outcome)
}
