//! What a process knows of its own memory and files by /proc/self.

use std::fs;

/// A mapping that can be read.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) len: usize,
    /// What /proc/self/maps calls it; empty for anonymous memory.
    pub(super) name: String,
}

/// Every mapping that can be read, but for the kernel's own.
pub(super) fn mapped() -> Vec<Place> {
    let text = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    text.lines().filter_map(place).collect()
}

fn place(line: &str) -> Option<Place> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let access = fields.next()?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    let name = fields.skip(3).collect::<Vec<_>>().join(" ");
    let readable = access.starts_with('r') && !name.starts_with("[v");
    readable.then(|| Place {
        start,
        len: end - start,
        name,
    })
}

/// The numbers of all descriptors.
pub(super) fn descriptors() -> Vec<i32> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The descriptor that is a virtual machine.
pub(super) fn machine() -> Option<i32> {
    descriptor("anon_inode:kvm-vm")
}

/// The descriptor of KVM itself.
pub(super) fn device() -> Option<i32> {
    descriptor("/dev/kvm")
}

fn descriptor(what: &str) -> Option<i32> {
    descriptors().into_iter().find(|number| {
        let link = fs::read_link(format!("/proc/self/fd/{number}"));
        link.is_ok_and(|link| link.to_str() == Some(what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_has_a_place() {
        let line = "7f00-8f00 rw-s 00000000 00:01 12   /memfd:some name (deleted)";
        let found = place(line).unwrap();
        assert_eq!((found.start, found.len), (0x7f00, 0x1000));
        assert_eq!(found.name, "/memfd:some name (deleted)");
        assert!(place("7f00-8f00 ---p 00000000 00:00 0").is_none());
        assert!(place("7f00-8f00 r--p 00000000 00:00 0   [vvar]").is_none());
    }
}
