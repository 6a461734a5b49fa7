//! What it costs to write guest memory through a call instead of directly (E10).
//!
//! *Directly* is a copy into shared pages under a guard, or under one that is held. The calls: `pwrite` to the
//! file of the shared memory; `process_vm_writev`, as another process would use it; a request to a thread that has the
//! memory, over a pair of sockets; a copy into a buffer first, as where a device reaches nothing but that; and
//! sharing private pages for as long as the write takes.

use crate::conversions::{LEN, Ours, machine};
use crate::rounds::Rounds;
use core::hint::black_box;
use kvm_ioctls::Kvm;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use strongroom_guest::backing::{Pair, Plain, Poison};
use strongroom_guest::{Contents, GuestRegion, PAGE, Side};
use vm_memory::{Bytes, MemoryRegionAddress};

const SIZES: [(&str, usize); 4] = [
    ("64 B", 64),
    ("512 B", 512),
    ("4 KiB", 4096),
    ("64 KiB", 65_536),
];

fn at(n: usize, size: usize) -> usize {
    n * size % (LEN - (1 << 20))
}

fn direct(region: &GuestRegion, data: &[u8], n: usize) {
    let to = MemoryRegionAddress(at(n, data.len()) as u64);
    region.write_slice(black_box(data), to).unwrap();
}

fn process_vm_writev(data: &[u8], to: *mut u8) {
    let local = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let remote = libc::iovec {
        iov_base: to.cast(),
        iov_len: data.len(),
    };
    // SAFETY: the kernel writes within the view of shared memory, which is raw bytes, and checks both ranges.
    let written = unsafe {
        libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    assert_eq!(written, data.len() as isize);
}

/// Serves writes: a place, a length, and the bytes; one byte is the answer. Until the other end closes.
fn serve(region: &GuestRegion, mut socket: UnixStream) {
    let mut head = [0; 16];
    let mut data = vec![0; 65_536];
    while socket.read_exact(&mut head).is_ok() {
        let word = |n: usize| u64::from_le_bytes(head[n..n + 8].try_into().unwrap());
        let data = &mut data[..word(8) as usize];
        socket.read_exact(data).unwrap();
        let to = MemoryRegionAddress(word(0));
        region.write_slice(data, to).unwrap();
        socket.write_all(&[1]).unwrap();
    }
}

fn request(mut socket: &UnixStream, data: &[u8], n: usize) {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&(at(n, data.len()) as u64).to_le_bytes());
    head[8..].copy_from_slice(&(data.len() as u64).to_le_bytes());
    socket.write_all(&head).unwrap();
    socket.write_all(data).unwrap();
    socket.read_exact(&mut [0]).unwrap();
}

pub(crate) fn measure(rounds: &Rounds) {
    let backing = Plain::new(LEN).unwrap();
    let region = GuestRegion::new(0, backing).unwrap();
    let zero = vec![1; LEN];
    region.write_slice(&zero, MemoryRegionAddress(0)).unwrap();
    let view = region.backing().host();
    let file = region.backing().shared_file().unwrap();
    let mut buffer = vec![0; 65_536];
    let (client, server) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&region, server));
        let client = client;
        for (size_named, size) in SIZES {
            let data = vec![7; size];
            let name = |what: &str| format!("{size_named}: {what}");
            let held = region.slice(0..LEN).unwrap();
            rounds.short(
                &name("directly"),
                "the same in a slice that is held",
                |n| direct(&region, &data, n),
                |n| held.write_slice(black_box(&data), at(n, size)).unwrap(),
            );
            drop(held);
            rounds.short(
                &name("directly"),
                "by a buffer: copied twice",
                |n| direct(&region, &data, n),
                |n| {
                    buffer[..size].copy_from_slice(black_box(&data));
                    direct(&region, black_box(&buffer[..size]), n);
                },
            );
            rounds.short(
                &name("directly"),
                "pwrite",
                |n| direct(&region, &data, n),
                |n| {
                    let to = at(n, size) as u64;
                    assert_eq!(rustix::io::pwrite(file, &data, to), Ok(size));
                },
            );
            rounds.short(
                &name("directly"),
                "process_vm_writev",
                |n| direct(&region, &data, n),
                |n| process_vm_writev(&data, view.wrapping_add(at(n, size))),
            );
            rounds.short(
                &name("directly"),
                "a request to another thread",
                |n| direct(&region, &data, n),
                |n| request(&client, &data, n),
            );
        }
        // The server sees the end.
        drop(client);
    });
    let Ok(kvm) = Kvm::new() else {
        return rounds.note("Writes by conversion were not measured: there is no KVM.");
    };
    let ordinary = machine(&kvm, 0).unwrap();
    if let Ok(pair) = Pair::new(&ordinary, LEN, Side::Shared) {
        shared_meanwhile(rounds, "pair", &region, &Ours::new(&ordinary, pair).0);
    }
    let ordinary = machine(&kvm, 0).unwrap();
    if let Ok(poison) = Poison::new(LEN) {
        shared_meanwhile(rounds, "poison", &region, &Ours::new(&ordinary, poison).0);
    }
}

/// A private page is shared, written and private again, its contents kept.
fn shared_meanwhile(rounds: &Rounds, name: &str, region: &GuestRegion, private: &GuestRegion) {
    let zero = vec![1; LEN];
    private.write_slice(&zero, MemoryRegionAddress(0)).unwrap();
    let convert = |bytes, to| {
        private
            .convert(bytes, to, Contents::Kept, Duration::from_secs(1))
            .unwrap();
    };
    convert(0..LEN, Side::Private);
    for (size_named, size) in SIZES {
        let data = vec![7; size];
        rounds.short(
            &format!("{size_named}: directly"),
            &format!("shared meanwhile, {name}"),
            |n| direct(region, &data, n),
            |n| {
                let start = at(n, size) / PAGE * PAGE;
                let end = (at(n, size) + size).next_multiple_of(PAGE);
                convert(start..end, Side::Shared);
                direct(private, &data, n);
                convert(start..end, Side::Private);
            },
        );
    }
}
