//! What came of a guest's jobs.

use super::qemu::End;
use super::say;
use super::transcript::Told;
use std::time::Duration;

/// Tests of the guest, as their programs counted them; a script is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Success is a guest that ended by itself, after all of its jobs, each of status 0.
pub(super) fn judge(end: &End, names: &[&str], timeout: u64) -> Result<(), String> {
    let name = |number: usize| names.get(number).copied().unwrap_or("?");
    let at = |told: &Told| match told.running {
        Some(number) => format!("in `{}`", name(number)),
        None if told.up.is_none() => "before its init was ready".to_owned(),
        None => "between its jobs".to_owned(),
    };
    match end {
        End::TimedOut(told) => Err(format!(
            "the guest was stopped after {timeout} s (--timeout), {}",
            at(told)
        )),
        End::Ended(told) if !told.ended => Err(format!("the guest crashed, {}", at(told))),
        End::Ended(told) => {
            let failed: Vec<String> = told
                .statuses
                .iter()
                .filter(|status| status.code != 0)
                .map(|status| format!("`{}`: exit status {}", name(status.job), status.code))
                .collect();
            if !failed.is_empty() {
                Err(format!("failed: {}", failed.join(", ")))
            } else if told.statuses.len() == names.len() {
                Ok(())
            } else {
                Err("the guest did not run all of its jobs".to_owned())
            }
        }
    }
}

/// A program of tests says what came of them; any other job is one.
pub(super) fn count_of(told: &Told) -> Count {
    let mut count = Count {
        skipped: told.skips.len(),
        ..Count::default()
    };
    for status in &told.statuses {
        let (passed, failed) = told
            .results
            .iter()
            .filter(|result| result.job == status.job)
            .fold((0, 0), |(passed, failed), result| {
                (passed + result.passed, failed + result.failed)
            });
        count.passed += passed;
        count.failed += failed;
        match (passed + failed, status.code) {
            (0, 0) => count.passed += 1,
            // It ended before it could say.
            (_, code) if code != 0 && failed == 0 => count.failed += 1,
            _ => {}
        }
    }
    // One that never ended.
    count.failed += usize::from(told.running.is_some());
    // A test that could not run says so and ends well.
    count.passed = count.passed.saturating_sub(count.skipped);
    count
}

pub(super) fn summarize(told: &Told, names: &[&str], took: Duration) {
    for status in &told.statuses {
        let name = names.get(status.job).copied().unwrap_or("?");
        let (code, seconds) = (status.code, status.seconds);
        say(&format!("{name}: exit status {code}, {seconds} s"));
    }
    for (_, skip) in &told.skips {
        say(&format!("skipped: {skip}"));
    }
    let up = told.up.map_or_else(String::new, |up| {
        format!(", {:.0} s of them to boot", up.as_secs_f64())
    });
    say(&format!("{:.0} s{up}", took.as_secs_f64()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::transcript::{Status, TestResult};

    fn told(statuses: &[(usize, i32)], ended: bool, running: Option<usize>) -> Told {
        Told {
            up: Some(Duration::from_secs(3)),
            statuses: statuses
                .iter()
                .map(|&(job, code)| Status {
                    job,
                    code,
                    seconds: 1,
                })
                .collect(),
            running,
            ended,
            kept: String::new(),
            skips: Vec::new(),
            results: Vec::new(),
        }
    }

    #[test]
    fn tests_are_counted_by_their_programs_and_scripts_by_their_status() {
        let mut guest = told(
            &[(0, 0), (1, 101), (2, 0), (3, 134), (4, 1)],
            false,
            Some(5),
        );
        let result = |job, passed, failed| TestResult {
            job,
            passed,
            failed,
        };
        guest.results = vec![result(0, 7, 0), result(1, 3, 2)];
        guest.skips = vec![(0, "t: no driver".to_owned())];
        let expected = Count {
            // Six of the first and three of the second, and the script that succeeded.
            passed: 10,
            failed: 5,
            skipped: 1,
        };
        assert_eq!(count_of(&guest), expected);
    }

    #[test]
    fn only_a_guest_that_ran_everything_succeeded() {
        let names = ["a", "b"];
        let judge = |end| super::judge(&end, &names, 5);
        assert!(judge(End::Ended(told(&[(0, 0), (1, 0)], true, None))).is_ok());
        let failed = judge(End::Ended(told(&[(0, 0), (1, 7)], true, None)));
        assert!(failed.unwrap_err().contains("`b`: exit status 7"));
        assert!(judge(End::Ended(told(&[(0, 0)], true, None))).is_err());
        let crashed = judge(End::Ended(told(&[(0, 0)], false, Some(1))));
        assert!(crashed.unwrap_err().contains("crashed, in `b`"));
        let late = judge(End::TimedOut(told(&[(0, 0), (1, 0)], true, None)));
        assert!(late.unwrap_err().contains("after 5 s"));
        let never = judge(End::Ended(Told::default()));
        assert!(never.unwrap_err().contains("before its init"));
    }
}
