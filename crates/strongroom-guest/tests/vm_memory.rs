//! What is written against vm-memory, on guest memory: rings, loaders, and the log of dirty pages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eyes;

use eyes::read_by_kernel;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use std::io::{Cursor, Read, Write};
use std::time::Duration;
use strongroom_guest::backing::Poison;
use strongroom_guest::page_table::{Access, Features, Sharing, Tables};
use strongroom_guest::{Contents, Error, GuestRam, GuestRegion, PAGE, PageState, Side, Why, ram};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::{Queue, QueueT, Reader, Writer};
use vm_memory::bitmap::Bitmap;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress, VolatileMemory,
};

const MIB: usize = 1 << 20;
/// Where the guest's memory begins.
const START: u64 = 0x10_0000;
/// The queue's parts, each in a page of its own.
const DESCRIPTORS: u64 = START;
const AVAILABLE: u64 = START + 0x1000;
const USED: u64 = START + 0x2000;
const BUFFERS: u64 = START + 0x10_000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

fn guest() -> GuestRam {
    let region = GuestRegion::new(START, Poison::new(8 * MIB).unwrap()).unwrap();
    GuestRam::from_regions(vec![region]).unwrap()
}

fn region(ram: &GuestRam) -> &GuestRegion {
    ram.find_region(GuestAddress(START)).unwrap()
}

fn convert(ram: &GuestRam, start: u64, len: usize, to: Side) -> Result<(), Error> {
    let start = (start - START) as usize;
    region(ram).convert(start..start + len, to, Contents::Kept, Duration::ZERO)
}

/// Puts a chain of descriptors (address, length, flags) into the ring, as a driver does.
fn offer(ram: &GuestRam, count: u16, chain: &[(u64, u32, u16)]) {
    for (n, &(address, length, flags)) in chain.iter().enumerate() {
        let next = n as u16 + 1;
        let flags = if chain.len() == n + 1 {
            flags
        } else {
            flags | NEXT
        };
        let descriptor = RawDescriptor::from(Descriptor::new(address, length, flags, next));
        let at = GuestAddress(DESCRIPTORS + 16 * n as u64);
        ram.write_obj(descriptor, at).unwrap();
    }
    let slot = AVAILABLE + 4 + 2 * u64::from((count - 1) % 16);
    ram.write_obj(0_u16, GuestAddress(slot)).unwrap();
    ram.write_obj(count, GuestAddress(AVAILABLE + 2)).unwrap();
}

fn queue(ram: &GuestRam) -> Queue {
    let mut queue = Queue::new(16).unwrap();
    queue.set_desc_table_address(Some(DESCRIPTORS as u32), Some(0));
    queue.set_avail_ring_address(Some(AVAILABLE as u32), Some(0));
    queue.set_used_ring_address(Some(USED as u32), Some(0));
    queue.set_ready(true);
    assert!(queue.is_valid(ram));
    queue
}

/// A device that answers with what it is sent, in capitals.
fn serve(ram: &GuestRam, queue: &mut Queue) -> Result<usize, String> {
    let Some(chain) = queue.pop_descriptor_chain(ram) else {
        return Err("no chain".to_owned());
    };
    let head = chain.head_index();
    let mut text = Vec::new();
    // Not chain.reader(), which forgets why.
    let reader = Reader::new(ram, chain.clone()).map_err(|e| format!("{e:?}"))?;
    { reader }
        .read_to_end(&mut text)
        .map_err(|e| format!("{e:?}"))?;
    text.make_ascii_uppercase();
    let writer = Writer::new(ram, chain).map_err(|e| format!("{e:?}"))?;
    { writer }.write_all(&text).map_err(|e| format!("{e:?}"))?;
    queue
        .add_used(ram, head, text.len() as u32)
        .map_err(|e| format!("{e:?}"))?;
    Ok(text.len())
}

#[test]
fn a_split_queue_in_shared_pages() {
    let ram = guest();
    // All but the queue and its buffers is private.
    convert(&ram, START + 0x20_000, 8 * MIB - 0x20_000, Side::Private).unwrap();
    let mut queue = queue(&ram);
    for round in 1..100_u16 {
        // The first buffer crosses a page.
        let (from, to) = (BUFFERS + 0xffa, BUFFERS + 0x3000);
        ram.write_slice(b"hello guest", GuestAddress(from)).unwrap();
        offer(&ram, round, &[(from, 11, 0), (to, 64, WRITE)]);
        assert_eq!(serve(&ram, &mut queue), Ok(11));
        let mut answer = [0; 11];
        ram.read_slice(&mut answer, GuestAddress(to)).unwrap();
        assert_eq!(&answer, b"HELLO GUEST");
        assert_eq!(ram.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), round);
    }
    // Nothing is held any more.
    convert(&ram, START, 0x20_000, Side::Private).unwrap();
}

