//! Tests that want a process to themselves. Included by path.

use std::process::Command;

/// Whether this is the process of that test alone; where it is not, the test is run again in one.
pub(crate) fn alone(test: &str) -> bool {
    if std::env::var_os("STRONGROOM_TEST_ALONE").is_some() {
        return true;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("STRONGROOM_TEST_ALONE", "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}
