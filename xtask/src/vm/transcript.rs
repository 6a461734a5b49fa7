//! What the guest writes: the tests' output, and between it the lines that say what came of them.

use std::time::Duration;

/// How a run of jobs went, as far as the guest told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Since its start, until the guest's init was ready.
    pub(super) up: Option<Duration>,
    /// What came of each job that ended.
    pub(super) statuses: Vec<Status>,
    /// The job that is running, or was.
    pub(super) running: Option<usize>,
    /// Tests that could not run, with the job's number.
    pub(super) skips: Vec<(usize, String)>,
    /// What programs of tests said at their end.
    pub(super) results: Vec<TestResult>,
    /// The guest came to its end by itself.
    pub(super) ended: bool,
    /// What the jobs wrote, where it is not shown.
    pub(super) kept: String,
}

/// The count that a program of tests ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TestResult {
    /// The job's number.
    pub(super) job: usize,
    pub(super) passed: usize,
    pub(super) failed: usize,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// Its number.
    pub(super) job: usize,
    /// Its exit status; negative where the guest knows none.
    pub(super) code: i32,
    /// How long it took, in seconds.
    pub(super) seconds: u64,
}

/// Takes the guest's lines apart.
#[derive(Debug)]
pub(super) struct Transcript {
    token: String,
    line: Vec<u8>,
    /// An empty line, which is the guest's own if a record follows.
    held_back: bool,
    pub(super) told: Told,
}

impl Transcript {
    pub(super) fn new(token: &str) -> Self {
        Self {
            token: format!("{token} "),
            line: Vec::new(),
            held_back: false,
            told: Told::default(),
        }
    }

    /// Takes bytes in and returns what of them is for people.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &byte in bytes.iter().filter(|&&byte| byte != b'\r') {
            self.line.push(byte);
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.whole(&line, &mut out);
            }
        }
        out
    }

    /// What is left at the end: a line without its end.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.line)
    }

    fn whole(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line).into_owned();
        if let Some(record) = text.strip_prefix(&self.token) {
            self.held_back = false;
            self.record(record.trim());
            return;
        }
        if let (Some(job), Some((passed, failed))) = (self.told.running, result(&text)) {
            self.told.results.push(TestResult {
                job,
                passed,
                failed,
            });
        }
        if std::mem::take(&mut self.held_back) {
            out.push(b'\n');
        }
        if line == b"\n" {
            self.held_back = true;
        } else {
            out.extend_from_slice(line);
        }
    }

    fn record(&mut self, record: &str) {
        let (word, rest) = record.split_once(' ').unwrap_or((record, ""));
        let (number, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = number.parse::<usize>().ok();
        match (word, number) {
            ("up", _) => {
                let seconds = rest.parse().ok();
                self.told.up = seconds.map(Duration::from_secs_f64);
            }
            ("begin", Some(number)) => self.told.running = Some(number),
            ("skip", Some(number)) => self.told.skips.push((number, text.to_owned())),
            ("status", Some(number)) => {
                let (code, seconds) = text.split_once(' ').unwrap_or((text, ""));
                self.told.statuses.push(Status {
                    job: number,
                    // A job without a status did not succeed.
                    code: code.parse().unwrap_or(-1),
                    seconds: seconds.parse().unwrap_or(0),
                });
                self.told.running = None;
            }
            ("end", _) => self.told.ended = true,
            _ => {}
        }
    }
}

/// `test result: ok. 3 passed; 0 failed; …`.
fn result(line: &str) -> Option<(usize, usize)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |what: &str| {
        let mut parts = counts.split(';').map(str::trim);
        parts.find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_tests_say_their_counts() {
        let mut transcript = Transcript::new("@token");
        let text =
            "@token begin 004\n\ntest result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured\n";
        transcript.take(text.as_bytes());
        let result = TestResult {
            job: 4,
            passed: 5,
            failed: 2,
        };
        assert_eq!(transcript.told.results, [result]);
        assert_eq!(super::result("test result: ok. of mine"), None);
    }

    #[test]
    fn records_are_taken_out_and_everything_else_is_passed_on() {
        let mut transcript = Transcript::new("@token");
        let mut out = Vec::new();
        for part in [
            "\r\n@token up 3.5\r\n\r\n@token beg",
            "in 000\r\na\n\nb @token end\nhalf",
            "\n@token skip 000 t: no swap\n\n@token status 000 7 12\n\n@token begin 001\n",
            "\n\n@token status 001  3\nlast",
        ] {
            out.extend(transcript.take(part.as_bytes()));
        }
        out.extend(transcript.finish());
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "a\n\nb @token end\nhalf\n\nlast");
        let told = transcript.told;
        assert_eq!(told.up, Some(Duration::from_millis(3500)));
        let status = |job, code, seconds| Status { job, code, seconds };
        assert_eq!(told.statuses, [status(0, 7, 12), status(1, -1, 3)]);
        assert_eq!(told.skips, [(0, "t: no swap".to_owned())]);
        assert!(!told.ended && told.running.is_none());
    }
}
