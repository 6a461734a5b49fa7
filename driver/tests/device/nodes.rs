//! NUMA nodes: an object's memory is from where its program runs, while there is any.

use crate::object::{Object, alone, skip};
use crate::processors::run_on;
use std::collections::BTreeMap;
use std::fs;
use strongroom_core::driver::{HUGE_PAGE, Mode, PAGE};

/// What a node has of the pool, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    bytes: u64,
    free: u64,
}

fn parts() -> BTreeMap<i32, Part> {
    let text = fs::read_to_string("/sys/class/misc/strongroom/nodes").unwrap();
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap();
            let node = word().parse().unwrap();
            let [bytes, free] = [word(), word()].map(|word| word.parse().unwrap());
            (node, Part { bytes, free })
        })
        .collect()
}

/// A processor of a node that has one.
fn processor(node: i32) -> Option<usize> {
    let list = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).ok()?;
    let first = list.trim().split(['-', ',']).next()?;
    first.parse().ok()
}

#[test]
fn an_object_is_from_the_node_where_its_program_runs() {
    let Some(_alone) = alone() else { return };
    let before = parts();
    assert!(before.values().all(|part| part.free == part.bytes));
    if before.len() < 2 {
        return skip("the pool is of one NUMA node");
    }
    for &node in before.keys() {
        let Some(processor) = processor(node) else {
            continue;
        };
        run_on(processor);
        for (mode, bytes) in [
            (Mode::empty(), 3 * PAGE),
            (Mode::empty(), 2 * HUGE_PAGE + PAGE),
            (Mode::HUGE, 4 * HUGE_PAGE),
        ] {
            let map = Object::with_mode(Mode::EXCLUSIVE | mode, bytes)
                .map()
                .unwrap();
            let mut expected = before.clone();
            expected.get_mut(&node).unwrap().free -= bytes;
            assert_eq!(parts(), expected, "on {processor}: {mode:?}, {bytes}");
            drop(map);
        }
        // All that the node has, and then another's.
        let all = before[&node].free;
        let map = Object::with_mode(Mode::EXCLUSIVE, all).map().unwrap();
        assert_eq!(parts()[&node].free, 0);
        let more = Object::with_mode(Mode::EXCLUSIVE, PAGE).map().unwrap();
        more.bytes_mut().fill(1);
        let total: u64 = before.values().map(|part| part.free).sum();
        let left: u64 = parts().values().map(|part| part.free).sum();
        assert_eq!(left, total - all - PAGE);
        drop((map, more));
        assert_eq!(parts(), before);
    }
}
