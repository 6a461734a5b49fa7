//! A monitor that has given up its ways back. The filter is the whole process's: each backing's is a program of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guest;

use guest::{BACKINGS, Guest, MIB, kvm, made, skip};
use rustix::io::Errno;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;
use strongroom_guest::kvm::{Limits, confine};
use strongroom_guest::{Contents, Error, PAGE, Refused, Side, Why};
use strongroom_sys::{peek, process};
use vm_memory::{Bytes, MemoryRegionAddress};

/// Longer than any access, but for one that is not scheduled.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something that a monitor which is taken over would do.
type Way<'a> = &'a dyn Fn() -> Result<(), Errno>;

/// Names the backing to the program that is to be confined.
const NAMED: &str = "STRONGROOM_CONFINED";

#[test]
fn the_ways_back_are_closed_and_the_guest_goes_on() {
    if let Ok(name) = std::env::var(NAMED) {
        return confined(&name);
    }
    let Some(kvm) = kvm() else { return };
    let mut some = false;
    for name in BACKINGS {
        if let Err(why) = made(&kvm, name, PAGE) {
            eprintln!("{name}: not here: {why}");
            continue;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_ways_back_are_closed_and_the_guest_goes_on"])
            .env(NAMED, name)
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        eprintln!("{name}");
        some = true;
    }
    if !some {
        skip("no backing has private pages here");
    }
}

fn confined(name: &str) {
    let kvm = kvm().unwrap();
    let (vm, backing) = made(&kvm, name, 6 * MIB).unwrap();
    let guest = Guest::new(&kvm, vm, backing, Limits::default());
    guest
        .convert(0..1024, Side::Private, Contents::Dropped)
        .unwrap();
    let mut vcpu = guest.processor(0);
    vcpu.fill(0, 1024 * PAGE / 8, 77);
    let region = guest.region();
    let file = region.backing().private_file();
    let duplicate = || rustix::io::fcntl_dupfd_cloexec(file.unwrap(), 0).map(drop);
    let another = || {
        let result = guest.machine.vm().create_vcpu(5).map(drop);
        result.map_err(|error| Errno::from_raw_os_error(error.errno()))
    };
    let sregs = vcpu.vcpu.fd().get_sregs().unwrap();
    let steer = || {
        let result = vcpu.vcpu.fd().set_sregs(&sregs);
        result.map_err(|error| Errno::from_raw_os_error(error.errno()))
    };
    let byte = 3u8;
    let look = || {
        let mut to = [0];
        peek::vm_read(process::id(), &raw const byte as usize, &mut to)?;
        assert_eq!(to, [3]);
        Ok(())
    };
    // The control: all of it can be done before.
    let mut ways: Vec<(&str, Way)> = vec![
        ("another processor", &another),
        ("system registers", &steer),
        ("process_vm_readv", &look),
    ];
    if file.is_some() {
        ways.push(("duplicate", &duplicate));
    }
    for (name, way) in &ways {
        assert_eq!(way(), Ok(()), "{name}");
    }
    assert_eq!(process::is_dumpable(), Ok(true));

    // A device that is at work before, meanwhile and after: what it holds is in its thread's slots, and
    // membarrier(2) orders them. Refused, no page would become private.
    let counted = 1024 * PAGE..1025 * PAGE;
    let at = MemoryRegionAddress(counted.start as u64);
    let patient = |to, patience| region.convert(counted.clone(), to, Contents::Kept, patience);
    let convert = |to| patient(to, PATIENCE);
    convert(Side::Shared).unwrap();
    region.write_obj(0u64, at).unwrap();
    let (held, is_held) = mpsc::channel();
    let (let_go, lets_go) = mpsc::channel();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let device = scope.spawn(|| {
            let mut count = 0u64;
            while !stop.load(Relaxed) {
                if region.write_obj(count + 1, at).is_ok() {
                    count += 1;
                }
            }
            count
        });
        while region.read_obj::<u64>(at).unwrap() == 0 {
            std::thread::yield_now();
        }

        confine(&guest.machine, &guest.ram).unwrap();

        for _ in 0..50 {
            convert(Side::Private).unwrap();
            convert(Side::Shared).unwrap();
        }
        stop.store(true, Relaxed);
        let count = device.join().unwrap();
        assert_eq!(region.read_obj::<u64>(at).unwrap(), count);
        // A thread that came later is found, too.
        scope.spawn(move || {
            let slice = region.slice(at.0 as usize..at.0 as usize + 8).unwrap();
            held.send(()).unwrap();
            lets_go.recv().unwrap();
            drop(slice);
        });
        is_held.recv().unwrap();
        let refused = Refused {
            page: 1024,
            why: Why::Held {
                guards: 1,
                pages: 1,
            },
        };
        let now = Duration::ZERO;
        assert_eq!(patient(Side::Private, now), Err(Error::Refused(refused)));
        let_go.send(()).unwrap();
    });
    convert(Side::Private).unwrap();

    for (name, way) in &ways {
        assert_eq!(way(), Err(Errno::PERM), "{name}");
    }
    assert_eq!(process::is_dumpable(), Ok(false));
    assert_eq!(process::set_dumpable(true), Err(Errno::PERM));
    // Other threads, too.
    let there = std::thread::spawn(|| process::set_dumpable(true));
    assert_eq!(there.join().unwrap(), Err(Errno::PERM));
    // What is needed goes on.
    guest.convert(0..700, Side::Shared, Contents::Kept).unwrap();
    guest
        .convert(5..900, Side::Private, Contents::Kept)
        .unwrap();
    assert_eq!(vcpu.differs(0, 1024 * PAGE / 8, 77), None);
}
