//! What is said at the end.

use crate::contexts::Found;
use crate::load::{Counts, Reads};
use crate::processor::Bell;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;
use strongroom_guest::GuestRegion;

/// One thing that had to hold.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) result: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Passed(String),
    Failed(String),
    /// Not claimed here.
    Skipped(&'static str),
}

/// Everything that was found.
#[derive(Debug)]
pub(crate) struct Report<'m> {
    pub(crate) region: &'m GuestRegion,
    pub(crate) took: Duration,
    pub(crate) counts: &'m Counts,
    pub(crate) reads: &'m Reads,
    pub(crate) bell: &'m Bell,
    /// Better backings, and why they are not to be had.
    pub(crate) refused: &'m [(&'static str, strongroom_guest::Error)],
    pub(crate) contexts: &'m Found,
    pub(crate) checks: Vec<Check>,
}

impl Report<'_> {
    pub(crate) fn passed(&self) -> bool {
        let failed = |check: &Check| matches!(check.result, Outcome::Failed(_));
        !self.checks.iter().any(failed)
    }

    pub(crate) fn json(&self) -> Value {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let receipt = self.region.receipt();
        let names = |set: strongroom_core::Protections| {
            let names: Vec<_> = set.members().map(|p| p.to_string()).collect();
            names
        };
        let missing: serde_json::Map<_, _> = receipt
            .missing()
            .map(|(protection, reason)| (protection.to_string(), json!(reason.to_string())))
            .collect();
        let limits = self.region.backing().limits();
        let refused: serde_json::Map<_, _> = self
            .refused
            .iter()
            .map(|(name, error)| ((*name).to_owned(), json!(error.to_string())))
            .collect();
        let checks: Vec<_> = self
            .checks
            .iter()
            .map(|check| {
                let (result, detail) = match &check.result {
                    Outcome::Passed(detail) => ("passed", detail.as_str()),
                    Outcome::Failed(detail) => ("failed", detail.as_str()),
                    Outcome::Skipped(reason) => ("skipped", *reason),
                };
                json!({"check": check.name, "result": result, "detail": detail})
            })
            .collect();
        json!({
            "schema": 1,
            "passed": self.passed(),
            "refused": refused,
            "backing": self.region.backing().name(),
            "memory": self.region.len(),
            "seconds": self.took.as_secs_f64(),
            "receipt": {
                "asked": names(receipt.asked()),
                "held": names(receipt.held()),
                "missing": missing,
            },
            "limits": limits.iter().map(|limit| limit.word()).collect::<Vec<_>>(),
            "ring": {
                "messages": self.counts.messages,
                "sealed": self.counts.sealed,
                "filled": self.counts.filled,
                "summed": self.counts.summed,
                "nonsense_refused": self.counts.nonsense,
            },
            "conversions": {
                "requests": load(&self.bell.asked),
                "pages": self.counts.shown + self.counts.hidden,
                "pages_to_shared": self.counts.shown,
                "pages_to_private": self.counts.hidden,
                "held": self.counts.held,
                "nanoseconds": load(&self.bell.nanoseconds),
            },
            "reader": {
                "pages_read": load(&self.reads.whole),
                "refused": load(&self.reads.refused),
                "out_of_reach": self.counts.out_of_reach,
            },
            "idle": load(&self.bell.idle),
            "contexts": {
                "made": self.contexts.made,
                "tables": self.contexts.tables,
                "state_bytes": self.contexts.state_bytes,
                "make_ns": self.contexts.make_ns,
                "drop_ns": self.contexts.drop_ns,
                "switch_ns": self.contexts.switch_ns,
                "guest_switch_ns": self.contexts.guest_switch_ns.as_ref().ok(),
            },
            "checks": checks,
        })
    }

    pub(crate) fn text(&self) -> String {
        use std::fmt::Write;

        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let seconds = self.took.as_secs_f64();
        let pages = self.counts.shown + self.counts.hidden;
        let took = load(&self.bell.nanoseconds);
        let found = self.contexts;
        let mut text = String::new();
        let mut line = |name: &str, what: String| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name:<11}{what}");
        };
        let backing = self.region.backing();
        let mib = self.region.len() >> 20;
        line("guest", format!("{mib} MiB, backing {}", backing.name()));
        for (name, error) in self.refused {
            line("not", format!("{name}: {error}"));
        }
        for check in &self.checks {
            let (word, detail) = match &check.result {
                Outcome::Passed(detail) => ("passed", detail.as_str()),
                Outcome::Failed(detail) => ("FAILED", detail.as_str()),
                Outcome::Skipped(reason) => ("skipped", *reason),
            };
            let colon = if detail.is_empty() { "" } else { ": " };
            line(word, format!("{}{colon}{detail}", check.name));
        }
        let messages = self.counts.messages;
        let rate = messages as f64 / seconds;
        line("ring", format!("{messages} messages, {rate:.0} a second"));
        let requests = load(&self.bell.asked);
        let mean = took as f64 / 1e3 / requests.max(1) as f64;
        line(
            "converted",
            format!("{pages} pages in {requests} requests of the guest, {mean:.1} µs each"),
        );
        let (whole, refused) = (load(&self.reads.whole), load(&self.reads.refused));
        line("reader", format!("{whole} pages read, {refused} refused"));
        let bytes = found.tables * strongroom_guest::PAGE;
        line(
            "contexts",
            format!(
                "{bytes} bytes of tables and {} of the monitor's each; made in {} ns, dropped in {} ns",
                found.state_bytes, found.make_ns, found.drop_ns
            ),
        );
        let guest = match &found.guest_switch_ns {
            Ok(ns) => format!("{ns} ns by the guest's kernel mode"),
            Err(why) => format!("not by the guest's kernel mode here: {why}"),
        };
        line(
            "switch",
            format!("{} ns by the monitor, {guest}", found.switch_ns),
        );
        let _ = write!(text, "\n{}", self.region.receipt());
        for limit in backing.limits() {
            let _ = write!(text, "\nlimit    {limit}");
        }
        text
    }
}
