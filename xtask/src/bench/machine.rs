//! What the figures were measured on.

use super::Result;
use super::process;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// The machine and the moment.
pub(super) struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    date: String,
    commit: String,
    command: String,
}

impl Machine {
    /// This one, now.
    pub(super) fn of_this() -> Result<Self> {
        let field = |file: &str, name: &str| -> Result<String> {
            let text = fs::read_to_string(file)?;
            let line = text.lines().find(|line| line.starts_with(name));
            Ok(line
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_else(|| "unknown".to_owned()))
        };
        let kib = field("/proc/meminfo", "MemTotal")?;
        let kib: u64 = kib.trim_end_matches(" kB").parse().unwrap_or(0);
        let words: Vec<_> = std::env::args().skip(1).collect();
        Ok(Self {
            processor: field("/proc/cpuinfo", "model name")?,
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: kib.div_ceil(1 << 20),
            kernel: process::output(Command::new("uname").arg("-r"))?
                .trim()
                .split('-')
                .next()
                .unwrap_or_default()
                .to_owned(),
            date: process::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?
                .trim()
                .to_owned(),
            commit: process::output(Command::new("git").args(["describe", "--always", "--dirty"]))
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            command: format!("cargo xtask {}", words.join(" ")),
        })
    }

    /// As one sentence.
    pub(super) fn sentence(&self) -> String {
        format!(
            "Measured on {} by `{}` at commit {}: {}, {} cores, {} GiB, Linux {}.",
            self.date,
            self.command,
            self.commit,
            self.processor,
            self.cores,
            self.memory_gib,
            self.kernel
        )
    }

    /// As JSON.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "processor": self.processor,
            "cores": self.cores,
            "memory_gib": self.memory_gib,
            "kernel": self.kernel,
            "date": self.date,
            "commit": self.commit,
            "command": self.command,
        })
    }
}
