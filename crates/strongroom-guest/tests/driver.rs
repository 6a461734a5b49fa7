//! Guests in the kernel driver's memory: where /dev/strongroom and KVM are (`cargo xtask driver test`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guest;

use guest::{Guest, MIB, address, kvm, machine, skipped};
use rustix::io::Errno;
use strongroom_core::driver::DEVICE;
use strongroom_core::{Protection, Protections, Reason};
use strongroom_guest::backing::{Driver, Limit};
use strongroom_guest::kvm::Limits;
use strongroom_guest::{Backing, Contents, Error, PAGE, Side};
use vm_memory::{Bytes, GuestAddress};

const WORDS: usize = PAGE / 8;

/// The backing, where the driver is; otherwise it says that the test is skipped.
fn driver(len: usize) -> Option<Driver> {
    if std::path::Path::new(DEVICE).exists() {
        return Some(Driver::new(len).unwrap());
    }
    let error = Driver::new(len).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Kernel {
                errno: Errno::NOENT,
                ..
            }
        ),
        "{error}"
    );
    // `cargo xtask test` runs them in a virtual machine, too.
    if std::env::var_os("STRONGROOM_DRIVER_ELSEWHERE").is_none() {
        skipped("the driver is not loaded");
    }
    None
}

fn state(name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/sys/class/misc/strongroom/{name}")).unwrap();
    text.trim().parse().unwrap()
}

#[test]
fn guest_and_monitor_see_the_same_pages() {
    let Some(kvm) = kvm() else { return };
    let len = 4 * MIB;
    let Some(backing) = driver(len) else { return };
    let entries = (state("huge_entries"), state("small_entries"));
    let host = backing.host() as usize;
    let guest = Guest::new(
        &kvm,
        machine(&kvm, 0, None).unwrap(),
        backing,
        Limits::default(),
    );
    let mut vcpu = guest.processor(0);
    let pages = len / PAGE;
    // Zero at first, by the guest's eyes; then what each writes, the other reads.
    assert_eq!(vcpu.read(0, 0), Ok(0));
    assert_eq!(vcpu.read(pages - 1, 4088), Ok(0));
    vcpu.fill(0, pages * WORDS, 0x5eed_0000);
    let mut word = [0; 8];
    for page in [0, 1, 511, 512, pages - 1] {
        guest
            .ram
            .read_slice(&mut word, GuestAddress(address(page)))
            .unwrap();
        let expected = 0x5eed_0000 + (page * WORDS) as u64;
        assert_eq!(u64::from_ne_bytes(word), expected, "page {page}");
    }
    let bytes: Vec<u8> = (0..WORDS as u64)
        .flat_map(|word| (77 + word).to_ne_bytes())
        .collect();
    guest
        .ram
        .write_slice(&bytes, GuestAddress(address(513)))
        .unwrap();
    assert_eq!(vcpu.differs(513, WORDS, 77), None);
    // Two processors count on the same pages.
    let mut other = guest.processor(1);
    vcpu.fill(0, WORDS, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(other.count(2, 1, 0x5eed_0400..0x5eed_0500, 0), None));
        assert_eq!(vcpu.count(4, 1, 0x5eed_0800..0x5eed_0900, 0), None);
    });
    // The kernel mapped it whole.
    assert_eq!(host % (2 * MIB), 0);
    assert_eq!(state("small_entries"), entries.1);
    assert!(state("huge_entries") >= entries.0 + 2);
}

#[test]
fn nobody_but_the_monitor_reads_it_and_nothing_is_left() {
    let Some(kvm) = kvm() else { return };
    let Some(backing) = driver(2 * MIB) else {
        return;
    };
    let receipt = backing.receipt();
    let asked = receipt.asked();
    assert_eq!(asked.difference(receipt.held()), Protections::NO_VMM);
    assert_eq!(
        receipt.missing().collect::<Vec<_>>(),
        [(Protection::NoVmm, Reason::GuestSteered)]
    );
    assert_eq!(backing.limits(), [Limit::NothingPrivate]);
    let guest = Guest::new(
        &kvm,
        machine(&kvm, 0, None).unwrap(),
        backing,
        Limits::default(),
    );
    let mut vcpu = guest.processor(0);
    vcpu.fill(0, WORDS, 0x1234_5678);
    let backing = guest.region().backing();
    let host = backing.host();
    // Not by the kernel on the process's behalf, and not by a pin; the monitor itself reads it.
    let mut bytes = [0; 64];
    let own = strongroom_sys::process::id();
    let read = strongroom_sys::peek::vm_read(own, host as usize, &mut bytes);
    assert_eq!(read, Err(Errno::FAULT));
    assert_eq!(bytes, [0; 64]);
    // SAFETY: the first word of the region, which lives.
    assert_eq!(unsafe { host.cast::<u64>().read_volatile() }, 0x1234_5678);
    // There are no private pages, and who asks for one is told so.
    let error = guest
        .convert(0..1, Side::Private, Contents::Kept)
        .unwrap_err();
    assert_eq!(error, Error::NeverPrivate("driver"));
    // Discarded pages are zero for both; those beside them stay.
    vcpu.fill(1, WORDS, 9);
    guest.region().discard(0..PAGE).unwrap();
    assert_eq!(vcpu.read(0, 0), Ok(0));
    assert_eq!(vcpu.differs(1, WORDS, 9), None);
    let held = state("held");
    drop((vcpu, guest));
    assert!(state("held") <= held - 2 * MIB as u64);
}

#[test]
fn a_pool_that_is_full_says_so_at_once() {
    let Some(_small) = driver(PAGE) else { return };
    let most = state("total") as usize + PAGE;
    let error = Driver::new(most).unwrap_err();
    let Error::Kernel { errno, .. } = error else {
        panic!("{error}")
    };
    assert!(
        [Errno::NOMEM, Errno::AGAIN, Errno::DQUOT].contains(&errno),
        "{error}"
    );
    assert!(matches!(Driver::new(5), Err(Error::Misaligned(5))));
}
