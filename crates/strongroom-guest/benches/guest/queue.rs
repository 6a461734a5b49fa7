//! The benches of virtio-queue 0.18 (`benches/queue/mod.rs`) on our memory and on vm-memory's: 128 descriptors in one
//! chain and in 128 chains, direct and indirect; 128 entries of the used ring. The rings are read by a device that
//! holds nothing: each access takes its guards.

use crate::ram::{PEER, ours, theirs};
use crate::rounds::Rounds;
use core::hint::black_box;
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemory;

const MEMORY: usize = 0x1_0000_0000;
const DESCRIPTORS: u16 = 128;

fn walk(queue: &mut Queue, memory: &impl GuestMemory) {
    let descriptors: usize = queue.iter(memory).unwrap().map(Iterator::count).sum();
    assert_eq!(descriptors, usize::from(DESCRIPTORS));
    // From the start again.
    queue.set_next_avail(0);
}

/// A queue in memory with chains of so many descriptors each.
fn queue(memory: &impl GuestMemory, chains: u16, indirect: bool) -> Queue {
    let mut mock = MockSplitQueue::new(memory, 256);
    for _ in 0..chains {
        let len = DESCRIPTORS / chains;
        match indirect {
            true => mock.add_indirect_chain(len).unwrap(),
            false => mock.add_chain(len).unwrap(),
        }
    }
    mock.create_queue().unwrap()
}

pub(crate) fn measure(rounds: &Rounds) {
    for (what, chains, indirect) in [
        ("one chain of 128", 1, false),
        ("128 chains of one", DESCRIPTORS, false),
        ("one chain of 128, indirect", 1, true),
        ("128 chains of one, indirect", DESCRIPTORS, true),
    ] {
        let (our, their) = (ours(MEMORY, 1), theirs(MEMORY, 1));
        let (mut our_queue, mut their_queue) = (
            queue(&our, chains, indirect),
            queue(&their, chains, indirect),
        );
        rounds.short(
            what,
            PEER,
            |_| walk(black_box(&mut our_queue), &our),
            |_| walk(black_box(&mut their_queue), &their),
        );
    }
    let (our, their) = (ours(MEMORY, 1), theirs(MEMORY, 1));
    let (mut our_queue, mut their_queue): (Queue, Queue) = (
        MockSplitQueue::new(&our, 256).create_queue().unwrap(),
        MockSplitQueue::new(&their, 256).create_queue().unwrap(),
    );
    let fill = |queue: &mut Queue, memory: &dyn Fn(&mut Queue)| {
        (0..DESCRIPTORS).for_each(|_| memory(queue));
    };
    rounds.short(
        "128 entries of the used ring",
        PEER,
        |_| {
            fill(&mut our_queue, &|queue| {
                queue.add_used(&our, 123, 0x1000).unwrap();
            });
        },
        |_| {
            fill(&mut their_queue, &|queue| {
                queue.add_used(&their, 123, 0x1000).unwrap();
            });
        },
    );
}
