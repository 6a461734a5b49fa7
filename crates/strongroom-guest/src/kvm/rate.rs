//! How much a guest may ask for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much a guest may ask for. What is beyond is refused and costs the monitor nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second, on the average.
    pub requests: u32,
    /// Pages a second, on the average.
    pub pages: u32,
    /// The most pages of one request.
    pub most: u32,
    /// How long a request may wait for devices to let go of its pages.
    pub patience: Duration,
}

impl Default for Limits {
    /// 10,000 requests and 4 GiB a second, 1 GiB at once, 10 ms. A second's worth may come in one burst.
    fn default() -> Self {
        Self {
            requests: 10_000,
            pages: 1 << 20,
            most: 1 << 18,
            patience: Duration::from_millis(10),
        }
    }
}

/// Two buckets that fill as time goes by, up to a second's worth.
#[derive(Debug)]
pub(super) struct Rate {
    limits: Limits,
    left: Mutex<Left>,
}

#[derive(Debug)]
struct Left {
    at: Instant,
    requests: f64,
    pages: f64,
}

impl Rate {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        let left = Mutex::new(Left {
            at: now,
            requests: limits.requests.into(),
            pages: limits.pages.into(),
        });
        Self { limits, left }
    }

    /// Whether a request for so many pages may be served now; it is counted then.
    pub(super) fn admit(&self, pages: u64, now: Instant) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(left.at).as_secs_f64();
        let (requests, most): (f64, f64) = (self.limits.requests.into(), self.limits.pages.into());
        left.at = left.at.max(now);
        left.requests = (left.requests + passed * requests).min(requests);
        left.pages = (left.pages + passed * most).min(most);
        // Exact: a request has fewer pages than a float has digits.
        let pages = pages as f64;
        let admitted = left.requests >= 1.0 && left.pages >= pages;
        if admitted {
            left.requests -= 1.0;
            left.pages -= pages;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_what_is_allowed() {
        let limits = Limits {
            requests: 10,
            pages: 100,
            ..Limits::default()
        };
        let mut now = Instant::now();
        let rate = Rate::new(limits, now);
        assert_eq!((0..1000).filter(|_| rate.admit(0, now)).count(), 10);
        now += Duration::from_secs(60);
        assert!(!rate.admit(101, now));
        assert!(rate.admit(60, now) && !rate.admit(60, now));
        now += Duration::from_millis(200);
        assert!(rate.admit(60, now));
        // A clock that goes backwards gives nothing.
        assert!(!rate.admit(60, now - Duration::from_secs(1)));
        assert!(!rate.admit(60, now));
    }
}
