//! How the tests of every crate say that one cannot run here. Included by path.

use std::io::Write;

/// Says that a test cannot run here; where STRONGROOM_NO_SKIP is set, that is a failure.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    assert!(
        std::env::var_os("STRONGROOM_NO_SKIP").is_none_or(|v| v == "0" || v.is_empty()),
        "{test} cannot run here: {reason}; STRONGROOM_NO_SKIP makes that a failure"
    );
    // Not eprintln!: the test harness would swallow it.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    let log = std::env::var_os("STRONGROOM_SKIP_LOG").map(|path| {
        std::fs::File::options()
            .append(true)
            .create(true)
            .open(path)
    });
    if let Some(Ok(mut log)) = log {
        let _ = log.write_all(format!("{test}: {reason}\n").as_bytes());
    }
}