#[test]
fn a_descriptor_that_points_at_a_private_page_is_an_error() {
    let ram = guest();
    let private = START + 0x40_000;
    convert(&ram, private, 2 * PAGE, Side::Private).unwrap();
    let mut queue = queue(&ram);
    let shared = BUFFERS;
    let mut count = 0;
    for chain in [
        // Read from, written to, and with its last byte only.
        [(private, 16, 0), (shared, 64, WRITE)],
        [(shared, 16, 0), (private, 64, WRITE)],
        [(private - 15, 16, 0), (shared, 64, WRITE)],
        [(shared, 16, 0), (private + 2 * PAGE as u64 - 1, 64, WRITE)],
    ] {
        count += 1;
        offer(&ram, count, &chain);
        let error = serve(&ram, &mut queue).unwrap_err();
        assert!(error.contains("Private"), "{count}: {error}");
    }
    // The queue itself as well.
    convert(&ram, DESCRIPTORS, PAGE, Side::Private).unwrap();
    count += 1;
    let slot = AVAILABLE + 4 + 2 * u64::from(count - 1);
    ram.write_obj(0_u16, GuestAddress(slot)).unwrap();
    ram.write_obj(count, GuestAddress(AVAILABLE + 2)).unwrap();
    // virtio-queue takes a table that it cannot read for an empty chain.
    assert_eq!(serve(&ram, &mut queue), Ok(0));
    convert(&ram, AVAILABLE, PAGE, Side::Private).unwrap();
    assert!(queue.pop_descriptor_chain(&ram).is_none());
    let used = queue.add_used(&ram, 0, 1);
    assert!(used.is_ok(), "its page is shared");
    convert(&ram, USED, PAGE, Side::Private).unwrap();
    assert!(queue.add_used(&ram, 0, 1).is_err());
}

#[test]
fn a_device_that_is_at_work_holds_its_buffers() {
    let ram = guest();
    let mut queue = queue(&ram);
    offer(&ram, 1, &[(BUFFERS, 16, 0), (BUFFERS + 0x1000, 64, WRITE)]);
    let chain = queue.pop_descriptor_chain(&ram).unwrap();
    let reader = chain.reader(&ram).unwrap();
    let Err(Error::Refused(refused)) = convert(&ram, BUFFERS, PAGE, Side::Private) else {
        panic!("its buffer was taken away");
    };
    assert!(
        matches!(refused.why, Why::Held { pages: 1, .. }),
        "{refused}"
    );
    drop(reader);
    convert(&ram, BUFFERS, PAGE, Side::Private).unwrap();
}

/// An ELF file with one segment of these bytes, to be loaded at a physical address.
fn elf(physical: u64, bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    // ET_EXEC, x86-64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for number in [physical, 64, 0] {
        file.extend(number.to_le_bytes());
    }
    // Flags; sizes of the headers, and one program header.
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // PT_LOAD, to be read and executed.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let len = bytes.len() as u64;
    for number in [120, physical, physical, len, len, 0x1000] {
        file.extend(number.to_le_bytes());
    }
    file.extend(bytes);
    file
}

