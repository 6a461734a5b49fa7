//! A device in a process of its own, as far as its memory goes: it gets a file over a socket and maps it
//! itself (vhost-user). Only files in which private pages never are go that way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guest;

use kvm_ioctls::Kvm;
use rustix::fd::AsRawFd;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strongroom_guest::backing::{Pair, Plain, Poison};
use strongroom_guest::kvm::{Layout, Machine};
use strongroom_guest::{Backing, Contents, GuestRegion, PAGE, Side};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, Listener, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueT;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap, MemoryRegionAddress,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};
use vmm_sys_util::eventfd::EventFd;

const LEN: usize = 4 << 20;
const START: u64 = 0x10_0000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x8000;
const ANSWER: u64 = 0x9000;
/// What the guest keeps to itself.
const SECRET: u64 = 0x10_0000;

/// Answers a request (an offset) with the page that is there, as it finds it.
struct Device {
    memory: Option<GuestMemoryAtomic<GuestMemoryMmap>>,
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        16
    }

    fn features(&self) -> u64 {
        1 << 32 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::empty()
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> std::io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        // Its thread is waited for when the daemon goes.
        Some(new_event_consumer_and_notifier(EventFlag::empty()).unwrap())
    }

    fn handle_event(
        &mut self,
        _event: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> std::io::Result<()> {
        let memory = self.memory.as_ref().unwrap().memory();
        let mut vring = vrings[0].get_mut();
        while let Some(chain) = vring.get_queue_mut().pop_descriptor_chain(memory.clone()) {
            let head = chain.head_index();
            let mut reader = chain.clone().reader(&memory).unwrap();
            let wanted: u64 = reader.read_obj().unwrap();
            let mut page = vec![0; PAGE];
            memory
                .read_slice(&mut page, GuestAddress(START + wanted))
                .unwrap();
            let mut writer = chain.writer(&memory).unwrap();
            writer.write_all(&page).unwrap();
            let queue = vring.get_queue_mut();
            queue.add_used(&*memory, head, PAGE as u32).unwrap();
        }
        vring.signal_used_queue()
    }
}

/// The monitor's end.
struct Monitor {
    frontend: Frontend,
    kick: EventFd,
    call: EventFd,
    asked: u16,
}

impl Monitor {
    fn connect(path: &Path, region: &GuestRegion) -> Self {
        let mut frontend = Frontend::connect(path, 1).unwrap();
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        frontend.set_features(features).unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol).unwrap();
        let host = region.backing().host() as u64;
        let file = region.backing().shared_file().unwrap().as_raw_fd();
        let memory = VhostUserMemoryRegionInfo {
            guest_phys_addr: START,
            memory_size: LEN as u64,
            userspace_addr: host,
            mmap_offset: 0,
            mmap_handle: file,
        };
        frontend.set_mem_table(&[memory]).unwrap();
        frontend.set_vring_num(0, 16).unwrap();
        let ring = VringConfigData {
            queue_max_size: 16,
            queue_size: 16,
            flags: 0,
            desc_table_addr: host,
            used_ring_addr: host + USED,
            avail_ring_addr: host + AVAILABLE,
            log_addr: None,
        };
        frontend.set_vring_addr(0, &ring).unwrap();
        frontend.set_vring_base(0, 0).unwrap();
        let (kick, call) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
        frontend.set_vring_call(0, &call).unwrap();
        frontend.set_vring_kick(0, &kick).unwrap();
        frontend.set_vring_enable(0, true).unwrap();
        Monitor {
            frontend,
            kick,
            call,
            asked: 0,
        }
    }

    /// What the device finds in a page.
    fn ask(&mut self, region: &GuestRegion, offset: u64) -> Vec<u8> {
        let at = MemoryRegionAddress;
        region.write_obj(offset, at(REQUEST)).unwrap();
        for (n, descriptor) in [
            Descriptor::new(START + REQUEST, 8, 1, 1),
            Descriptor::new(START + ANSWER, PAGE as u32, 2, 0),
        ]
        .into_iter()
        .enumerate()
        {
            let raw = RawDescriptor::from(descriptor);
            region.write_obj(raw, at(16 * n as u64)).unwrap();
        }
        let slot = AVAILABLE + 4 + 2 * u64::from(self.asked % 16);
        region.write_obj(0_u16, at(slot)).unwrap();
        self.asked += 1;
        region.write_obj(self.asked, at(AVAILABLE + 2)).unwrap();
        self.kick.write(1).unwrap();
        // A call may come from the start of the ring, too.
        while region.read_obj::<u16>(at(USED + 2)).unwrap() != self.asked {
            self.call.read().unwrap();
        }
        let mut page = vec![0; PAGE];
        region.read_slice(&mut page, at(ANSWER)).unwrap();
        page
    }
}

/// Serves a region to a device over a socket, and calls `test` with the monitor's end.
fn with_device(region: &GuestRegion, test: impl FnOnce(&mut Monitor)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("device");
    let device = Arc::new(Mutex::new(Device { memory: None }));
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("device".to_owned(), device, memory).unwrap();
    let mut listener = Listener::new(&path, false).unwrap();
    std::thread::scope(|scope| {
        let monitor = scope.spawn(|| Monitor::connect(&path, region));
        daemon.start(&mut listener).unwrap();
        let mut monitor = monitor.join().unwrap();
        test(&mut monitor);
        drop(monitor.frontend);
    });
    // The other end has gone, which is how it ends.
    let _ = daemon.wait();
}

#[test]
fn a_device_process_works_on_shared_pages() {
    let region = GuestRegion::new(START, Plain::new(LEN).unwrap()).unwrap();
    with_device(&region, |monitor| {
        for round in 1..20_u8 {
            let offset = SECRET + u64::from(round) * PAGE as u64;
            region
                .write_slice(&[round; PAGE], MemoryRegionAddress(offset))
                .unwrap();
            assert_eq!(monitor.ask(&region, offset), [round; PAGE]);
        }
    });
}

#[test]
fn a_device_process_never_sees_a_private_page() {
    let Ok(kvm) = Kvm::new() else {
        return guest::skip("no KVM");
    };
    let vm = Arc::new(kvm.create_vm().unwrap());
    let machine = Machine::new(&kvm, vm, Layout::of(&kvm)).unwrap();
    let pair = match Pair::new(&machine, LEN, Side::Shared) {
        Ok(pair) => pair,
        Err(error) => return guest::skip(&format!("no pair of files: {error}")),
    };
    let region = GuestRegion::new(START, pair).unwrap();
    region.place(&machine).unwrap();
    with_device(&region, |monitor| {
        let at = MemoryRegionAddress(SECRET);
        let bytes = SECRET as usize..SECRET as usize + PAGE;
        let convert = |to| {
            let patience = Duration::from_secs(1);
            region.convert(bytes.clone(), to, Contents::Kept, patience)
        };
        region.write_slice(&[0x5e; PAGE], at).unwrap();
        // The control: while it is shared, the device reads it.
        assert_eq!(monitor.ask(&region, SECRET), [0x5e; PAGE]);
        convert(Side::Private).unwrap();
        assert_eq!(monitor.ask(&region, SECRET), [0; PAGE]);
        convert(Side::Shared).unwrap();
        assert_eq!(
            monitor.ask(&region, SECRET),
            [0x5e; PAGE],
            "and the guest kept it"
        );
    });
}

#[test]
fn memory_that_is_the_same_on_both_sides_is_handed_to_nobody() {
    assert!(Poison::new(LEN).unwrap().shared_file().is_none());
}
