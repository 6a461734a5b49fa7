//! What the kernel allows a process is used up: a typed error each time, and everything as it was. One test, as
//! limits are the whole process's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guest;

use guest::{Guest, MIB, each, has_driver, kvm, machine};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use std::time::Duration;
use strongroom_guest::backing::{DriverPoison, Plain, Poison};
use strongroom_guest::kvm::Limits;
use strongroom_guest::{Contents, Error, GuestRegion, PAGE, PageState, Side};

const WORDS: usize = PAGE / 8;

/// A device file that has a mode of its own.
const NOT_FOR_ALL: Result<(), Error> = Err(Error::Kernel {
    call: "open(/dev/strongroom)",
    errno: Errno::ACCESS,
});

/// Does something with a lower limit.
fn limited<T>(resource: Resource, most: u64, work: impl FnOnce() -> T) -> T {
    let before = rustix::process::getrlimit(resource);
    let lower = Rlimit {
        current: Some(most),
        ..before
    };
    rustix::process::setrlimit(resource, lower).unwrap();
    let result = work();
    rustix::process::setrlimit(resource, before).unwrap();
    result
}

fn errno<T: std::fmt::Debug>(result: Result<T, Error>) -> Errno {
    match result {
        Err(Error::Kernel { errno, .. }) => errno,
        other => panic!("{other:?}"),
    }
}

/// No descriptor is left: neither memory nor the processor that moves contents can be had.
fn no_descriptors() {
    // A limit of none: those that are open stay.
    let plain = limited(Resource::Nofile, 0, || Plain::new(MIB));
    assert_eq!(errno(plain), Errno::MFILE);
    let poison = limited(Resource::Nofile, 0, || Poison::new(MIB));
    assert_eq!(errno(poison), Errno::MFILE);
    if has_driver() {
        let hidden = limited(Resource::Nofile, 0, || DriverPoison::new(MIB));
        assert_eq!(errno(hidden), Errno::MFILE);
    }
    each(2 * MIB, Limits::default(), |name, guest| {
        let mut vcpu = guest.processor(0);
        vcpu.fill(0, 8 * WORDS, 5);
        let convert = |contents| guest.convert(0..8, Side::Private, contents);
        let result = limited(Resource::Nofile, 0, || convert(Contents::Kept));
        if name.ends_with("poison") {
            // They move nothing.
            assert_eq!(result, Ok(()));
        } else {
            assert_eq!(errno(result), Errno::MFILE, "{name}");
            let shared = PageState::Shared { guards: 0 };
            assert_eq!(guest.region().state(0), Some(shared), "{name}");
            assert_eq!(vcpu.differs(0, 8 * WORDS, 5), None, "{name}");
            // With descriptors, it goes on.
            convert(Contents::Kept).unwrap();
        }
        assert_eq!(vcpu.differs(0, 8 * WORDS, 5), None, "{name}");
    });
}

/// Of a thread without privilege, past RLIMIT_MEMLOCK. User numbers are each thread's own, for the kernel.
fn no_locked_memory() {
    let region = GuestRegion::new(0, Plain::new(MIB).unwrap()).unwrap();
    let lock = || {
        // SAFETY: this thread's alone, which ends.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) };
        assert!(result == 0 || rustix::process::geteuid().as_raw() != 0);
        region.lock(0..MIB)
    };
    let result = limited(Resource::Memlock, 16 * PAGE as u64, || {
        std::thread::scope(|scope| scope.spawn(lock).join().unwrap())
    });
    assert_eq!(errno(result), Errno::NOMEM);
    // The control: of as much as may be.
    let result = limited(Resource::Memlock, MIB as u64, || {
        std::thread::scope(|scope| scope.spawn(lock).join().unwrap())
    });
    assert_eq!(result, Ok(()));
    if !has_driver() {
        return;
    }
    drop(region);
    // The driver's counts as locked from the beginning, and two mappings of it once.
    let new = |len: usize| {
        move || {
            // SAFETY: as above.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) };
            assert!(result == 0 || rustix::process::geteuid().as_raw() != 0);
            DriverPoison::new(len).map(|backing| drop(GuestRegion::new(0, backing).unwrap()))
        }
    };
    for (len, expected) in [(MIB + PAGE, Some(Errno::AGAIN)), (MIB, None)] {
        let result = limited(Resource::Memlock, MIB as u64, || {
            std::thread::scope(|scope| scope.spawn(new(len)).join().unwrap())
        });
        match expected {
            _ if result == NOT_FOR_ALL => eprintln!("not here: the device is not for everybody"),
            Some(expected) => assert_eq!(errno(result), expected),
            None => assert_eq!(result, Ok(())),
        }
    }
}

/// No addresses are left.
fn no_memory() {
    let size = 1 << 40;
    let most = 64 << 30;
    assert_eq!(
        errno(limited(Resource::As, most, || Plain::new(size))),
        Errno::NOMEM
    );
    assert_eq!(
        errno(limited(Resource::As, most, || Poison::new(size))),
        Errno::NOMEM
    );
    // The states of a region's pages as well: a GiB of them.
    let plain = Plain::new(size).unwrap();
    let region = limited(Resource::As, 1 << 20, || GuestRegion::new(0, plain));
    assert_eq!(errno(region.map(drop)), Errno::NOMEM);
}

/// All slots are in use.
fn no_slots() {
    let Some(kvm) = kvm() else { return };
    let vm = machine(&kvm, 0, Some(2)).unwrap();
    // One is the stub's.
    let guest = Guest::new(&kvm, vm, Plain::new(MIB).unwrap(), Limits::default());
    let another = GuestRegion::new(8 << 30, Plain::new(MIB).unwrap()).unwrap();
    let exhausted = Err(Error::SlotsExhausted { most: 2 });
    assert_eq!(another.place(&guest.machine), exhausted);
    let patience = Duration::ZERO;
    let convert = another.convert(0..PAGE, Side::Shared, Contents::Kept, patience);
    assert_eq!(convert, Ok(()));
    let mut vcpu = guest.processor(0);
    vcpu.fill(0, WORDS, 5);
    assert_eq!(vcpu.differs(0, WORDS, 5), None);
}

#[test]
fn a_limit_that_is_met_is_an_error_and_changes_nothing() {
    no_descriptors();
    no_locked_memory();
    no_memory();
    no_slots();
}
