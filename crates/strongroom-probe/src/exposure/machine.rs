//! What decides for every process of this machine.

use serde::Serialize;
use std::fs;
use strongroom_sys::secret_memory;

/// The state of this machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// kernel.yama.ptrace_scope; none without Yama.
    pub yama: Option<u64>,
    /// kernel.core_pattern.
    pub core_pattern: CorePattern,
    /// fs.suid_dumpable: whether what is not dumpable is dumped all the same (2: for root to read).
    pub suid_dumpable: u64,
    /// The swap devices in use.
    pub swaps: Vec<String>,
    /// Whether it can hibernate now: with secret memory in use anywhere it cannot.
    pub hibernates: bool,
    /// Whether there is a /proc/kcore.
    pub kcore: bool,
    /// The kernel's lockdown: `integrity` or `confidentiality` forbid root the direct ways into the kernel.
    pub lockdown: Option<String>,
    /// The device of memfd_secret's files, by which their mappings are known; none where this process
    /// cannot make one.
    pub secret_device: Option<(u32, u32)>,
}

/// Where the kernel sends core dumps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CorePattern {
    /// To a file by this name.
    File(String),
    /// To a program, whatever the limit says, but for the limit 1.
    Program(String),
    /// Nowhere.
    None,
}

impl Default for CorePattern {
    fn default() -> Self {
        Self::File("core".to_owned())
    }
}

impl CorePattern {
    fn parse(text: &str) -> Self {
        let text = text.trim_end_matches('\n');
        match text.as_bytes().first() {
            None => Self::None,
            // Linux 6.16: `@` is a socket.
            Some(b'|' | b'@') => Self::Program(text.to_owned()),
            Some(_) => Self::File(text.to_owned()),
        }
    }
}

impl Machine {
    /// Looks at this machine. What cannot be read counts as absent.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).ok();
        let number = |path: &str| text(path)?.trim().parse().ok();
        let swaps: Vec<String> = text("/proc/swaps")
            .unwrap_or_default()
            .lines()
            .skip(1)
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect();
        let states = text("/sys/power/state").unwrap_or_default();
        Self {
            yama: number("/proc/sys/kernel/yama/ptrace_scope"),
            core_pattern: text("/proc/sys/kernel/core_pattern")
                .map_or_else(CorePattern::default, |text| CorePattern::parse(&text)),
            suid_dumpable: number("/proc/sys/fs/suid_dumpable").unwrap_or_default(),
            // The image goes to a swap device.
            hibernates: states.split_whitespace().any(|state| state == "disk") && !swaps.is_empty(),
            swaps,
            kcore: fs::exists("/proc/kcore").unwrap_or(false),
            // "none [integrity] confidentiality"
            lockdown: text("/sys/kernel/security/lockdown").and_then(|text| {
                let (_, rest) = text.split_once('[')?;
                let (mode, _) = rest.split_once(']')?;
                (mode != "none").then(|| mode.to_owned())
            }),
            secret_device: secret_device(),
        }
    }
}

/// All secret files are of one file system, which is mounted nowhere.
fn secret_device() -> Option<(u32, u32)> {
    let file = secret_memory::create().ok()?;
    let device = rustix::fs::fstat(&file).ok()?.st_dev;
    Some((rustix::fs::major(device), rustix::fs::minor(device)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_file_a_program_or_nothing() {
        assert_eq!(
            CorePattern::parse("core\n"),
            CorePattern::File("core".to_owned())
        );
        assert_eq!(
            CorePattern::parse("|/bin/x %p\n"),
            CorePattern::Program("|/bin/x %p".to_owned())
        );
        assert_eq!(CorePattern::parse("\n"), CorePattern::None);
    }
}