/// A bzImage with this protected-mode code, to be loaded at 1 MiB or where it is told.
fn bz_image(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x200 * 5];
    // setup_sects: the header's sector, and four more.
    file[0x1f1] = 4;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    // The protocol's version 2.15; loaded high; code32_start.
    file[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    file[0x211] = 1;
    file[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    file[0x1f4..0x1f8].copy_from_slice(&(code.len() as u32 / 16).to_le_bytes());
    file.extend(code);
    file
}

#[test]
fn kernels_are_loaded_and_become_private() {
    let code: Vec<u8> = (0..3 * PAGE).map(|at| (at * 7 + 1) as u8).collect();
    let at = START + 0x10_0000;
    for (name, bz) in [("ELF", false), ("bzImage", true)] {
        let ram = guest();
        let load = || {
            let high = Some(GuestAddress(START));
            if bz {
                let mut file = Cursor::new(bz_image(&code));
                BzImage::load(&*ram, Some(GuestAddress(at)), &mut file, high)
            } else {
                Elf::load(&*ram, None, &mut Cursor::new(elf(at, &code)), high)
            }
        };
        let loaded = load().unwrap();
        assert_eq!(loaded.kernel_load, GuestAddress(at), "{name}");
        let mut found = vec![0; code.len()];
        ram.read_slice(&mut found, GuestAddress(at)).unwrap();
        assert_eq!(found, code, "{name}");
        convert(&ram, at, 4 * PAGE, Side::Private).unwrap();
        let backing = region(&ram).backing();
        let offset = (at - START) as usize;
        let view = backing.host().wrapping_add(offset);
        let alias = backing.guest_alias().unwrap().wrapping_add(offset);
        assert!(read_by_kernel(view).is_err(), "{name}");
        assert_eq!(
            read_by_kernel(alias),
            Ok(code[0]),
            "{name}: the guest has it"
        );
        assert!(load().is_err(), "{name}: it is the guest's now");
        assert_eq!(read_by_kernel(alias), Ok(code[0]), "{name}");
    }
}

#[test]
fn what_is_written_is_dirty() {
    let region = GuestRegion::new(START, Poison::new(MIB).unwrap()).unwrap();
    let plain = GuestRegion::new(START, Poison::new(MIB).unwrap()).unwrap();
    let region = region.with_dirty_log().unwrap();
    let at = |offset: usize| MemoryRegionAddress(offset as u64);
    let page = |n: usize| n * PAGE;
    assert!(region.take_dirty(0..MIB).is_empty());

    // Reads leave no mark.
    let mut bytes = [0; 100];
    region.read_slice(&mut bytes, at(0)).unwrap();
    region
        .load::<u64>(at(0), std::sync::atomic::Ordering::Relaxed)
        .unwrap();
    drop(region.get_slice(at(0), 100).unwrap());
    assert!(region.take_dirty(0..MIB).is_empty());

    // Each kind of write, each on a page of its own; the third crosses into the next.
    region.write_slice(&bytes, at(page(2))).unwrap();
    region.write_obj(1_u64, at(page(4))).unwrap();
    region.write(&bytes, at(page(7) - 1)).unwrap();
    region
        .store(1_u32, at(page(9)), std::sync::atomic::Ordering::Relaxed)
        .unwrap();
    let mut source = &bytes[..];
    region
        .read_volatile_from(at(page(11)), &mut source, 5)
        .unwrap();
    let slice = region.get_slice(at(page(20)), page(10)).unwrap();
    slice.write_obj(1_u8, page(3)).unwrap();
    slice
        .subslice(page(5) - 2, 100)
        .unwrap()
        .get_ref::<u32>(0)
        .unwrap()
        .store(7);
    assert!(region.is_dirty(page(2)) && !region.is_dirty(page(3)));
    assert!(region.bitmap().dirty_at(page(23)));
    assert!(slice.bitmap().dirty_at(page(3)) && !slice.bitmap().dirty_at(page(2)));
    let dirty: Vec<_> = region
        .take_dirty(0..MIB)
        .into_iter()
        .map(|bytes| (bytes.start / PAGE, bytes.end / PAGE))
        .collect();
    assert_eq!(dirty, [(2, 3), (4, 5), (6, 8), (9, 10), (11, 12), (23, 26)]);
    assert!(region.take_dirty(0..MIB).is_empty(), "taken is taken");

    // A refused write leaves none; a page that becomes shared has whatever the guest wrote.
    drop(slice);
    region
        .convert(0..page(2), Side::Private, Contents::Kept, Duration::ZERO)
        .unwrap();
    assert!(region.write_obj(1_u8, at(0)).is_err());
    assert!(region.take_dirty(0..MIB).is_empty());
    region
        .convert(0..page(3), Side::Shared, Contents::Kept, Duration::ZERO)
        .unwrap();
    assert_eq!(region.take_dirty(0..MIB).first(), Some(&(0..page(2))));

    // Tables are written by the monitor, too.
    let mut metadata = vec![0; Tables::metadata_words(page(8))];
    let tables = Tables::new(&region, 0..page(8), Features::default(), &mut metadata).unwrap();
    let mut context = tables.context().unwrap();
    let memory = 1 << 30..(1 << 30) + PAGE as u64;
    context
        .map(0, memory, Access::USER, Sharing::Common)
        .unwrap();
    assert_eq!(region.take_dirty(0..MIB).first(), Some(&(0..page(4))));

    plain.write_obj(1_u64, at(0)).unwrap();
    assert!(!plain.is_dirty(0) && plain.take_dirty(0..MIB).is_empty());
}

#[test]
fn parts_of_short_slices_hold_their_own_pages() {
    let region = GuestRegion::new(START, Poison::new(MIB).unwrap()).unwrap();
    let guards = |page: usize| match region.state(page * PAGE) {
        Some(PageState::Shared { guards }) => guards,
        other => panic!("{other:?}"),
    };
    let two = region.get_slice(MemoryRegionAddress(0), 2 * PAGE).unwrap();
    let second = two.subslice(PAGE, 8).unwrap();
    drop(two);
    assert_eq!((guards(0), guards(1)), (0, 1));
    // Of a long one, all of them, until the last part has gone.
    let long = region.get_slice(MemoryRegionAddress(0), 16 * PAGE).unwrap();
    let part = long.subslice(PAGE, 8).unwrap();
    let end = long.subslice(15 * PAGE, 8).unwrap();
    drop(long);
    assert_eq!((guards(0), guards(1), guards(15)), (1, 2, 2));
    drop(part);
    assert_eq!((guards(0), guards(1), guards(15)), (0, 1, 1));
    drop((second, end));
    assert_eq!((guards(1), guards(15)), (0, 0));
    let error = region
        .get_slice(MemoryRegionAddress(MIB as u64), 1)
        .unwrap_err();
    assert!(
        ram::cause(&error).is_none(),
        "not a matter of protection: {error}"
    );
}
