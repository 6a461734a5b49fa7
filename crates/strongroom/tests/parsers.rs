//! What reads text and files of others: nothing panics, nothing is guessed.

use proptest::prelude::*;
use std::io::Write;
use std::os::fd::AsFd;
use strongroom::Level;
use strongroom::fork::ForkPolicy;
use strongroom::launch::config::{Config, ReceiptDescriptor, Scope};
use strongroom::launch::program;

fn config() -> impl Strategy<Value = Config<'static>> {
    let level = prop_oneof![
        Just(None),
        Just(Some(Level::Locked)),
        Just(Some(Level::Hidden)),
        Just(Some(Level::Closed))
    ];
    let fork = prop_oneof![
        Just(ForkPolicy::Copy),
        Just(ForkPolicy::Drop),
        Just(ForkPolicy::Deny)
    ];
    let descriptor = prop::option::of((any::<i32>(), any::<u64>(), any::<u64>()));
    (any::<[bool; 3]>(), level, fork, descriptor).prop_map(|(flags, level, fork, descriptor)| {
        Config {
            scope: if flags[0] { Scope::Heap } else { Scope::Locked },
            level,
            fork,
            dumpable: flags[1],
            best_effort: flags[2],
            receipt_fd: descriptor.map(|(fd, device, inode)| ReceiptDescriptor {
                fd,
                device,
                inode,
            }),
            receipt_path: None,
        }
    })
}

proptest! {
    #[test]
    fn settings_read_back(config in config(), path in prop::option::of(prop::collection::vec(1..=255u8, 0..50))) {
        let mut text = config.to_string().into_bytes();
        if let Some(path) = &path {
            text.extend_from_slice(Config::PATH_KEY);
            text.extend_from_slice(path);
        }
        let expected = Config { receipt_path: path.as_deref(), ..config };
        prop_assert_eq!(Config::parse(&text), Ok(expected));
    }

    #[test]
    fn other_settings_never_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::parse(&text);
    }

    #[test]
    fn nor_do_nearly_right_ones(config in config(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = config.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let _ = Config::parse(&text);
    }

    /// A damaged program is judged, somehow, without a panic or an endless loop.
    #[test]
    fn damaged_programs_are_judged(changes in prop::collection::vec((0..1024usize, any::<u8>()), 0..12), len in 0..4096usize) {
        let mut bytes = std::fs::read("/bin/true").unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(if len < 2048 { len } else { bytes.len() });
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let _ = program::inspect_open(file.as_fd());
    }

    #[test]
    fn so_are_scripts(line in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"#!").unwrap();
        file.write_all(&line).unwrap();
        let _ = program::inspect_open(file.as_fd());
    }
}
