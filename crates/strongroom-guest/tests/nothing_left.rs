//! A virtual machine that is dropped leaves nothing: no mapping and no descriptor. One test, as it looks at
//! the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guest;

use guest::{Guest, MIB, has_driver, kvm, machine};
use std::sync::Arc;
use strongroom_core::driver::DEVICE;
use strongroom_guest::backing::{DriverPoison, best};
use strongroom_guest::kvm::{Limits, Machine};
use strongroom_guest::{Backing, Contents, Side};

/// Mappings of files and descriptors that are a machine's.
fn left() -> Vec<String> {
    let ours = |text: &String| {
        let words = [
            "kvm",
            "guest_memfd",
            "strongroom-guest",
            "userfaultfd",
            DEVICE,
        ];
        words.iter().any(|word| text.contains(word))
    };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let files = files.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    // The program's own name is in its mappings.
    maps.lines()
        .filter(|line| {
            ["anon_inode", "memfd:", DEVICE]
                .iter()
                .any(|word| line.contains(word))
        })
        .map(str::to_owned)
        .chain(files.map(|path| path.display().to_string()))
        .filter(ours)
        .collect()
}

#[test]
fn a_machine_leaves_nothing_behind() {
    let Some(kvm) = kvm() else { return };
    let before = left();
    assert_eq!(before.len(), 1, "/dev/kvm alone: {before:?}");
    let used = |vm: Arc<Machine>, backing: Box<dyn Backing>| {
        eprintln!("{}", backing.name());
        let guest = Guest::new(&kvm, vm, backing, Limits::default());
        use_it(&guest);
        // The control.
        assert!(left().len() > before.len() + 3, "{:?}", left());
        drop(guest);
        assert_eq!(left(), before);
    };
    for initial in [Side::Private, Side::Shared] {
        let vm = machine(&kvm, 0, None).unwrap();
        let choice = best(&vm, 4 * MIB, initial).unwrap();
        used(vm, choice.backing);
    }
    if has_driver() {
        let backing = DriverPoison::new(4 * MIB).unwrap();
        used(machine(&kvm, 0, None).unwrap(), Box::new(backing));
    }
}

fn use_it(guest: &Guest) {
    let mut vcpu = guest.processor(0);
    vcpu.fill(0, 512 * 100, 1);
    for page in (0..1000).step_by(7) {
        guest
            .convert(page..page + 3, Side::Private, Contents::Kept)
            .unwrap();
    }
    guest
        .convert(100..900, Side::Shared, Contents::Kept)
        .unwrap();
}
