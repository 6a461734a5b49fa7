//! What the kernel does about memory errors never touches the pool: it has no pages of its own there.

use crate::object::{Object, alone, skip, state};
use std::fs;
use strongroom_core::driver::Mode;

#[test]
fn a_page_that_is_taken_offline_by_hand_stays_with_its_holder() {
    let Some(_alone) = alone() else { return };
    let ranges = fs::read_to_string("/sys/class/misc/strongroom/ranges").unwrap();
    let first = ranges.lines().next().unwrap();
    let (start, _) = first.split_once('-').unwrap();
    // All of the pool, so that this page is among it.
    let map = Object::with_mode(Mode::EXCLUSIVE, state("total"))
        .map()
        .unwrap();
    map.bytes_mut().fill(0x77);
    let holds = |byte: u8| map.bytes().iter().step_by(512).all(|&found| found == byte);
    for how in ["soft_offline_page", "hard_offline_page"] {
        let path = format!("/sys/devices/system/memory/{how}");
        if !fs::exists(&path).unwrap() {
            skip("the kernel has no CONFIG_MEMORY_FAILURE");
            return;
        }
        let error = fs::write(&path, start).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENXIO | libc::EIO)),
            "{how}: {error}"
        );
        assert!(holds(0x77));
    }
    map.bytes_mut().fill(0x78);
    assert!(holds(0x78));
}
